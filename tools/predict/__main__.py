"""Run a trained network on a recording, with or without measured moments and forces.

The recording is an HDF5 file in the layout of the network's dataset, or a text file (CSV) with
column names and a time column, a MATLAB file with numeric arrays, a c3d file or an OpenSim file,
at any sampling rate. Only the columns that the network reads are needed. The estimates of
overlapping windows are blended into one curve; a streaming network runs sample by sample. Warnings
name channels that look faulty, and sensors, axes and units that differ from those in training.

Writes into --out: prediction.csv (one line per sample: its source, its time, the sampling rate and
the targets; empty where nothing can be estimated), prediction.png, prediction.json (checkpoint,
data, settings, warnings), and the stances: stances.csv (peaks and impulses) and stances.png (mean
and SD). They are found in the measured vertical force, or in the estimated one if none is measured.
With --mass and --height, the tables also have N, N·m and N·m/kg, and the figures show N and N·m/kg.

  python -m tools.predict --checkpoint FILE --data walk.csv --acc-unit g --out outputs/walk
  python -m tools.predict --checkpoint FILE --data data/dataset_a.h5 --as-tested --out outputs/test

FILE is a checkpoint of a run: outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors

Common variants of CSV files are recognized: commas, semicolons, tabs or | between columns,
decimal points or commas, UTF-8 or UTF-16, lines above the column names, a line of units below them
(which sets --acc-unit, --gyr-unit and --time-unit), and dates or times of day as time.
Columns with other names are mapped by --columns, in pairs OURS=YOURS, with a minus sign where
your axis points the other way:

  python -m tools.predict --checkpoint FILE --data walk.csv --out outputs/walk --time-unit us \\
      --time-column SampleTimeFine --columns foot_Accel_X=-Acc_Y foot_Accel_Y=Acc_X ...

or by a CSV file with the first line "yours,ours" and a line such as "-Acc_Y,foot_Accel_X" for each
column. Where columns are missing, a template of that file is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import h5py

from common.cli import (
    ArgumentParser,
    add_device,
    add_figure_format,
    file_path,
    positive_int,
    run_main,
)
from common.data import DATASET_A_ACTIVITIES
from common.files import InputError, read_problem
from common.training import choose_device
from tools.output import check_writable
from tools.predict import output
from tools.predict.mounting import add_mounting, check_mounting
from tools.predict.prediction import predict_as_tested, predict_recording
from tools.predict.recording import join_pieces, read_file, read_hdf5
from tools.predict.units import add_body_flags, add_units, parse_person
from tools.trained import Trained, is_synthetic, load_trained
from tools.trial_file import Units, add_flags, parse_clock, parse_mapping

ONLY_HDF5 = ("subject", "activity", "as_tested")
ONLY_CSV = ("columns", "time_column", "time_unit", "recorded_hz", "max_gap")
NOT_AS_TESTED = ("hop", "activity", "acc_unit", "gyr_unit", "mounting")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a network on a recording and write the results; return 0."""
    args = _parser().parse_args(argv)
    _check(args)
    person = parse_person(args)
    device = choose_device(args.device)
    trained = load_trained(args.checkpoint)
    trained.network.to(device)
    script = trained.script
    hop = _hop(args.hop, trained)
    print(f"Network: {trained.row.name} of {Path(script.__file__).name}, on {device}")
    if trained.is_trained_on_synthetic_data:
        print("NOTICE: this network was trained on synthetic data; do not use it on people.")
    if args.as_tested:
        result = predict_as_tested(args.checkpoint, trained, args.data, args.subject, device)
        mountings = []
    else:
        units, mapping = Units(args.acc_unit, args.gyr_unit), None
        if h5py.is_hdf5(args.data):
            pieces = read_hdf5(args.data, trained, args.subject, args.activity)
        else:
            mapping = parse_mapping(args.columns or (), script)
            pieces, units = read_file(args.data, trained, parse_clock(args), units, mapping, person)
        samples = join_pieces(args.data, trained, pieces, units)
        samples, differences, mountings = check_mounting(trained, samples, mapping, args.mounting)
        result = predict_recording(trained, args.data, samples, hop, device)
        result = result._replace(warnings=[*differences, *result.warnings])
    result, targets, shown = add_units(result, script.TARGETS, person)
    subject = result.labels["subject"].iloc[0] if "subject" in result.labels else None
    if trained.was_trained_on(args.data, subject):
        who = "this recording" if subject is None else f"subject {subject}"
        print(f"NOTICE: this network was trained on {who}; errors on a new person are larger.")
    print(f"\n{output.table(result, targets)}\n")
    windows = {"window": script.WINDOW, "hop": None if args.as_tested else hop}
    description = {
        "title": f"{trained.row.name} on {args.data.name}",
        "synthetic": is_synthetic(args.data),
        "trained_on_synthetic_data": trained.is_trained_on_synthetic_data,
        "checkpoint": str(args.checkpoint),
        "script": Path(script.__file__).name,
        "data": str(args.data),
        "flags": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        **(windows if trained.lookahead is None else {"lookahead": trained.lookahead}),
        "rate_hz": script.RATE_HZ,
        "latency": result.latency,
        "warnings": list(result.warnings),
        "mounting": mountings,
    }
    rate_hz, suffix = script.RATE_HZ, args.figure_format
    output.save(args.out, result, targets, rate_hz, description, suffix, shown)
    if args.opensim:
        output.save_opensim(args.out, result, targets, script.COLUMNS["targets"], rate_hz)
    print(f"Prediction: {args.out}")
    return 0


def _hop(wanted: int | None, trained: Trained) -> int:
    """Return the samples from one window to the next.

    Raises:
        InputError: The flag `--hop` does not fit the network.
    """
    window = trained.script.WINDOW
    if wanted and trained.lookahead is not None:
        raise InputError(f"--hop: {trained.row.name} has no windows, it runs sample by sample")
    if wanted and wanted > window:
        raise InputError(f"--hop {wanted}: at most a window, {window} samples")
    return wanted or window // 2


def _check(args: argparse.Namespace) -> None:
    """Check the data and the output folder, and that the flags fit the data.

    Raises:
        InputError: The data do not exist, another file would be overwritten, or a flag does not
            fit.
    """
    if problem := read_problem(args.data):
        raise InputError(f"{args.data}: {problem}; pass a recording with --data")
    if args.out.is_file():
        raise InputError(f"{args.out}: is a file; pass a folder with --out")
    mapping_files = [Path(text) for text in args.columns or () if "=" not in text]
    for name in output.files(args.figure_format):
        inputs = [args.data, args.checkpoint, *mapping_files]
        check_writable(args.out / name, inputs, output.is_in_own_folder)
    kind, unfit = ("HDF5 file", ONLY_CSV) if h5py.is_hdf5(args.data) else ("CSV", ONLY_HDF5)
    if args.opensim and not (args.mass and args.height):
        raise InputError("--opensim: needs --mass and --height, to write N and N·m")
    reasons = dict.fromkeys(unfit, f"cannot be used with a {kind}")
    if args.as_tested:
        reasons |= dict.fromkeys(NOT_AS_TESTED, "cannot be used with --as-tested")
    for name, reason in reasons.items():
        if getattr(args, name):
            raise InputError(f"{args.data}: --{name.replace('_', '-')} {reason}; leave it out")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.predict", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=file_path, required=True, metavar="FILE", help="a trained network")
    add(
        "--data",
        type=file_path,
        required=True,
        metavar="FILE",
        help="the recording: HDF5, CSV, MATLAB, c3d or OpenSim",
    )
    add("--out", type=file_path, required=True, metavar="DIR", help="folder to write into")
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
        help="use the windows, or streams, of the run's own test; with the data file of the run, "
        "the estimates equal those in its predictions/, which shows that the checkpoint belongs to "
        "these results",
    )
    add_mounting(parser)
    add_body_flags(parser)
    add(
        "--opensim",
        action="store_true",
        help=f"write {' and '.join(output.OPENSIM)} for OpenSim as well; needs --mass and --height",
    )
    add_flags(parser)
    add_figure_format(parser)
    add_device(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
