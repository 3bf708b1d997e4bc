"""Turn the checkpoint of a trained model into an ONNX file that runs without PyTorch.

The file takes one input per modality, `acc`, `gyr` and `emg` or `video`, each (batch, samples,
channels) float32 in the units of the dataset, of any number of windows, and gives `targets`,
(batch, samples, targets). What is done to the inputs before the network, as norming and handcrafted
features, is in it. Its metadata tell what the checkpoint tells (`about`, JSON) and the channels of
each input in order. Before it is left, it is run by onnxruntime and compared with PyTorch.

  python -m tools.export_onnx --checkpoint CHECKPOINT --out student.onnx
  python -m tools.export_onnx --checkpoint CHECKPOINT --data data/dataset_a.h5 --out student.onnx

A checkpoint is a file of a run's folder, outputs/<script>/<run>/checkpoints/. It takes half a
minute to two; exit status 2 with one line for what cannot be exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from common import flags, folds
from common.files import InputError, written_whole
from common.training import Batch, batch_of
from tools.command import start
from tools.exporting import network, runtime
from tools.trained import Trained, restore

BATCHES = (1, 64)  # windows at once: that of a live estimate, and that of training


def main(argv: Sequence[str] | None = None) -> int:
    """Export a checkpoint; return the exit status, 0."""
    options = _parser().parse_args(argv)
    runtime.check_installed()
    torch.set_num_threads(1)
    trained = restore(options.checkpoint)
    windows = {"random": network.random_windows(trained, max(BATCHES))}
    if options.data:
        windows["measured"] = _measured_windows(trained, options.data)
    print(f"Exporting {trained.row} ({trained.about['model']}) ...", flush=True)
    try:
        with written_whole(options.out) as part:
            network.export(trained, part)
            for kind, batch in windows.items():
                print(_compare(trained, part, batch, kind))
    except OSError as error:
        raise InputError(
            f"{options.out}: cannot write there ({error.strerror}); give another --out"
        ) from error
    print(f"ONNX: {options.out}, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _measured_windows(trained: Trained, data: Path) -> Batch:
    """Return windows spread over a file of the model's dataset."""
    recording = trained.study.read(data)
    subjects, window = recording.subjects, trained.study.window
    rows = torch.from_numpy(folds.subject_windows(recording, subjects, window, "strict").rows)
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), max(BATCHES))).long()
    return batch_of(recording.samples, rows[chosen])


def _compare(trained: Trained, path: Path, batch: Batch, kind: str) -> str:
    """Compare the file with PyTorch at several numbers of windows; say how they agree.

    Raises:
        InputError: They differ.
    """
    session = runtime.session(path)
    differences = []
    for count in BATCHES:
        part = {name: values[:count] for name, values in batch.items()}
        differences.append(runtime.difference(trained, session, part))
    if not max(differences) <= runtime.TOLERANCE:  # NaN neither
        raise InputError(
            f"{trained.row}: onnxruntime and PyTorch differ by {max(differences):.1e} on {kind} "
            f"windows, more than {runtime.TOLERANCE:g}; nothing was written: use the checkpoint"
        )
    return f"  {kind} windows: differs from PyTorch by {max(differences):.1e} at most"


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(
        prog="python -m tools.export_onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="of the trained model")
    add("--out", type=Path, required=True, metavar="FILE", help="the ONNX file to write")
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="HDF5 file of the model's dataset, on whose windows it is compared, too",
    )
    return parser


if __name__ == "__main__":
    start(main)
