"""Kinetics-FM networks small enough for tests: 254 million parameters a row are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import Dataset_A_kinetics_fm_models as script_a
import Dataset_B_kinetics_fm_models as script_b

NARROW = {
    "KineticsFMNet": {"hidden_sizes": (6, 4)},
    "Conv1DEncoder": {"maps": (4, 5, 6, 7)},
    "Conv2DEncoder": {"maps": (4, 5, 6, 7)},
}


@contextmanager
def narrow_networks() -> Iterator[None]:
    """Make the default sizes of both scripts' networks small; what they do stays."""
    with pytest.MonkeyPatch.context() as patch:
        for script in (script_a, script_b):
            for name, sizes in NARROW.items():
                defaults = getattr(script, name).__init__.__kwdefaults__
                for argument, size in sizes.items():
                    patch.setitem(defaults, argument, size)
        yield
