"""`python -m tools.stream` estimates live: a line of samples in, an estimate out.

`stream` is the class for programs of your own; `lines` reads the lines and notices gaps.
"""
