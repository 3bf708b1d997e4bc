"""The command `python -m tools.fine_tune`.

`data` splits a recording into the part to train on and the rest; `tuning` trains and tests.
"""
