"""The command `python -m tools.report`: tables, statistics and figures of finished runs."""
