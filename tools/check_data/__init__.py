"""The command `python -m tools.check_data`.

`layout` describes the two datasets and reads their files subject by subject, `checks` looks for
values that cannot be right, and `strides` draws the average stride.
"""
