"""Adapt a trained network to a new person or laboratory, from a recording with measured targets.

Training continues with the script's own training loop and loss, at a low learning rate. The last
fifth of the training data is held out for early stopping, and the statistics of the input
normalization stay as they are. With --steps or --minutes, only the beginning of the recording is
used; the network is tested on the rest, before and after.

  python -m tools.fine_tune --checkpoint FILE --data walk.h5 --steps 5 --out new.safetensors
  python -m tools.fine_tune --checkpoint FILE --data walk.csv --minutes 2 --out new.safetensors

The recording is read as by tools.predict, with the same flags, and needs the columns of all
targets. The new checkpoint can be used like any other; it states what it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common.cli import (
    ArgumentParser,
    add_device,
    file_path,
    positive_float,
    positive_int,
    run_main,
    whole_number,
)
from common.files import (
    CHECKPOINT_SUFFIX,
    InputError,
    load_checkpoint,
    plural,
    printable,
    read_problem,
    save_checkpoint,
)
from common.metrics import aligned_table
from common.training import choose_device
from tools.fine_tune.data import cut_fold, is_beginning, number_measured, number_steps
from tools.fine_tune.tuning import nrmse_percent, tune
from tools.mounting import in_training, measure
from tools.output import check_writable, explain_write_errors
from tools.predict.mounting import add_mounting, check_mounting
from tools.predict.recording import Samples, join_pieces, read_file, read_hdf5
from tools.predict.sensors import check_sensors
from tools.predict.units import add_body_flags, parse_person
from tools.trained import Trained, load_trained
from tools.trial_file import Units, add_flags, parse_clock, parse_mapping

RECORDED = ("steps", "minutes", "head_only", "learning_rate", "epochs", "patience", "batch_size")
RECORDED += ("seed",)


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune a network, test it on the rest, and write it; return 0."""
    args = _parser().parse_args(argv)
    if problem := read_problem(args.data):
        raise InputError(f"{args.data}: {problem}; pass a recording with --data")
    if args.out.suffix != CHECKPOINT_SUFFIX:
        raise InputError(f"--out {args.out}: must end in {CHECKPOINT_SUFFIX}")
    check_writable(args.out, [args.checkpoint, args.data], _is_fine_tuned)
    person = parse_person(args)
    device, trained = choose_device(args.device), load_trained(args.checkpoint)
    trained.network.to(device)
    units, mapping = Units(args.acc_unit, args.gyr_unit), None
    subject = args.subject
    if h5py.is_hdf5(args.data):
        pieces = [*read_hdf5(args.data, trained, subject, args.activity)]
        subject = pieces[0].labels["subject"][0] if pieces else subject
    else:
        mapping = parse_mapping(args.columns or (), trained.script)
        pieces, units = read_file(args.data, trained, parse_clock(args), units, mapping, person)
    samples = join_pieces(args.data, trained, pieces, units)
    samples, _, mountings = check_mounting(trained, samples, mapping, args.mounting)
    for warning in check_sensors(trained, samples):
        print(f"WARNING: {printable(warning)}")
    stretch = number_measured(args.data, trained, samples)
    rate_hz, targets = trained.script.RATE_HZ, samples.values["targets"].to(device)
    signals = [signal.to(device) for signal in trained.inputs(samples.values)]
    step = number_steps(stretch, targets, trained)
    is_used = is_beginning(step, rate_hz, args.steps, args.minutes)
    rest = np.where(is_used, -1, stretch)
    if (args.steps or args.minutes) and not (rest >= 0).any():
        available = f"only {plural(int(step.max()) + 1, 'step')}, {is_used.sum() / rate_hz:.1f} s"
        raise InputError(f"{args.data}: {available}; use a smaller --steps or --minutes")
    before, network, best_epoch = nrmse_percent(trained, signals, targets, rest), trained.network, 0
    if is_used.any():
        fold = cut_fold(args.data, trained, signals, targets, np.where(is_used, stretch, -1))
        network, best_epoch = tune(trained, fold, args, args.head_only)
    after = nrmse_percent(trained._replace(network=network.eval()), signals, targets, rest)
    used_s, rest_s = is_used.sum() / rate_hz, (rest >= 0).sum() / rate_hz
    amount = f"{used_s:.1f} s in {plural(len(np.unique(step[is_used])), 'step')}"
    print(f"Trained on {amount}, tested on the remaining {rest_s:.1f} s")
    if not best_epoch:
        print("NOTICE: no epoch was better than none; the weights are unchanged")
    if before is None:
        print("NOTICE: nothing is left to test on; see --steps and --minutes")
    else:
        errors = [before, after]
        body = [
            [target.name, *(f"{values[k]:.3g}" for values in errors)]
            for k, target in enumerate(trained.script.TARGETS)
        ]
        body.append(["mean", *(f"{values.mean():.3g}" for values in errors)])
        print(f"\n{aligned_table(['NRMSE %', 'before', 'after'], body)}\n")
    description = {
        **trained.description,
        **(_statistics(trained, samples, is_used) if best_epoch else {}),
        "fine_tuned": [
            *trained.fine_tuned,
            {
                "checkpoint": args.checkpoint.name,
                "data": {
                    "file": args.data.name,
                    "bytes": args.data.stat().st_size,
                    "subject": subject,
                },
                "seconds": used_s,
                **{name: getattr(args, name) for name in RECORDED},
                "best_epoch": best_epoch,
                "mounting": mountings,
            },
        ],
    }
    with explain_write_errors(args.out, "--out"):
        save_checkpoint(args.out, network.state_dict(), description)
    print(f"Checkpoint: {args.out}")
    return 0


def _statistics(trained: Trained, samples: Samples, is_used: np.ndarray) -> dict[str, Any]:
    """Return the statistics of the sensors that the network was tuned on, for the checkpoint."""
    imus = (samples.values[kind].numpy()[is_used] for kind in ("acc", "gyr"))
    found = measure(*imus, trained.script.SENSORS)
    known = trained.description["sensor_statistics"] if in_training(trained.description) else {}
    tuned = {
        sensor: {name: part.tolist() for name, part in found[sensor]._asdict().items()}
        for sensor in known
        if sensor in found
    }
    return {"sensor_statistics": {**known, **tuned}} if known else {}


def _is_fine_tuned(path: Path) -> bool:
    try:
        return "fine_tuned" in load_checkpoint(path).description
    except InputError:
        return False


def add_tuning(parser: ArgumentParser) -> None:
    """Add the flags of the training."""
    add = parser.add_argument
    add("--head-only", action="store_true", help="train only the last layer")
    text = "learning rate of Adam (default: 1e-4)"
    add("--learning-rate", type=positive_float, default=1e-4, metavar="X", help=text)
    for flag, default, text in (
        ("--epochs", 50, "maximum number of epochs"),
        ("--patience", 10, "stop after N epochs without a lower error on the held-out part"),
        ("--batch-size", 16, "windows or sequences per batch"),
    ):
        text += f" (default: {default})"
        add(flag, type=positive_int, default=default, metavar="N", help=text)
    add("--seed", type=whole_number, default=42, metavar="N", help="random seed (default: 42)")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.fine_tune", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=file_path, required=True, metavar="FILE", help="a trained network")
    text = "the recording with measured targets: HDF5, CSV, MATLAB, c3d or OpenSim"
    add("--data", type=file_path, required=True, metavar="FILE", help=text)
    add("--out", type=file_path, required=True, metavar="FILE", help="the new checkpoint")
    add("--subject", metavar="ID", help="subject in an HDF5 file (default: the only one)")
    text = "activities in an HDF5 file (default: all in the file)"
    add("--activity", nargs="+", metavar="NAME", help=text)
    part = parser.add_mutually_exclusive_group()
    text = "train on the first N steps, test on the rest (default: train on everything)"
    part.add_argument("--steps", type=whole_number, metavar="N", help=text)
    text = "train on the first X minutes, in whole steps, test on the rest"
    part.add_argument("--minutes", type=positive_float, metavar="X", help=text)
    add_tuning(parser)
    add_mounting(parser)
    add_body_flags(parser)
    add_flags(parser)
    add_device(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
