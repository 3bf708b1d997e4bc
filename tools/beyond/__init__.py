"""Compare streaming students with the paper's windowed ones: `python -m tools.beyond`."""
