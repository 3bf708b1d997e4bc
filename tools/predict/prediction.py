"""Run a network on a recording, in overlapping windows or as a stream, or repeat its run's test."""

from __future__ import annotations

import timeit
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from beyond.sequences import cut_padded, cut_sequences, predict_stream
from common.data import Recording
from common.files import InputError, printable
from common.windows import PROTOCOLS, Windows, cut_windows
from tools.plausibility import percentile
from tools.predict.recording import STRETCH, TIME, Samples, choose_subject
from tools.predict.sensors import check_sensors
from tools.trained import Trained

BATCH_SIZE = 64
SEQUENCE = 500  # samples of a stream that the network reads at once
WARM_UP_CALLS, TIMED_CALLS = 3, 10
TIMED_SAMPLES = 100  # of a stream
MAX_THREADS = 1024
UNIT_MISMATCH_RATIO = 20.0  # measured to estimated; newtons are 500 times body weights


class Prediction(NamedTuple):
    """The estimates for every sample of a recording.

    Attributes:
        labels: a line per sample: its source and its time.
        stretch: `(samples,)` number of its stretch, -1 for none.
        prediction: `(samples, K)` float32, NaN where nothing can be estimated.
        truth: `(samples, K)` measured targets, NaN where there are none.
        latency: the latency of a live estimate, in a sentence; empty for a repeated test.
        warnings: warnings about sensors and units.
    """

    labels: pd.DataFrame
    stretch: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    latency: str = ""
    warnings: Sequence[str] = ()


# A new recording ----------------------------------------------------------------------------------


def predict_recording(
    trained: Trained, path: Path, samples: Samples, hop: int, device: torch.device
) -> Prediction:
    """Run a network on every stretch of a recording that is at least as long as a window.

    A streaming network starts each stretch from a zero state; the last samples of a stretch get no
    estimate, because it would come after its end. Prints what is left out, what is implausible, and
    the latency of a live estimate.

    Args:
        trained: the network, on `device`.
        path: the file of the recording, for errors.
        samples: the recording.
        hop: samples from one window to the next; without effect on a streaming network.
        device: device of the network.

    Raises:
        InputError: Nothing can be estimated, or the output of the network is not finite.
    """
    signals = [signal.to(device) for signal in trained.inputs(samples.values)]
    if trained.lookahead is None:
        windows = overlapping_windows(samples.stretch, trained.script.WINDOW, hop)
        prediction = blend(trained, Windows(signals, signals[0], windows))
    else:
        prediction = predict_stretches(trained, signals, samples.stretch)
    _report_left_out(path, trained, samples.stretch, ~np.isnan(prediction[:, 0]))
    truth = samples.values["targets"].numpy()
    warnings = [*check_sensors(trained, samples), *_compare_sizes(trained, prediction, truth)]
    for warning in warnings:
        print(f"WARNING: {printable(warning)}")
    latency = _describe_latency(trained, signals, hop, device)
    print(latency)
    return Prediction(samples.labels, samples.stretch, prediction, truth, latency, warnings)


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
    """Return the estimates `(samples, K)` float32, a weighted mean over the windows of a sample.

    A sample in one window has the estimate of that window, a sample in none has NaN.

    Raises:
        InputError: The output of the network is not finite.
    """
    samples, targets = len(windows.signals[0]), len(trained.script.TARGETS)
    total = torch.zeros(samples, targets, dtype=torch.float64)
    weight = torch.zeros(samples, dtype=torch.float64)
    weights = blending_weights(windows.samples.shape[1])
    for numbers, predicted in _predict_batches(trained, windows, BATCH_SIZE):
        _check_finite(predicted)
        total.index_add_(0, numbers.flatten(), (weights[:, None] * predicted).flatten(0, 1))
        weight.index_add_(0, numbers.flatten(), weights.repeat(len(numbers)))
    return (total / weight[:, None]).float().numpy()  # 0 / 0 is NaN


@torch.no_grad()
def _predict_batches(
    trained: Trained, windows: Windows, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield sample numbers `(B, T)` and estimates `(B, T, K)` on the CPU, batch by batch."""
    with tqdm(total=len(windows), unit="window", leave=False, disable=None) as bar:
        for indices in windows.batches(batch_size):
            predicted = trained.network(*windows[indices].inputs)
            yield windows.samples[indices].cpu(), predicted.cpu()
            bar.update(len(indices))


def predict_stretches(
    trained: Trained, signals: Sequence[Tensor], stretch: np.ndarray
) -> np.ndarray:
    """Return the estimates `(samples, K)` float32 of a streaming network, NaN where there are none.

    Args:
        trained: the network.
        signals: its inputs, `(samples, C)` each.
        stretch: `(samples,)` number of the stretch, increasing; -1 for samples in none.

    Raises:
        InputError: The output of the network is not finite.
    """
    prediction = torch.full((len(stretch), len(trained.script.TARGETS)), torch.nan)
    samples = np.flatnonzero(stretch >= 0)
    if len(samples):
        sequences = Windows(signals, signals[0], *cut_padded(samples, stretch[samples], SEQUENCE))
        predicted, is_estimated = predict_stream(trained.network, sequences, stretch)
        _check_finite(predicted)
        prediction[sequences.samples[is_estimated].cpu()] = predicted[is_estimated].cpu()
    return prediction.numpy()


def _check_finite(predicted: Tensor) -> None:
    if not predicted.isfinite().all():
        raise InputError(
            "the output of the network is not finite: training diverged, or the values of the "
            "recording are far too large; check their units"
        )


def _report_left_out(
    path: Path, trained: Trained, stretch: np.ndarray, is_predicted: np.ndarray
) -> None:
    """Print how many samples have no estimate, and why.

    Raises:
        InputError: There are no estimates at all.
    """
    samples, window, rate_hz = len(stretch), trained.script.WINDOW, trained.script.RATE_HZ
    incomplete = int((stretch < 0).sum())
    rest, lookahead, reasons = int((~is_predicted).sum()) - incomplete, trained.lookahead, []
    if rest and lookahead is None:
        reasons.append(
            f"{rest:,} are in stretches shorter than a window of {window} samples "
            f"({window / rate_hz:g} s)"
        )
    elif rest:
        reasons.append(
            f"{rest:,} are among the last {lookahead} samples ({lookahead / rate_hz:g} s) of a "
            "stretch, whose estimates come after its end"
        )
    if incomplete:
        reasons.append(f"{incomplete:,} lack a value that the network reads")
    if not is_predicted.any():
        reasons = reasons or ["it is empty"]
        raise InputError(
            f"{path}: no estimates for any of {samples:,} samples: {'; '.join(reasons)}; use a "
            "longer recording"
        )
    print(f"Samples: {samples:,}, {samples / rate_hz:,.1f} s")
    if reasons:
        print(f"NOTICE: no estimates, left empty: {'; '.join(reasons)}")


@torch.no_grad()
def _describe_latency(
    trained: Trained, signals: Sequence[Tensor], hop: int, device: torch.device
) -> str:
    """Return the latency of a live estimate, with the median time of a computation."""
    window, rate_hz = trained.script.WINDOW, trained.script.RATE_HZ
    inputs = [signal[None, : window if trained.lookahead is None else 1] for signal in signals]
    if trained.lookahead is None:
        parts = f"at most window {window / rate_hz:g} s + hop {hop / rate_hz:g} s"
        calls, per_call = TIMED_CALLS, ""
        compute = partial(trained.network, *inputs)
    else:
        parts = f"lookahead {trained.lookahead / rate_hz:g} s"
        calls, per_call = TIMED_SAMPLES, " per sample"
        compute = partial(trained.stream, *inputs, state=trained.stream(*inputs)[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = timeit.repeat(lambda: compute()[0].cpu(), number=1, repeat=WARM_UP_CALLS + calls)
    torch.set_num_threads(threads)
    median_s = np.median(seconds[WARM_UP_CALLS:])
    place = "one CPU thread" if device.type == "cpu" else str(device)
    return (
        f"Latency of a live estimate: {parts} + computation {median_s:.2g} s{per_call} "
        f"(median of {calls} warm calls, {place})"
    )


def _compare_sizes(trained: Trained, prediction: np.ndarray, truth: np.ndarray) -> Iterator[str]:
    """Yield a warning for each target whose measured values seem to be in another unit."""
    for k, target in enumerate(trained.script.TARGETS):
        sizes = [percentile(np.abs(values[:, k]), 99) for values in (truth, prediction)]
        if sizes[0] > UNIT_MISMATCH_RATIO * sizes[1]:  # False for NaN
            yield (
                f"{target.name}: measured values are {sizes[0] / sizes[1]:.0f} times as large as "
                f"the estimates; not in {target.unit}? Then its errors mean nothing: state the "
                "unit in the file or in a column `unit` of the --columns file, and pass --mass and "
                "--height"
            )


# The test of the run ------------------------------------------------------------------------------


def predict_as_tested(
    checkpoint: Path, trained: Trained, path: Path, subject: str | None, device: torch.device
) -> Prediction:
    """Run a network on a subject in the windows, or streams, of the run's own test.

    Prints whether the data and the estimates equal those of the run.

    Args:
        checkpoint: file of the network; the estimates of its run are expected in its run's folder.
        trained: the network.
        path: the data file of the run.
        subject: id of the subject; None for the test subject of the run.
        device: device to run the network on.

    Raises:
        InputError: The file, the subject or the settings in the checkpoint cannot be used.
    """
    _check_settings(checkpoint, trained.description)
    script, settings = trained.script, trained.description["settings"]
    test_subject = trained.description["test_subject"]
    recording = script.read(path)
    subject = choose_subject(path, recording.subjects, subject or test_subject)
    if recording.digest() != settings["data"]["digest"]:
        print(f"WARNING: the samples in {path} differ from the data of the run")
    torch.set_num_threads(settings.get("threads") or torch.get_num_threads())  # none for a GPU
    is_stream = trained.lookahead is not None
    cut, length = (cut_sequences, script.SEQUENCE) if is_stream else (cut_windows, script.WINDOW)
    numbers, is_scored = cut(recording, [subject], length, settings["protocol"], cover_tails=True)
    if not len(numbers):
        raise InputError(f"{path}: subject {subject}: no full window; choose another --subject")
    # PyTorch rounds differently if weights are frozen, or not aligned in memory as in the run.
    network = trained.row.network().to(device).eval()
    network.load_state_dict(trained.network.state_dict())
    trained = trained._replace(network=network)
    values = recording.to(device).samples
    windows = Windows(trained.inputs(values), values["targets"], numbers, is_scored)
    if is_stream:
        predicted, is_estimated = predict_stream(network, windows, recording.stretch)
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
    """Check the settings of a run that the results of its test depend on."""
    try:
        settings = description["settings"]
        threads = settings.get("threads") or 1
        is_usable = (
            settings["protocol"] in PROTOCOLS
            and all(type(n) is int and n > 0 for n in (settings["batch_size"], threads))
            and threads <= MAX_THREADS
            and isinstance(description["test_subject"], str)
            and "digest" in dict(settings["data"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        is_usable = False
    if not is_usable:
        raise InputError(
            f"{checkpoint}: does not describe how its run was tested; leave out --as-tested, or "
            "use a checkpoint written by this version"
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
    """Print the difference from the estimates of the run, if they are in its folder."""
    path = checkpoint.parent.parent / "predictions" / f"{checkpoint.stem}.npz"
    if not path.exists():
        print(f"Not compared with the run: there is no {path}")
        return
    try:
        before = np.load(path)["prediction"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged; delete it, or copy it again") from error
    if before.shape != prediction.shape:
        print(f"WARNING: {path} has {len(before):,} samples, this test {len(prediction):,}")
    elif np.array_equal(before, prediction):
        print(f"Equal to {path}, bit for bit")
    else:
        print(f"Differs from {path} by at most {np.abs(before - prediction).max():.2g}")
