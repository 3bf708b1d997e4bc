"""Helpers shared by all scripts; nothing here is part of the paper's method."""

import contextlib
import os

from common import interrupt

interrupt.catch_in_imports()

# Importing matplotlib fails if MPLBACKEND names a backend that is not installed here, as in a
# notebook's `!python ...`, which inherits it. The figures of this project need no backend.
_backend = os.environ.pop("MPLBACKEND", None)
import matplotlib as mpl  # noqa: E402

if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        mpl.rcParams["backend"] = _backend
