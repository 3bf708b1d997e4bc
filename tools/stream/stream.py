"""A trained streaming network that estimates sample by sample, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from common.data import Target
from common.files import InputError, shorten
from tools.checkpoint import check_checkpoint
from tools.stream.streaming_mffm import StreamingMFFM


class Estimate(NamedTuple):
    """The estimate for one sample.

    Attributes:
        sample: number of the sample, counted from 0 at the first one pushed.
        values: `(K,)` in the units of the targets.
    """

    sample: int
    values: np.ndarray


class Stream:
    """Estimates the targets sample by sample; carries the state of the network between calls.

    Args:
        network: the network.
        description: what it reads and estimates, as in its checkpoint.

    Attributes:
        network: the network.
        description: the same.
        column_names: the values of a sample, in order.
        sizes: modality -> number of its values, in the same order.
        targets: names and units of the targets.
        rate_hz: sampling rate that the network expects.
        lookahead: samples by which an estimate lags.
        script: the `DATASET`, `COLUMNS` and `UNITS` of the script that trained the network.
    """

    def __init__(self, network: StreamingMFFM, description: Mapping[str, Any]) -> None:
        self.network, self.description = network, description
        channels = description["channels"]
        self.sizes = {modality: len(names) for modality, names in channels.items()}
        self.column_names = [name for names in channels.values() for name in names]
        self.targets = [Target(**target) for target in description["targets"]]
        self.rate_hz, self.lookahead = description["rate_hz"], network.lookahead
        self.script = SimpleNamespace(
            DATASET=description["script"].removeprefix("Dataset_").split("_")[0],
            COLUMNS=description["columns"],
            UNITS=description["units"],
        )
        self._pushed = 0
        self.reset()

    @classmethod
    def load(cls, path: str | Path) -> Stream:
        """Load the network of a checkpoint; only an older one, or an error, imports PyTorch.

        Raises:
            InputError: It cannot be used, or its network reads windows.
        """
        check_checkpoint(Path(path))
        try:
            network = StreamingMFFM(path)
            network.step(np.zeros(sum(network.channels)))  # all tensors exist and fit
            description = network.description
            if "channels" not in description:  # written by an earlier version
                description = _describe_with_script(Path(path))
            return cls(network, description)
        except InputError:
            raise
        except Exception as error:  # the file may contain anything
            _describe_with_script(Path(path))  # raises a more helpful error
            raise InputError(
                f"{path}: cannot run sample by sample ({shorten(error)}); train the row again"
            ) from error

    def reset(self) -> None:
        """Start from a zero state, as after a gap; the next `lookahead` samples get no estimate."""
        self.network.reset()
        self._since_reset = 0

    def push(self, sample: ArrayLike | Mapping[str, ArrayLike]) -> Estimate | None:
        """Read the next sample; return the estimate for the one `lookahead` samples earlier.

        Args:
            sample: `(C,)` in the order of `column_names`; or modality -> `(3 x sensors,)`. In the
                units of the network's dataset.

        Returns:
            The estimate, or None for the first `lookahead` samples after the start or a reset.

        Raises:
            ValueError: A value is missing or not finite.
        """
        if isinstance(sample, Mapping):
            sample = np.concatenate([np.ravel(sample[modality]) for modality in self.sizes])
        values = np.asarray(sample, dtype=np.float32)
        if values.shape != (len(self.column_names),):
            raise ValueError(
                f"a sample of shape {values.shape}, but the network reads {len(self.column_names)} "
                f"values: {', '.join(self.column_names)}"
            )
        if not np.isfinite(values).all():
            raise ValueError("a sample with NaN or infinity; skip it, and reset after a gap")
        output = self.network.step(values)
        self._pushed += 1
        self._since_reset += 1
        if self._since_reset <= self.lookahead:
            return None
        return Estimate(self._pushed - 1 - self.lookahead, output)


def _describe_with_script(path: Path) -> dict[str, Any]:
    """Return the description of a checkpoint that does not store its columns, from its script.

    Raises:
        InputError: The checkpoint cannot be used; the message says why.
    """
    from tools.trained import channel_names, load_trained  # imports PyTorch

    trained = load_trained(path)
    if trained.lookahead is None:
        raise InputError(
            f"{path}: {trained.row.name} reads whole windows, not a stream; use a checkpoint "
            "of a row such as streaming-foot, or tools.predict"
        )
    script = trained.script
    return {
        **trained.description,
        "targets": [target._asdict() for target in script.TARGETS],
        "columns": script.COLUMNS,
        "units": script.UNITS,
        "channels": channel_names(script, trained.sensor_set),
    }


def is_trained_on_synthetic_data(description: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint describes its data as synthetic."""
    settings = description.get("settings")
    data = settings.get("data") if isinstance(settings, dict) else None
    return isinstance(data, dict) and bool(data.get("synthetic"))
