"""A trained streaming network that estimates sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from common.files import InputError
from tools.trained import Trained, channel_names, load_trained


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
        trained: a streaming network.

    Attributes:
        trained: the network, with its script and row.
        column_names: the values of a sample, in order.
        sizes: modality -> number of its values, in the same order.
        targets: names and units of the targets.
        rate_hz: sampling rate that the network expects.
        lookahead: samples by which an estimate lags.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        channels = channel_names(trained.script, trained.sensor_set)
        self.sizes = {modality: len(names) for modality, names in channels.items()}
        self.column_names = [name for names in channels.values() for name in names]
        self.targets = trained.script.TARGETS
        self.rate_hz = trained.script.RATE_HZ
        self.lookahead = trained.lookahead
        self._pushed = 0
        self.reset()

    @classmethod
    def load(cls, path: str | Path) -> Stream:
        """Load the network of a checkpoint.

        Raises:
            InputError: It cannot be used, or its network reads windows.
        """
        trained = load_trained(Path(path))
        if trained.lookahead is None:
            raise InputError(
                f"{path}: {trained.row.name} reads whole windows, not a stream; use a checkpoint "
                "of a row such as streaming-foot, or tools.predict"
            )
        return cls(trained)

    def reset(self) -> None:
        """Start from a zero state, as after a gap; the next `lookahead` samples get no estimate."""
        self._state: tuple[torch.Tensor, ...] | None = None
        self._since_reset = 0

    @torch.inference_mode()
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
        modalities = torch.tensor(values)[None, None].split([*self.sizes.values()], dim=-1)
        output, self._state = self.trained.stream(*modalities, state=self._state)
        self._pushed += 1
        self._since_reset += 1
        if self._since_reset <= self.lookahead:
            return None
        return Estimate(self._pushed - 1 - self.lookahead, output[0, 0].numpy())
