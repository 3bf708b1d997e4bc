"""Windows and leave-one-subject-out folds.

A window is a sequence of `T` sample indices of a recording. Nothing is copied: the signals stay on
the training device, and a batch of windows indexes them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data import ALL, Recording, find_subject
from common.files import InputError, shorten

PROTOCOLS = ("paper", "strict")
CHUNK = 256  # windows that `precompute` handles at once
STATISTICS_SAMPLES = 100_000

Cut = Callable[..., tuple[np.ndarray, np.ndarray]]
"""A function such as `cut_windows`."""


class Batch(NamedTuple):
    """A batch of windows.

    Attributes:
        inputs: the inputs of the network, `(B, T, C)` each.
        targets: `(B, T, K)`.
        cached: the entries of `Windows.cached` for these windows.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    cached: tuple[Tensor, ...]


class Windows:
    """Windows of signals; `windows[indices]` is a `Batch`.

    Attributes:
        signals: `(samples, C)` each, on the training device.
        samples: `(windows, T)` sample indices.
        is_scored: `(windows, T)`, False where a sample is repeated to fill a window.
        inputs: precomputed inputs, `(windows, ...)` each; if empty, the inputs are cut from
            `signals`.
        cached: precomputed tensors for the loss, `(windows, ...)` each.
    """

    def __init__(
        self,
        signals: Sequence[Tensor],
        targets: Tensor,
        samples: np.ndarray | Tensor,
        is_scored: np.ndarray | Tensor | None = None,
    ) -> None:
        self.signals, self._targets = tuple(signals), targets
        self.samples = torch.as_tensor(samples, device=targets.device)
        is_scored = np.ones(samples.shape, bool) if is_scored is None else is_scored
        self.is_scored = torch.as_tensor(is_scored, device=targets.device)
        self.inputs: tuple[Tensor, ...] = ()
        self.cached: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: Tensor) -> Batch:
        samples = self.samples[indices]
        inputs = tuple(values[indices] for values in self.inputs)
        return Batch(
            inputs or tuple(signal[samples] for signal in self.signals),
            self._targets[samples],
            tuple(values[indices] for values in self.cached),
        )

    @property
    def targets(self) -> Tensor:
        """The targets of all windows, `(windows, T, K)`."""
        return self._targets[self.samples]

    def batches(self, size: int) -> list[Tensor]:
        """Return the indices of all windows in order, `size` at a time."""
        return list(torch.arange(len(self), device=self.samples.device).split(size))

    def with_signals(self, signals: Sequence[Tensor]) -> Windows:
        """Return windows of the same samples, cut from other signals, `(samples, C)` each."""
        other = copy.copy(self)
        other.signals, other.inputs, other.cached = tuple(signals), (), ()
        return other


@torch.no_grad()
def precompute(
    function: Callable[..., Tensor | tuple[Tensor, ...]], windows: Windows
) -> tuple[Tensor, ...]:
    """Return the outputs of `function` on the inputs of all windows, `(windows, ...)` each.

    Args:
        function: a network, or a function of one tensor `(B, T, C)` per modality.
        windows: the windows, processed in chunks to limit memory use.
    """
    results: list[Tensor] = []
    for indices in windows.batches(CHUNK):
        outputs = function(*windows[indices].inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        if not results:
            results = [values.new_empty(len(windows), *values.shape[1:]) for values in outputs]
        for result, values in zip(results, outputs, strict=True):
            result[indices] = values
    return tuple(results)


class Fold(NamedTuple):
    """Training, validation and test windows with one subject held out.

    In `test`, every sample of the test subject is scored once (`Windows.is_scored`), except that
    windows of `strict` skip stretches shorter than a window.
    """

    test_subject: str
    train: Windows
    validation: Windows
    test: Windows


def make_fold(
    recording: Recording,
    signals: Sequence[Tensor],
    test_subject: str,
    window: int,
    protocol: str,
    seed: int,
    cut: Cut | None = None,
) -> Fold:
    """Hold out one subject for testing and 20 % of the rest for validation.

    Args:
        recording: all subjects.
        signals: the inputs of the network, `(samples, C)` each.
        test_subject: id of the held-out subject.
        window: samples per window, T.
        protocol: `paper`: windows of one stream of all training subjects, 20 % of the windows
            drawn at random (scikit-learn, random state 1) for validation. `strict`: windows
            within a trial or step, 20 % of the training subjects (at least one) for validation;
            the test windows also cover the end of each stretch.
        seed: seed for drawing the validation subjects of `strict`.
        cut: function that cuts the windows; None for `cut_windows`.
    """
    cut = cut or cut_windows
    training = [subject for subject in recording.subjects if subject != test_subject]
    if protocol == "paper":
        from sklearn.model_selection import train_test_split  # slow to import

        windows, is_scored = cut(recording, training, window, protocol)
        split = train_test_split(windows, is_scored, test_size=0.2, random_state=1)
        train, validation = split[0::2], split[1::2]
    else:
        held_out = draw_validation_subjects(training, seed)
        rest = [subject for subject in training if subject not in held_out]
        train = cut(recording, rest, window, protocol)
        validation = cut(recording, held_out, window, protocol)
    test = cut(recording, [test_subject], window, protocol, cover_tails=True)
    targets = recording.samples["targets"]
    return Fold(
        test_subject, *(Windows(signals, targets, *part) for part in (train, validation, test))
    )


def sensor_statistics(windows: Windows, sensors: Sequence[str]) -> dict[str, dict[str, list]]:
    """Return mean and covariance of every IMU, by which its mounting is recognized later.

    Args:
        windows: the training windows; their signals start with all accelerometers and gyroscopes.
        sensors: names of the IMUs, in the order of the signals.

    Returns:
        Sensor -> `mean` (6) and `covariance` (6 x 6) of its accelerometer and gyroscope, from at
        most `STATISTICS_SAMPLES` samples spread over the windows.
    """
    samples = windows.samples[windows.is_scored]
    samples = samples[:: len(samples) // STATISTICS_SAMPLES + 1]
    signals = torch.cat([signal[samples] for signal in windows.signals], dim=-1)
    axes = signals[:, : 6 * len(sensors)].double().unflatten(1, (2, len(sensors), 3))
    found = {}
    for i, sensor in enumerate(sensors):
        values = axes[:, :, i].flatten(1)
        parts = {"mean": values.mean(dim=0), "covariance": values.T.cov(correction=0)}
        found[sensor] = {name: part.tolist() for name, part in parts.items()}
    return found


def draw_validation_subjects(training: Sequence[str], seed: int) -> list[str]:
    """Draw 20 % of the training subjects, at least one."""
    count = max(1, round(0.2 * len(training)))
    return np.random.default_rng(seed).permutation(training)[:count].tolist()


def cut_windows(
    recording: Recording,
    subjects: Sequence[str],
    window: int,
    protocol: str,
    cover_tails: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the samples of `subjects`, in the order of the recording, into windows.

    Args:
        recording: all subjects.
        subjects: ids of the subjects to use.
        window: samples per window, T.
        protocol: `paper` or `strict`.
        cover_tails: whether `strict` also covers incomplete tails, as needed for testing.

    Returns:
        Sample indices `(windows, T)`, and a mask that is False for repeated samples.
    """
    chosen = [recording.subjects.index(subject) for subject in subjects]
    samples = np.flatnonzero(np.isin(recording.subject, chosen))
    if protocol == "paper":
        return cut_stream(samples, window)
    return cut_stretches(samples, recording.stretch[samples], window, cover_tails)


def cut_stream(samples: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut one stream of samples every `window` samples (protocol `paper`).

    If `b` samples are left over, the last `window - b` samples of the stream are appended again to
    fill a last window. Windows may cross steps, trials and subjects, as in the published
    evaluation. Returns the same as `cut_windows`.
    """
    left_over = len(samples) % window
    is_first = np.ones(len(samples), bool)
    if left_over:
        repeated = samples[-(window - left_over) :]
        samples = np.concatenate([samples, repeated])
        is_first = np.concatenate([is_first, np.zeros(len(repeated), bool)])
    return samples.reshape(-1, window), is_first.reshape(-1, window)


def cut_stretches(
    samples: np.ndarray, stretch: np.ndarray, window: int, cover_tails: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each stretch separately (protocol `strict`); return the same as `cut_windows`.

    Args:
        samples: `(n,)` sample indices.
        stretch: `(n,)` stretch of each sample; the samples of a stretch are adjacent.
        window: samples per window, T.
        cover_tails: whether an incomplete tail is covered by a last window that ends with the
            stretch and overlaps the window before, instead of being left out.
    """
    bounds = np.flatnonzero(np.diff(stretch, prepend=-1, append=-1))
    starts, overlaps = [np.empty(0, int)], [np.empty(0, int)]
    for start, stop in pairwise(bounds):
        cuts = np.arange(start, stop - window + 1, window)
        tail = (stop - start) % window
        overlap = np.zeros(len(cuts), int)
        if cover_tails and tail and len(cuts):
            cuts, overlap = np.append(cuts, stop - window), np.append(overlap, window - tail)
        starts.append(cuts)
        overlaps.append(overlap)
    within = np.arange(window)
    is_first = within >= np.concatenate(overlaps)[:, None]
    return samples[np.concatenate(starts)[:, None] + within], is_first


def check_windows(recording: Recording, window: int, protocol: str) -> None:
    """Check that there are enough subjects and that each has a full window.

    Raises:
        InputError: A subject has no full window, there are too few windows for training and
            validation, or `strict` has fewer than three subjects.
    """
    if protocol == "strict" and len(recording.subjects) < 3:
        raise InputError(
            f"{recording.path}: {len(recording.subjects)} subjects, but --protocol strict needs at "
            "least 3 (training, validation, test); use --protocol paper or add subjects"
        )
    counts = np.bincount(recording.subject, minlength=len(recording.subjects))
    for subject, count in zip(recording.subjects, counts, strict=True):
        if count < window or not len(cut_windows(recording, [subject], window, protocol)[0]):
            problem = f"no full window of {window} in {count} usable samples"
            raise InputError(
                f"{recording.path}: subject {subject}: {problem}; remove the subject from the file"
            )
    if protocol == "paper" and counts.sum() - counts.max() <= window:
        problem = "only one window for training and validation together"
        raise InputError(f"{recording.path}: {problem}; add subjects")


def choose_subjects(recording: Recording, wanted: Sequence[str] | None) -> list[str]:
    """Return the ids of the test subjects.

    Args:
        recording: all subjects.
        wanted: ids (`7` matches `07`), `["all"]`, or None for the last subject.

    Raises:
        InputError: The file has no such subject.
    """
    if wanted is None:
        return recording.subjects[-1:]
    if list(wanted) == [ALL]:
        return list(recording.subjects)
    found = {name: find_subject(recording.subjects, name) for name in wanted}
    unknown = [shorten(name, 60) for name, subject in found.items() if subject is None]
    if unknown:
        choices = f"for --test-subjects, choose from {' '.join(recording.subjects)}, or `all`"
        raise InputError(f"{recording.path}: no subject {', '.join(unknown)}; {choices}")
    return list(dict.fromkeys(found.values()))
