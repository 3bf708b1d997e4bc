"""Export a trained network as an ONNX file, to use it without PyTorch and without this project.

The file has one input per modality (acc, gyr, emg or video), each (batch, samples, channels): the
channels of the network's sensors in the units of the script, not normalized; input normalization
and handcrafted features are part of the graph. The output, `targets`, is (batch, samples, targets).
The batch can have any size. The metadata of the file contain the description of the checkpoint
(`about`) and the unit and channels of each input (`inputs`).

The exported network is run in onnxruntime and compared with PyTorch in batches of 1, 2 and 64
windows: random ones and, with --data, recorded ones. If the results differ by more than 1e-4 (for
targets above 1, relative to the largest value), no file is written and the exit status is 2.

A streaming network has one more input, `state`, (batch, units), zeros at the start of a stream, and
one more output, `new_state`, which is the state of the next call. A call may have one sample or
more; `lookahead` in the metadata is the latency of the output in samples. It is also compared on
1,000 samples, one at a time.

  python -m tools.export_onnx --checkpoint FILE --out network.onnx
  python -m tools.export_onnx --checkpoint FILE --out network.onnx --data data/dataset_a.h5

FILE is a checkpoint of a run: outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence

from common.cli import ArgumentParser, file_path, run_main
from common.files import InputError, write_atomically
from tools.export_onnx import graph, runtime
from tools.output import check_writable, explain_write_errors
from tools.trained import load_trained


def main(argv: Sequence[str] | None = None) -> int:
    """Export a network; return the exit status, 0."""
    args = _parser().parse_args(argv)
    if args.out.suffix != ".onnx":
        raise InputError(f"--out {args.out}: not the name of an ONNX file; it must end with .onnx")
    runtime.check_installed()
    check_writable(args.out, filter(None, [args.checkpoint, args.data]), graph.is_exported)
    trained = load_trained(args.checkpoint)
    script, count = trained.script, max(runtime.BATCH_SIZES)
    windows = {"random": runtime.random_windows(script, count)}
    if args.data:
        windows["recorded"] = runtime.recorded_windows(script, args.data, count)
    print(f"Exporting {trained.row.name} ({trained.description['model']}) ...", flush=True)
    with explain_write_errors(args.out, "--out"), write_atomically(args.out) as part:
        graph.write(trained, part)
        for kind, batch in windows.items():
            difference = runtime.check_difference(trained, part, batch, kind)
            print(f"  {kind} windows: largest difference from PyTorch {difference:.1e}")
    print(f"ONNX: {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.export_onnx", description=__doc__)
    add = parser.add_argument
    add(
        "--checkpoint",
        type=file_path,
        required=True,
        metavar="FILE",
        help="trained network to export",
    )
    add("--out", type=file_path, required=True, metavar="FILE", help="ONNX file to write (.onnx)")
    add(
        "--data",
        type=file_path,
        metavar="FILE",
        help="HDF5 file of the network's dataset: compare on its windows too",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
