"""The command `python -m tools.check_data`.

`layout` describes the datasets and reads their files subject by subject, `checks` looks for
implausible values, and `strides` draws the average stride.
"""
