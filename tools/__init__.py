"""Commands around the scripts; `python -m tools.<folder> --help` describes each."""

import common  # noqa: F401  (before a tool imports matplotlib)
