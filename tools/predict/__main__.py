"""Apply a trained network to a recording, with or without measured moments and forces.

The recording is an HDF5 file in the layout of the network's dataset, or a text file (CSV) with
column names and a time column, or a MATLAB file with numeric arrays, at any sampling rate. Only the
columns that the network reads are needed. Overlapping windows are blended into one curve; a
streaming network predicts sample by sample. Warnings name channels that look faulty, and sensors,
axes and units unlike those in training.

Writes into --out: prediction.csv (a line per sample: where it comes from, its time and the targets;
empty where nothing can be predicted), prediction.png and prediction.json (checkpoint, data,
settings, warnings).

  python -m tools.predict --checkpoint FILE --data walk.csv --acc-unit g --out outputs/walk
  python -m tools.predict --checkpoint FILE --data data/dataset_a.h5 --as-tested --out outputs/test

FILE is a checkpoint of a run: outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors

Text files are read as devices and spreadsheets write them: commas, semicolons or tabs between
columns, decimal points or commas, UTF-8 or UTF-16, lines above the column names, a line of units
below them (which sets --acc-unit, --gyr-unit and --time-unit), and dates or times of day as time.
Columns with other names are mapped by --columns, in pairs OURS=YOURS, with a minus sign where
your axis points the other way:

  python -m tools.predict --checkpoint FILE --data walk.csv --out outputs/walk --time-unit us \\
      --time-column SampleTimeFine --columns foot_Accel_X=-Acc_Y foot_Accel_Y=Acc_X ...

or by a CSV file with the first line "yours,ours" and a line such as "-Acc_Y,foot_Accel_X" for each
column. Where columns are missing, a template of that file is printed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import torch

from common import training
from common.cli import ArgumentParser, add_device, positive_int, run_main
from common.data import DATASET_A_ACTIVITIES, is_synthetic
from common.files import InputError
from tools.predict import output
from tools.predict.prediction import predict_as_tested, predict_recording
from tools.predict.recording import join_pieces, read_file, read_hdf5
from tools.trained import load_trained
from tools.trial_file import Units, add_flags, parse_clock, parse_mapping

ONLY_HDF5 = ("subject", "activity", "as_tested")
ONLY_CSV = ("columns", "time_column", "time_unit", "recorded_hz", "max_gap")
NOT_AS_TESTED = ("hop", "activity", "acc_unit", "gyr_unit")


def main(argv: Sequence[str] | None = None) -> int:
    """Predict a recording and write the results; return 0."""
    args = _parser().parse_args(argv)
    _check(args)
    device = training.choose_device(args.device)
    training.set_up(torch.get_num_threads(), ())
    trained = load_trained(args.checkpoint)
    trained.network.to(device)
    script = trained.script
    hop = args.hop or script.WINDOW // 2
    if hop > script.WINDOW:
        raise InputError(f"--hop {hop}: at most a window, {script.WINDOW} samples")
    is_stream = trained.lookahead is not None
    if is_stream and args.hop:
        raise InputError(
            f"--hop {hop}: {trained.row.name} has no windows, it predicts sample by sample; leave "
            "out --hop"
        )
    print(f"Network: {trained.row.name} of {Path(script.__file__).name}, on {device}")
    if trained.is_trained_on_synthetic_data:
        print("NOTICE: this network was trained on synthetic data; do not use it on people.")
    if args.as_tested:
        result = predict_as_tested(args.checkpoint, trained, args.data, args.subject, device)
    else:
        units = Units(args.acc_unit, args.gyr_unit)
        if h5py.is_hdf5(args.data):
            pieces = read_hdf5(args.data, trained, args.subject, args.activity)
        else:
            mapping = parse_mapping(args.columns or (), script)
            pieces, units = read_file(args.data, trained, parse_clock(args), units, mapping)
        samples = join_pieces(args.data, trained, pieces, units)
        result = predict_recording(trained, args.data, samples, hop, device)
    subject = result.labels["subject"].iloc[0] if "subject" in result.labels else None
    if subject is not None and trained.has_seen(args.data, subject):
        print(
            f"NOTICE: subject {subject} was used in the training of this network; errors on a new "
            "person are larger."
        )
    print(f"\n{output.table(result, script.TARGETS)}\n")
    windows = {"window": script.WINDOW, "hop": None if args.as_tested else hop}
    description = {
        "title": f"{trained.row.name} on {_readable(args.data.name)}",
        "synthetic": is_synthetic(args.data),
        "trained_on_synthetic_data": trained.is_trained_on_synthetic_data,
        "checkpoint": _readable(args.checkpoint),
        "script": Path(script.__file__).name,
        "data": _readable(args.data),
        "flags": {
            name: _readable(value) if isinstance(value, Path) else value
            for name, value in vars(args).items()
        },
        **({"lookahead": trained.lookahead} if is_stream else windows),
        "rate_hz": script.RATE_HZ,
        "delay": result.delay,
        "warnings": list(result.warnings),
    }
    output.save(args.out, result, script.TARGETS, script.RATE_HZ, description)
    print(f"Prediction: {_readable(args.out)}")
    return 0


def _readable(path: Path | str) -> str:
    """Return a path as text; in a locale without UTF-8, Python escapes its letters."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _check(args: argparse.Namespace) -> None:
    """Check that the data exist, that no input is overwritten, and that the flags fit the data.

    Raises:
        InputError: They do not.
    """
    if not args.data.is_file():
        raise InputError(f"{args.data}: no such file; give --data an HDF5 file or a CSV")
    if args.out.is_file():
        raise InputError(f"{args.out}: is a file; give --out a folder")
    mapping_files = [Path(text) for text in args.columns or () if "=" not in text]
    sources = [args.data, args.checkpoint, *mapping_files]
    for name in output.FILES:
        target = args.out / name
        if target.exists() and any(path.exists() and target.samefile(path) for path in sources):
            raise InputError(f"{target}: would be overwritten, but is read; choose another --out")
    kind, others = ("HDF5 file", ONLY_CSV) if h5py.is_hdf5(args.data) else ("CSV", ONLY_HDF5)
    for name in others:
        if getattr(args, name):
            raise InputError(f"{args.data}: {_flag(name)} is not for a {kind}")
    for name in NOT_AS_TESTED:
        if args.as_tested and getattr(args, name):
            flag = _flag(name)
            raise InputError(
                f"--as-tested and {flag}: the test of the run decides; leave out {flag}"
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.predict", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a trained network")
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="the recording: HDF5, CSV or MATLAB",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    add("--subject", metavar="ID", help="subject in an HDF5 file (default: the only one)")
    add(
        "--activity",
        nargs="+",
        metavar="NAME",
        help=f"activities in an HDF5 file, in Dataset A {', '.join(DATASET_A_ACTIVITIES)} "
        "(default: all in the file)",
    )
    add(
        "--hop",
        type=positive_int,
        metavar="N",
        help="samples from one window to the next, at most a window; a smaller hop is smoother and "
        "slower (default: half a window)",
    )
    add(
        "--as-tested",
        action="store_true",
        help="cut the windows, or streams, of the run's own test; with the data file of the run "
        "this gives the numbers in its predictions/, which shows that the checkpoint belongs to "
        "these results",
    )
    add_flags(parser)
    add_device(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
