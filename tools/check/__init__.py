"""What `tools.check_data` is made of.

Read in this order: `layout` (what a file of either dataset holds, in which units), `summary` (what
there is of it), `plausible` (what cannot be right), `strides` and `figure` (what it looks like).
"""
