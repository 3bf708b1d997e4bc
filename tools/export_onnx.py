"""Export a trained model as ONNX, to be run without PyTorch and without this collection.

The inputs have the names of the modalities (acc, gyr, emg or video), each (batch, samples,
channels) with the channels of the model's sensors, not scaled, as `prepare` in the script makes
them of the data; the output is `targets`, (batch, samples, targets). Any number of windows can be
run at once. The file's metadata tell the rest: `about` is what the checkpoint tells, `inputs` the
unit and the channels of each input. The file is run in onnxruntime and compared with PyTorch on
random windows, with --data on measured ones as well; if they differ by more than 1e-4, nothing is
left and it ends with 2.

  python -m tools.export_onnx --checkpoint FILE --out model.onnx
  python -m tools.export_onnx --checkpoint FILE --out model.onnx --data data/dataset_a.h5

FILE is a checkpoint, outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common import flags, folds
from common.files import InputError, written_whole
from common.training import Batch, batch_of
from tools.check import layout
from tools.command import start
from tools.exporting import graph, runtime
from tools.trained import Trained, restore

BATCHES = (1, 64)  # windows that are compared at once: one as it is measured, and many
SIZES = (-1, 2)  # powers of ten between which random windows lie: all units of the inputs


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model; return the exit status, 0."""
    options = _parser().parse_args(argv)
    if options.out.suffix != ".onnx":
        raise InputError(f"--out {options.out}: no name of an ONNX file; let it end with .onnx")
    runtime.check_installed()
    trained = restore(options.checkpoint)
    windows = {"random": random_windows(trained, max(BATCHES))}
    if options.data:
        windows["measured"] = measured_windows(trained, options.data, max(BATCHES))
    print(f"Exporting {trained.row} ({trained.about['model']}) ...", flush=True)
    try:
        with written_whole(options.out) as part:
            graph.write(trained, part)
            for kind, batch in windows.items():
                compare(trained, part, kind, batch)
    except OSError as error:
        problem = f"{options.out}: cannot be written ({error.strerror})"
        raise InputError(f"{problem}; free the place or choose another --out") from error
    print(f"ONNX: {options.out}, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def random_windows(trained: Trained, count: int) -> Batch:
    """Draw windows of all channels of the dataset, `(count, T, C)` per modality."""
    draw = torch.Generator().manual_seed(0)
    low, high = SIZES
    batch = {}
    for modality, names in layout.of(trained.study.dataset).channels.items():
        sizes = 10 ** torch.empty(count, 1, 1).uniform_(low, high, generator=draw)
        shape = (count, trained.study.window, len(names))
        batch[modality] = sizes * torch.randn(shape, generator=draw)
    return batch


def measured_windows(trained: Trained, path: Path, count: int) -> Batch:
    """Take at most `count` windows of a file, evenly from all of it.

    Raises:
        InputError: It cannot be used.
    """
    study = trained.study
    recording = study.read(path)
    rows = folds.subject_windows(recording, recording.subjects, study.window, "strict").rows
    if not len(rows):
        raise InputError(f"{path}: no trial as long as a window; use a file with longer ones")
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return batch_of(recording.samples, torch.from_numpy(rows[chosen]))


def compare(trained: Trained, path: Path, kind: str, windows: Batch) -> None:
    """Compare an exported model with PyTorch on a few windows and on many, and say the result.

    Raises:
        InputError: It differs.
    """
    model = runtime.session(path)
    parts = [{name: w[:count] for name, w in windows.items()} for count in BATCHES]
    largest = float(np.max([runtime.difference(trained, model, part) for part in parts]))
    if not largest <= runtime.TOLERANCE:  # NaN neither
        raise InputError(
            f"{trained.row}: onnxruntime differs from PyTorch by {largest:.1e} on {kind} windows, "
            f"more than {runtime.TOLERANCE:g}; nothing is written; use the checkpoint itself"
        )
    print(f"  {kind} windows: differs from PyTorch by at most {largest:.1e}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="python -m tools.export_onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="the trained model")
    add("--out", type=Path, required=True, metavar="FILE", help="ONNX file to write, .onnx")
    add("--data", type=Path, metavar="FILE", help="HDF5 file of the dataset, to compare on as well")
    return parser


if __name__ == "__main__":
    start(main)
