"""The error of trained networks on a recording whose sensors are mounted a few degrees off.

Every IMU of a network is rotated about a random axis of its own, by the same angle; a rotated
recording is exactly what a rotated sensor would have measured. Prints the mean NRMSE over the
targets, and over several draws of the axes, for each angle:

  python -m beyond.rotations --checkpoints FILE FILE --data data/dataset_b.h5
  python -m beyond.rotations --runs outputs/Dataset_B_streaming/RUN --data data/dataset_b.h5

Without --subject, each network is tested on the subject that was held out when it was trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from common.cli import ArgumentParser, file_path, finite_number, positive_int, run_main
from common.data import Recording, find_subject
from common.files import CHECKPOINT_SUFFIX, InputError
from common.metrics import score
from common.windows import Windows
from tools.predict.prediction import blend, overlapping_windows, predict_stretches
from tools.trained import Trained, load_trained

DEGREES = (0.0, 5.0, 10.0, 20.0, 30.0, 45.0)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Test the networks; print and return NRMSE in %, a line per row and a column per angle.

    Raises:
        InputError: A flag or a file cannot be used.
    """
    args = _parser().parse_args(argv)
    lines = []
    for trained, recording, subject in held_out(args):
        for degrees in args.degrees:
            for seed in range(args.draws if degrees else 1):
                error = nrmse_percent(trained, recording, subject, degrees, seed)
                lines.append((trained.row.name, subject, degrees, error))
    table = pd.DataFrame(lines, columns=["row", "subject", "degrees", "nrmse_percent"])
    table = table.groupby(["row", "subject", "degrees"], sort=False).mean().reset_index()
    table = table.pivot_table("nrmse_percent", "row", "degrees", sort=False)  # mean over subjects
    print(table.to_markdown(floatfmt=".1f"))
    return table


def held_out(args: argparse.Namespace) -> Iterator[tuple[Trained, Recording, str]]:
    """Yield trained networks with a recording, and the subject that was held out from training.

    Args:
        args: flags of `add_networks`.

    Raises:
        InputError: There are no networks, or the recording lacks the subject.
    """
    paths = [*args.checkpoints]
    for run in args.runs:
        paths += sorted((run / "checkpoints").glob(f"*{CHECKPOINT_SUFFIX}"))
    if not paths:
        raise InputError("no checkpoints; name some with --checkpoints, or runs with --runs")
    recording, reader = None, None
    for path in tqdm(paths, unit="network", leave=False, disable=None):
        trained = load_trained(path)
        if reader is not trained.script.read:
            reader = trained.script.read
            recording = reader(args.data)
        wanted = args.subject or str(trained.description.get("test_subject"))
        subject = find_subject(recording.subjects, wanted)
        if subject is None:
            raise InputError(f"{args.data}: no subject {wanted}; choose one with --subject")
        yield trained, recording, subject


def add_networks(parser: ArgumentParser) -> None:
    """Add the flags that name networks, and what to test them on."""
    add = parser.add_argument
    add("--checkpoints", nargs="+", type=file_path, default=[], metavar="FILE", help="networks")
    add("--runs", nargs="+", type=file_path, default=[], metavar="DIR", help="all networks of runs")
    add("--data", type=file_path, required=True, metavar="FILE", help="HDF5 file of their dataset")
    add("--subject", metavar="ID", help="subject to test on (default: that held out in training)")


def rotate(
    samples: dict[str, Tensor], sensors: int, degrees: float, seed: int
) -> dict[str, Tensor]:
    """Return all modalities with each IMU rotated about a random axis.

    Args:
        samples: modalities `(..., C)`, of which `acc` and `gyr` have three channels per IMU.
        sensors: number of IMUs.
        degrees: the angle.
        seed: seed of the axes.
    """
    axes = np.random.default_rng(seed).normal(size=(sensors, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    rotations = torch.from_numpy(Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix())
    rotated = {
        name: torch.einsum(
            "sij,...sj->...si", rotations, samples[name].double().unflatten(-1, (sensors, 3))
        )
        for name in ("acc", "gyr")
    }
    return {**samples, **{name: v.flatten(-2).float() for name, v in rotated.items()}}


def nrmse_percent(
    trained: Trained, recording: Recording, subject: str, degrees: float, seed: int
) -> float:
    """Return the mean NRMSE over the targets on a subject with rotated sensors."""
    script, targets = trained.script, recording.samples["targets"].numpy()
    samples = rotate(recording.samples, len(script.SENSORS), degrees, seed)
    signals = trained.inputs(samples)
    is_subject = recording.subject == recording.subjects.index(subject)
    stretch = np.where(is_subject, recording.stretch, -1)
    if trained.lookahead is None:
        windows = overlapping_windows(stretch, script.WINDOW, script.WINDOW // 2)
        if not len(windows):
            raise InputError(f"{recording.path}: subject {subject}: no full window")
        prediction = blend(trained, Windows(signals, signals[0], windows))
    else:
        prediction = predict_stretches(trained, signals, stretch)
    known = np.isfinite(prediction).all(axis=1)
    names = [target.name for target in script.TARGETS]
    return float(score(targets[known], prediction[known], names)["nrmse_percent"].mean())


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m beyond.rotations", description=__doc__)
    add = parser.add_argument
    add_networks(parser)
    text = f"angles (default: {' '.join(f'{angle:g}' for angle in DEGREES)})"
    add("--degrees", nargs="+", type=finite_number, default=DEGREES, metavar="X", help=text)
    text = "draws of the axes per angle (default: 5)"
    add("--draws", type=positive_int, default=5, metavar="N", help=text)
    return parser


if __name__ == "__main__":
    run_main(main)
