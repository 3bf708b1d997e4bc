"""Estimate live: read samples from standard input, and print each estimate at once.

The first line has the column names, every further line is a sample at the network's rate: with
commas, semicolons or tabs, and in any order of columns. For every sample, a line of CSV with its
time and its targets is printed, later by the lookahead of the network, 50 ms by default. So the
first lines give no estimate, and the last samples get none.

  cat walk.csv | python -m tools.stream --checkpoint FILE
  my_sensor | python -m tools.stream --checkpoint FILE --acc-unit g | my_exoskeleton

FILE is a checkpoint of a row of the sensor-distillation scripts that starts with `streaming` or
`distilled_streaming`: outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors

Lost lines, and lines with an empty cell, are interpolated as soon as the next complete line is
there. After a gap longer than --max-gap, the network starts anew, and says so on standard error.
End it with Ctrl-C, or by closing its input; it then prints its latency on standard error.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from common import training
from common.cli import ArgumentParser, positive_float, positive_int, run_main
from common.files import InputError
from tools.predict.recording import TIME, TIME_DIGITS
from tools.stream.lines import GapFiller, LineReader
from tools.stream.stream import Stream
from tools.trained import Trained
from tools.trial_file import (
    ACC_UNITS,
    GYR_UNITS,
    MAX_GAP_S,
    SECONDS,
    Source,
    Units,
    parse_mapping,
)

WARM_UP_SAMPLES = 20


def main(
    argv: Sequence[str] | None = None,
    lines: Iterable[str] | None = None,
    out: TextIO | None = None,
) -> int:
    """Estimate until the input ends; return 0.

    Args:
        argv: the flags; None for those of the process.
        lines: the input; None for standard input.
        out: where the estimates are written; None for standard output.
    """
    args = _parser().parse_args(argv)
    out = out or sys.stdout
    if lines is None:
        lines = sys.stdin
        lines.reconfigure(encoding="utf-8-sig", errors="replace")
    training.set_up(args.threads, ())
    stream = Stream.load(args.checkpoint)
    script = stream.trained.script
    sources = {name: Source(name) for name in stream.column_names}
    mapping = parse_mapping(args.columns or (), script)
    sources |= {ours: source for ours, source in mapping.items() if ours in sources}
    factors = Units(args.acc_unit, args.gyr_unit).factors(script)
    scale = np.repeat([factors[modality] for modality in stream.sizes], [*stream.sizes.values()])
    _say(f"Network: {stream.trained.row.name} of {Path(script.__file__).name}")
    if stream.trained.is_trained_on_synthetic_data:
        _say("NOTICE: this network was trained on synthetic data; do not use it on people.")
    _warm_up(stream.trained)
    _say(f"Reading lines at {stream.rate_hz:g} Hz from standard input, column names first ...")
    filler, latencies_s = GapFiller(stream.rate_hz, args.max_gap or MAX_GAP_S), array("f")
    try:
        numbered = ((i, line) for i, line in enumerate(lines, start=1) if line.strip())
        _, header = next(numbered, (1, ""))
        unit_s = SECONDS[args.time_unit or "s"]
        reader = LineReader(header, sources, args.time_column, unit_s, stream.rate_hz)
        if not reader.has_time:
            _say("NOTICE: no time column; every line counts as the next sample, none as lost")
        names = [f"{target.name} ({target.unit})" for target in stream.targets]
        print(TIME, *names, sep=",", file=out, flush=True)
        times_s: deque[float] = deque(maxlen=stream.lookahead + 1)
        for number, line in numbered:
            read_at = time.perf_counter()
            time_s, values = reader.read(line, number)
            for sample in filler.add(time_s, scale * values, number):
                if sample.is_first:
                    _report_gap(filler, number)
                    stream.reset()
                times_s.append(sample.time_s)
                estimate = stream.push(sample.values)
                if estimate is not None:
                    _write(out, times_s[0], estimate.values)
                latencies_s.append(time.perf_counter() - read_at)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # its reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    _report(stream, filler, latencies_s, args.threads)
    return 0


def _write(out: TextIO, time_s: float, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            "the output of the network is not finite; its training diverged, or the values are far "
            "too large: check the units"
        )
    time_text = f"{time_s:.{TIME_DIGITS}f}".rstrip("0").rstrip(".")
    print(time_text, *(f"{value:.7g}" for value in values), sep=",", file=out, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _warm_up(trained: Trained) -> None:
    """Run the network on zeros: its first calls are slow."""
    stream = Stream(trained)
    for _ in range(WARM_UP_SAMPLES):
        stream.push(np.zeros(len(stream.column_names)))


def _report_gap(filler: GapFiller, number: int) -> None:
    if filler.gap_s:
        _say(
            f"NOTICE: line {number}: {filler.gap_s:.3g} s after the last complete line, longer "
            "than --max-gap; the network starts anew"
        )


def _report(stream: Stream, filler: GapFiller, latencies_s: Sequence[float], threads: int) -> None:
    """Print how many samples there were, and how late the estimates came."""
    if not latencies_s:
        _say("No complete line was read.")
        return
    median_ms, high_ms = 1e3 * np.percentile(latencies_s, [50, 99])
    lookahead_ms = 1e3 * stream.lookahead / stream.rate_hz
    _say(
        f"Samples: {len(latencies_s):,}, of which {filler.filled:,} were missing and interpolated\n"
        f"From line to estimate: median {median_ms:.2f} ms, 99th percentile {high_ms:.2f} ms, "
        f"{threads} CPU thread{'s' if threads > 1 else ''}\n"
        f"Delay of an estimate: lookahead {lookahead_ms:g} ms + computation {median_ms:.2f} ms = "
        f"{lookahead_ms + median_ms:.2f} ms"
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.stream", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a streaming network")
    add("--acc-unit", choices=ACC_UNITS, help="unit of the accelerometers (default: m/s2)")
    add(
        "--gyr-unit",
        choices=GYR_UNITS,
        help="unit of the gyroscopes (default: that of the dataset, rad/s in A, deg/s in B)",
    )
    add(
        "--columns",
        nargs="+",
        metavar="OURS=[-]YOURS",
        help="names of your columns, as pairs or as one FILE with the columns yours,ours "
        "(default: the names of the dataset)",
    )
    add(
        "--time-column",
        metavar="NAME",
        help="name of the time column (default: time, if there is one; without a time, every line "
        "counts as the next sample)",
    )
    add("--time-unit", choices=SECONDS, help="unit of the time (default: s)")
    add(
        "--max-gap",
        type=positive_float,
        metavar="SECONDS",
        help="longest time between two complete lines that is interpolated, or two sampling "
        f"intervals if that is longer (default: {MAX_GAP_S})",
    )
    add(
        "--threads",
        type=positive_int,
        default=1,
        metavar="N",
        help="CPU threads (default: 1)",
    )
    return parser


if __name__ == "__main__":
    # The stream that `run_main` replaces: an estimate that nobody reads must end the command.
    run_main(partial(main, out=sys.stdout))
