"""The command `python -m tools.check_data`.

`layout` describes the datasets and reads their files subject by subject, `checks` looks for
implausible values, and `stances` draws the average stance.
"""
