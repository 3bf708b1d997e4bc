"""Predict a recording, in overlapping windows or as a stream, or repeat the test of the run."""

from __future__ import annotations

import timeit
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from common import training
from common.data import Recording
from common.files import InputError
from common.training import predict_stream
from common.windows import PROTOCOLS, Windows, cut_filled, cut_sequences, cut_windows
from tools.plausibility import percentile
from tools.predict.recording import STRETCH, TIME, Samples, choose_subject
from tools.predict.sensors import find_doubts
from tools.trained import Trained

BATCH_SIZE = 64
SEQUENCE = 500  # samples of a stream that are predicted at once
WARM_UP_CALLS, TIMED_CALLS = 3, 10
TIMED_SAMPLES = 100  # of a stream
MAX_THREADS = 1024
OTHER_UNIT = 20.0  # times the estimates: newtons are 500 times body weights


class Prediction(NamedTuple):
    """The prediction for every sample of a recording.

    Attributes:
        labels: a line per sample: where it comes from, and its time.
        stretch: `(samples,)` number of its stretch, -1 for none.
        prediction: `(samples, K)` float32, NaN where nothing can be predicted.
        truth: `(samples, K)` measured targets, NaN where there are none.
        delay: the delay of a live estimate, in a sentence; empty for a repeated test.
        warnings: doubts about the sensors.
    """

    labels: pd.DataFrame
    stretch: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    delay: str = ""
    warnings: Sequence[str] = ()


# A new recording ----------------------------------------------------------------------------------


def predict_recording(
    trained: Trained, path: Path, samples: Samples, hop: int, device: torch.device
) -> Prediction:
    """Predict every stretch of a recording that is at least as long as a window.

    A streaming network predicts every stretch from a cold start, up to its last samples, whose
    estimates would come after its end. Prints what is left out, what is implausible, and the delay
    of a live estimate.

    Args:
        trained: the network, on `device`.
        path: the file of the recording, for errors.
        samples: the recording.
        hop: samples from one window to the next; without effect on a streaming network.
        device: device of the network.

    Raises:
        InputError: Nothing can be predicted, or the output of the network is not finite.
    """
    script, stretch, late = trained.script, samples.stretch, trained.lookahead
    signals = [signal.to(device) for signal in trained.inputs(samples.values)]
    is_predicted = np.zeros(len(stretch), bool)
    if late is None:
        windows = Windows(
            signals,
            samples.values["targets"].to(device),
            overlapping_windows(stretch, script.WINDOW, hop),
        )
        is_predicted[windows.samples.cpu().numpy()] = True
    else:
        is_predicted = is_estimated_in_time(stretch, late)
    _report_left_out(path, trained, stretch, is_predicted)
    warnings = find_doubts(trained, samples)
    for warning in warnings:
        print(f"WARNING: {warning}")
    if late is None:
        delay, prediction = _describe_delay(trained, windows, hop), blend(trained, windows)
    else:
        delay = _describe_delay_of_stream(trained, signals)
        prediction = predict_stretches(trained, signals, stretch)
    if np.isnan(prediction[is_predicted]).any():
        raise InputError(
            f"{path}: the output of the network is not finite; its training diverged, or the "
            "values are far too large: check the units"
        )
    print(delay)
    truth = samples.values["targets"].numpy()
    for warning in _compare_sizes(trained, prediction, truth):
        print(f"WARNING: {warning}")
        warnings.append(warning)
    return Prediction(samples.labels, samples.stretch, prediction, truth, delay, warnings)


def overlapping_windows(stretch: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Cut every stretch that is long enough into windows; the last one ends with the stretch.

    Args:
        stretch: `(samples,)` number of the stretch, increasing; -1 for samples in none.
        window: samples per window, T.
        hop: samples from one window to the next, at most `window`.

    Returns:
        Sample numbers `(windows, T)`.
    """
    bounds = np.flatnonzero(np.diff(stretch, prepend=-1, append=-1))
    starts: list[int] = []
    for start, stop in pairwise(bounds.tolist()):
        last = stop - window
        if stretch[start] >= 0 and last >= start:
            starts += [*range(start, last, hop), last]
    return np.array(starts, np.int64)[:, None] + np.arange(window)


def blending_weights(window: int) -> Tensor:
    """Return the weights `(T,)` of a window's samples, float64, above 0 and lowest at its ends."""
    middle = torch.arange(window, dtype=torch.float64) + 0.5
    return torch.sin(torch.pi * middle / window) ** 2


def blend(trained: Trained, windows: Windows) -> np.ndarray:
    """Return the prediction `(samples, K)` float32, a weighted mean over the windows of a sample.

    A sample in one window has the prediction of that window, a sample in none has NaN.
    """
    samples, targets = len(windows.signals[0]), len(trained.script.TARGETS)
    total = torch.zeros(samples, targets, dtype=torch.float64)
    weight = torch.zeros(samples, dtype=torch.float64)
    weights = blending_weights(windows.samples.shape[1])
    for numbers, predicted in _predict_batches(trained, windows, BATCH_SIZE):
        total.index_add_(0, numbers.flatten(), (weights[:, None] * predicted).flatten(0, 1))
        weight.index_add_(0, numbers.flatten(), weights.repeat(len(numbers)))
    return (total / weight[:, None]).float().numpy()  # 0 / 0 is NaN


@torch.no_grad()
def _predict_batches(
    trained: Trained, windows: Windows, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield sample numbers `(B, T)` and predictions `(B, T, K)` on the CPU, batch by batch."""
    with tqdm(total=len(windows), unit="window", leave=False, disable=None) as bar:
        for indices in windows.batches(batch_size):
            predicted = trained.network(*windows[indices].inputs)
            yield windows.samples[indices].cpu(), predicted.cpu()
            bar.update(len(indices))


def is_estimated_in_time(stretch: np.ndarray, lookahead: int) -> np.ndarray:
    """Return which samples a streaming network estimates before the end of their stretch.

    Args:
        stretch: `(samples,)` number of the stretch; -1 for samples in none.
        lookahead: samples by which the estimate is late.
    """
    when_estimated = np.append(stretch, np.full(lookahead, -1))[lookahead:]
    return (stretch >= 0) & (when_estimated == stretch)


def predict_stretches(
    trained: Trained, signals: Sequence[Tensor], stretch: np.ndarray
) -> np.ndarray:
    """Return the prediction `(samples, K)` float32 of a streaming network, NaN where there is none.

    Args:
        trained: the network.
        signals: its inputs, `(samples, C)` each.
        stretch: `(samples,)` number of the stretch, increasing; -1 for samples in none.
    """
    samples = np.flatnonzero(stretch >= 0)
    sequences = Windows(signals, signals[0], *cut_filled(samples, stretch[samples], SEQUENCE))
    predicted, is_estimated = predict_stream(trained.network, sequences, stretch)
    prediction = torch.full((len(stretch), predicted.shape[-1]), torch.nan)
    prediction[sequences.samples[is_estimated].cpu()] = predicted[is_estimated].cpu()
    return prediction.numpy()


def _report_left_out(
    path: Path, trained: Trained, stretch: np.ndarray, is_predicted: np.ndarray
) -> None:
    """Print how many samples cannot be predicted, and why.

    Raises:
        InputError: None can be predicted.
    """
    samples, window, rate_hz = len(stretch), trained.script.WINDOW, trained.script.RATE_HZ
    incomplete = int((stretch < 0).sum())
    short = samples - incomplete - int(is_predicted.sum())
    late, reasons = trained.lookahead, []
    if short and late is None:
        reasons.append(
            f"{short:,} are in stretches shorter than a window of {window} samples "
            f"({window / rate_hz:g} s)"
        )
    elif short:
        reasons.append(
            f"{short:,} are among the last {late} samples ({late / rate_hz:g} s) of a stretch, "
            "whose estimates come after its end"
        )
    if incomplete:
        reasons.append(f"{incomplete:,} lack a value that the network reads")
    if not is_predicted.any():
        raise InputError(
            f"{path}: none of {samples:,} samples can be predicted: "
            f"{'; '.join(reasons) or 'it is empty'}; supply a longer recording"
        )
    print(f"Samples: {samples:,}, {samples / rate_hz:,.1f} s")
    if reasons:
        print(f"NOTICE: not predicted, and left empty: {'; '.join(reasons)}")


@torch.no_grad()
def _describe_delay(trained: Trained, windows: Windows, hop: int) -> str:
    """Return how late a live estimate would be at most."""
    one_window = windows[torch.zeros(1, dtype=torch.int64)].inputs
    computation_s = _median_s(lambda: trained.network(*one_window), TIMED_CALLS)
    rate_hz = trained.script.RATE_HZ
    return (
        f"Delay of a live estimate: at most window {trained.script.WINDOW / rate_hz:g} s + hop "
        f"{hop / rate_hz:g} s + computation {computation_s:.2g} s (median of {TIMED_CALLS} warm "
        "calls, one CPU thread)"
    )


@torch.no_grad()
def _describe_delay_of_stream(trained: Trained, signals: Sequence[Tensor]) -> str:
    """Return how late a live estimate of a streaming network would be."""
    one_sample = [signal[None, :1] for signal in signals]
    _, state = trained.stream(*one_sample)
    computation_s = _median_s(lambda: trained.stream(*one_sample, state=state)[0], TIMED_SAMPLES)
    return (
        f"Delay of a live estimate: lookahead {trained.lookahead / trained.script.RATE_HZ:g} s + "
        f"computation {computation_s:.2g} s per sample (median of {TIMED_SAMPLES} warm calls, one "
        "CPU thread)"
    )


def _median_s(compute: Callable[[], Tensor], calls: int) -> float:
    """Return the median time of a computation and its way to the CPU, on one thread, in s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = timeit.repeat(lambda: compute().cpu(), number=1, repeat=WARM_UP_CALLS + calls)
    torch.set_num_threads(threads)
    return float(np.median(seconds[WARM_UP_CALLS:]))


def _compare_sizes(trained: Trained, prediction: np.ndarray, truth: np.ndarray) -> Iterator[str]:
    """Yield the targets whose measured values must have another unit than the estimates."""
    for k, target in enumerate(trained.script.TARGETS):
        sizes = [percentile(np.abs(values[:, k]), 99) for values in (truth, prediction)]
        if sizes[0] > OTHER_UNIT * sizes[1]:  # False for NaN
            yield (
                f"{target.name}: measured values are {sizes[0] / sizes[1]:.0f} times as large as "
                f"the estimates; not in {target.unit}? Then its NRMSE means nothing"
            )


# The test of the run ------------------------------------------------------------------------------


def predict_as_tested(
    checkpoint: Path, trained: Trained, path: Path, subject: str | None, device: torch.device
) -> Prediction:
    """Predict a subject in the windows, or streams, of the run's own test: the same numbers.

    Prints whether the data and the predictions are those of the run.

    Args:
        checkpoint: file of the network; the predictions of its run are looked up beside it.
        trained: the network, on `device`.
        path: the data file of the run.
        subject: id of the subject; None for the test subject of the run.
        device: device of the network.

    Raises:
        InputError: The file, the subject or the settings in the checkpoint cannot be used.
    """
    _check_settings(checkpoint, trained.description)
    script, settings = trained.script, trained.description["settings"]
    test_subject = trained.description["test_subject"]
    recording = script.read(path)
    subject = choose_subject(path, recording.subjects, subject or test_subject)
    if recording.digest() != settings["data"]["digest"]:
        print(f"WARNING: {path} holds other samples than the data file of the run")
    threads = settings.get("threads") or torch.get_num_threads()  # none for a run on a GPU
    training.set_up(threads, settings.get("faster", []))
    is_stream = trained.lookahead is not None
    cut, length = (cut_sequences, script.SEQUENCE) if is_stream else (cut_windows, script.WINDOW)
    numbers, is_scored = cut(recording, [subject], length, settings["protocol"], cover_tails=True)
    if not len(numbers):
        raise InputError(f"{path}: subject {subject}: no full window; choose another --subject")
    # PyTorch rounds differently if weights are frozen, or not aligned in memory as in the run.
    weights = {name: weight.clone() for name, weight in trained.network.state_dict().items()}
    trained.network.load_state_dict(weights, assign=True)
    trained.network.requires_grad_()
    values = recording.to(device).samples
    windows = Windows(trained.inputs(values), values["targets"], numbers, is_scored)
    if is_stream:
        predicted, is_estimated = predict_stream(trained.network, windows, recording.stretch)
        prediction, is_scored = predicted.cpu().numpy(), is_estimated.cpu().numpy()
    else:
        batches = _predict_batches(trained, windows, settings["batch_size"])
        prediction = torch.cat([predicted for _, predicted in batches]).numpy()
    prediction, samples = prediction[is_scored], numbers[is_scored]
    if subject == test_subject:
        _compare(checkpoint, prediction)
    return Prediction(
        _label(recording, samples, script.RATE_HZ),
        recording.stretch[samples],
        prediction,
        recording.samples["targets"][samples].numpy(),
    )


def _check_settings(checkpoint: Path, description: Mapping[str, Any]) -> None:
    """Check the settings of a run that the numbers of its test depend on."""
    try:
        settings = description["settings"]
        counts = settings["batch_size"], settings.get("threads") or 1
        is_usable = (
            settings["protocol"] in PROTOCOLS
            and all(type(count) is int and count > 0 for count in counts)
            and counts[1] <= MAX_THREADS
            and isinstance(settings.get("faster", []), list)
            and isinstance(description["test_subject"], str)
            and "digest" in dict(settings["data"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        is_usable = False
    if not is_usable:
        raise InputError(
            f"{checkpoint}: does not say how its run was tested; leave out --as-tested, or use a "
            "checkpoint of this collection"
        )


def _label(recording: Recording, samples: np.ndarray, rate_hz: int) -> pd.DataFrame:
    """Return subject, activity, stretch and time from the start of the stretch, per sample."""
    stretch = recording.stretch[samples]
    first = np.searchsorted(recording.stretch, stretch)
    labels = {"subject": np.array(recording.subjects)[recording.subject[samples]]}
    if any(recording.activities):
        labels["activity"] = np.array(recording.activities)[recording.activity[samples]]
    return pd.DataFrame({**labels, STRETCH: stretch + 1, TIME: (samples - first) / rate_hz})


def _compare(checkpoint: Path, prediction: np.ndarray) -> None:
    """Print how far the prediction is from that of the run, if it lies beside the checkpoint."""
    path = checkpoint.parent.parent / "predictions" / f"{checkpoint.stem}.npz"
    if not path.exists():
        print(f"Not compared with the run: there is no {path}")
        return
    try:
        before = np.load(path)["prediction"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged; delete it, or copy it again") from error
    if before.shape != prediction.shape:
        print(f"WARNING: {path} holds {len(before):,} samples, this test {len(prediction):,}")
    elif np.array_equal(before, prediction):
        print(f"Equal to {path}, bit for bit")
    else:
        print(f"Differs from {path} by at most {np.abs(before - prediction).max():.2g}")
