"""What `tools.predict` is made of.

Read in this order: `needs` (the columns that a model reads), `recording` (the samples to predict),
`hdf5_file` and `csv_file` (where they come from), `resampling` (a CSV's times), `units`, `blending`
(windows and how they become one curve), `anew` (a new recording), `as_tested` (the run's own test
once more), `result` (what comes of it) and `figure`.
"""
