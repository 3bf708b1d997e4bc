"""Real-time estimation with `python -m tools.stream`: one line per sample in, one estimate out.

`stream` has the class for use in other programs; `lines` parses the lines and fills gaps.
"""
