"""Networks small enough for tests: the real ones have up to 254 million parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

import Dataset_A_kinetics_fm_models as script_a
import Dataset_B_kinetics_fm_models as script_b

NARROW = {
    "FFN": {"hidden_sizes": (16, 12, 8)},
    "HandcraftedFFN": {"hidden_sizes": (16, 12, 8)},
    "BiLSTM": {"hidden_sizes": (6, 4)},
    "LMFN": {"hidden_size": 4, "fused_size": 8, "rank": 2},
    "TFN": {"hidden_size": 4, "size": 3, "fused_size": 8},
    "KineticsMFFMNet": {"hidden_sizes": (6, 4)},
    "AblationNet": {"hidden_sizes": (6, 4)},
    "KineticsFMNet": {"hidden_sizes": (6, 4)},
    "Conv1DEncoder": {"maps": (4, 5, 6, 7)},
    "Conv2DEncoder": {"maps": (4, 5, 6, 7)},
}


@contextmanager
def narrow_networks(*scripts: ModuleType) -> Iterator[None]:
    """Reduce the default layer sizes of a script's networks; everything else stays.

    Args:
        scripts: the scripts; both Kinetics-FM scripts by default.
    """
    with pytest.MonkeyPatch.context() as patch:
        for script in scripts or (script_a, script_b):
            for name, sizes in NARROW.items():
                if hasattr(script, name):
                    defaults = getattr(script, name).__init__.__kwdefaults__
                    for argument, size in sizes.items():
                        patch.setitem(defaults, argument, size)
        yield
