"""Apply a trained model to a recording, whether its moments and forces were measured or not.

The recording is an HDF5 file in the layout of the model's dataset (the activities that there are,
the columns that the model reads), or a CSV with the same names of columns and a time column, at
any rate. Overlapping windows are blended into one curve. Writes into --out: prediction.csv (a line
per sample: where it is from, its time, the targets; empty where nothing can be predicted),
prediction.png, and prediction.json (what the numbers came from). Ends with 2 if something cannot
be used.

  python -m tools.predict --checkpoint FILE --data walk.csv --acc-unit g --out outputs/walk
  python -m tools.predict --checkpoint FILE --data data/dataset_a.h5 --as-tested --out outputs/test

FILE is a checkpoint, outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import torch
from common.columns import DATASET_A_ACTIVITIES

from common import faster, flags
from common.files import InputError
from tools.command import start
from tools.prediction import anew, as_tested, csv_file, hdf5_file, units
from tools.prediction.needs import Needs, needs_of
from tools.prediction.recording import Piece
from tools.trained import Trained, restore

OF_HDF5 = ("subject", "activity", "as_tested")
OF_CSV = ("time_column", "time_unit", "max_gap")
NOT_AS_TESTED = ("hop", "activity", "acc_unit", "gyr_unit")


def main(argv: Sequence[str] | None = None) -> int:
    """Predict a recording and write what comes of it; return the exit status, 0."""
    options = _parser().parse_args(argv)
    _check(options)
    device = flags.choose_device(options.device)
    faster.set_up(torch.get_num_threads(), ())  # no rounding but that of float32
    trained = restore(options.checkpoint)
    trained.model.to(device)
    study = trained.study
    hop = options.hop or study.window // 2
    if hop > study.window:
        raise InputError(f"--hop {hop}: at most a window, {study.window} samples")
    print(f"Model: {trained.row} of {study.script.name}, {flags.device_name(device)}")
    if options.as_tested:
        result = as_tested.predict(
            options.checkpoint, trained, options.data, options.subject, device, print
        )
    else:
        needs = needs_of(trained)
        result = anew.predict(
            trained,
            options.data,
            needs,
            _pieces(trained, needs, options),
            units.factors(study.dataset, options.acc_unit, options.gyr_unit),
            hop,
            device,
            print,
        )
    print(f"\n{result.table(study.targets)}\n")
    about = {
        "title": f"{trained.row} on {options.data.name}",
        "checkpoint": str(options.checkpoint),
        "script": study.script.name,
        "data": str(options.data),
        "window": study.window,
        "hop": None if options.as_tested else hop,
        "rate_hz": study.rate_hz,
        "delay": result.delay,
    }
    result.save(options.out, study.targets, study.rate_hz, about)
    print(f"Prediction: {options.out}")
    return 0


def _pieces(trained: Trained, needs: Needs, options: argparse.Namespace) -> Iterator[Piece]:
    if h5py.is_hdf5(options.data):
        chosen = options.subject, options.activity
        return hdf5_file.read(options.data, trained.study, needs, *chosen)
    clock = csv_file.Clock(options.time_column, options.time_unit, options.max_gap)
    return csv_file.read(options.data, needs, clock, trained.study.rate_hz, print)


def _check(options: argparse.Namespace) -> None:
    """Check that the file is there, --out is no file, and the flags are for such a file.

    Raises:
        InputError: They are not.
    """
    if not options.data.is_file():
        raise InputError(f"{options.data}: no such file; give --data an HDF5 file or a CSV")
    if options.out.is_file():
        raise InputError(f"{options.out}: a file; give --out a folder")
    kind, others = ("HDF5 file", OF_CSV) if h5py.is_hdf5(options.data) else ("CSV", OF_HDF5)
    for name in others:
        if name in options.given:
            raise InputError(f"{options.data}: --{name.replace('_', '-')} is not for a {kind}")
    for name in NOT_AS_TESTED:
        if options.as_tested and name in options.given:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"--as-tested and {flag}: the run's test decides; leave {flag} out")


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="python -m tools.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a trained model")
    add("--data", type=Path, required=True, metavar="FILE", help="the recording, HDF5 or CSV")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    add("--subject", metavar="ID", help="subject of an HDF5 file (default: the only one)")
    add(
        "--activity",
        nargs="+",
        choices=DATASET_A_ACTIVITIES,
        metavar="NAME",
        help=f"of Dataset A, some of {', '.join(DATASET_A_ACTIVITIES)} (default: all there are)",
    )
    add(
        "--hop",
        type=flags.positive_int,
        metavar="N",
        help="samples from one window to the next, at most a window: fewer make it smoother and "
        "slower (default: half a window)",
    )
    add(
        "--as-tested",
        action="store_true",
        help="cut windows as the run's own test did; on the run's data file that gives the numbers "
        "of its predictions/, which tells that the checkpoint is the one of those results",
    )
    add(
        "--acc-unit",
        choices=units.ACC_UNITS,
        default="m/s2",
        help="of the accelerometers (default: m/s2, as in both datasets)",
    )
    add(
        "--gyr-unit",
        choices=units.GYR_UNITS,
        help="of the gyroscopes (default: the dataset's, rad/s in A, deg/s in B)",
    )
    add(
        "--time-column",
        default="time",
        metavar="NAME",
        help="of a CSV (default: time)",
    )
    add(
        "--time-unit",
        choices=csv_file.SECONDS,
        default="s",
        help="of a CSV's time (default: s)",
    )
    add(
        "--max-gap",
        type=flags.positive_float,
        default=0.03,
        metavar="SECONDS",
        help="a CSV is interpolated across gaps up to this one, or two sampling intervals where "
        "that is longer; a longer gap ends a stretch (default: 0.03)",
    )
    add(
        "--device",
        default="auto",
        help="auto (CUDA if there is one, else the CPU), cuda, cuda:N or cpu (default: auto)",
    )
    return parser


if __name__ == "__main__":
    start(main)
