"""`python -m tools.predict` runs a trained network on a recording.

`recording` reads the samples of a file; `sensors` looks for faulty or swapped sensors; `prediction`
runs the network on overlapping windows, or repeats the test of the run; `output` writes the
results.
"""
