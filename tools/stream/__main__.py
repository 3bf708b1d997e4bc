"""Estimate moments and forces in real time: read samples from standard input, print estimates.

The first line has the column names, each further line one sample at the network's rate; commas,
semicolons, tabs or | separate the columns, which may be in any order. For every sample, one CSV
line with its time and its targets is printed, delayed by the lookahead of the network (50 ms). The
first lines therefore produce no output, and the last samples get no estimate.

  cat walk.csv | python -m tools.stream --checkpoint FILE
  my_sensor | python -m tools.stream --checkpoint FILE --acc-unit g | my_exoskeleton

FILE is the checkpoint of a streaming student, such as the row `streaming-foot` of
`python -m beyond.Dataset_A_streaming`:
outputs/<script>/<run>/checkpoints/<row>-subject_<id>.safetensors

Lost lines, and lines with an empty cell, are interpolated as soon as the next complete line
arrives. After a gap longer than --max-gap, the network is reset, which is reported on standard
error. End the command with Ctrl-C or by closing its input; it then prints its latency on standard
error.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TextIO

import numpy as np
from threadpoolctl import threadpool_limits

from common.cli import ArgumentParser, file_path, positive_float, positive_int, run_main
from common.files import InputError, plural
from tools.stream.lines import LONGEST_FILL_S, GapFiller, LineReader, read_lines
from tools.stream.stream import Stream, is_trained_on_synthetic_data
from tools.stream.watch import Watch
from tools.trial_file import (
    ACC_UNITS,
    GYR_UNITS,
    MAX_GAP_S,
    SECONDS,
    TIME,
    TIME_DIGITS,
    Source,
    Units,
    parse_mapping,
)

WARM_UP_SAMPLES = 20  # the first calls of a network are slow


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
    if args.max_gap > LONGEST_FILL_S:
        raise InputError(
            f"--max-gap {args.max_gap:g}: at most {LONGEST_FILL_S:g} s can be interpolated"
        )
    out = out or sys.stdout
    if lines is None:
        if sys.stdin is None:
            raise InputError("standard input is closed; pipe lines into this command")
        lines = read_lines(sys.stdin.buffer.read1)
    threadpool_limits(args.threads)
    stream = Stream.load(args.checkpoint)
    script, description = stream.script, stream.description
    mapping = parse_mapping(args.columns or (), script)
    sources = {name: mapping.get(name, Source(name)) for name in stream.column_names}
    factors = Units(args.acc_unit, args.gyr_unit).factors(script)
    scale = np.repeat([factors[modality] for modality in stream.sizes], [*stream.sizes.values()])
    _print(f"Network: {description['row']} of {description['script']}.py")
    if is_trained_on_synthetic_data(description):
        _notify("this network was trained on synthetic data; do not use it on people.")
    for _ in range(WARM_UP_SAMPLES):
        stream.network.step(np.zeros(len(sources)))
    stream.reset()
    _print(f"Reading lines at {stream.rate_hz:g} Hz from standard input, column names first ...")
    filler, latencies_s = GapFiller(stream.rate_hz, args.max_gap), array("f")
    watch = Watch(stream)
    try:
        numbered = ((i, line) for i, line in enumerate(lines, start=1) if line.strip())
        _, header = next(numbered, (1, ""))
        unit_s = SECONDS[args.time_unit]
        reader = LineReader(
            header, sources, args.time_column, unit_s, stream.rate_hz, notify=_notify
        )
        if not reader.has_time:
            _notify("no time column; each line is taken as the next sample, none as lost")
        names = [f"{target.name} ({target.unit})" for target in stream.targets]
        print(TIME, *names, sep=",", file=out, flush=True)
        times_s: deque[float] = deque(maxlen=stream.lookahead + 1)
        for number, line in numbered:
            read_at = time.perf_counter()
            time_s, values = reader.read(line, number)
            repeated = filler.repeated
            samples = filler.add(time_s, scale * values, number)
            if filler.repeated > repeated == 0:
                _notify(
                    f"line {number} has the same time as the line before; such lines are skipped"
                )
            for sample in samples:
                if sample.gap_s:
                    _notify(
                        f"line {number}: {sample.gap_s:.3g} s after the last complete line, longer "
                        "than --max-gap; the network is reset"
                    )
                    stream.reset()
                times_s.append(sample.time_s)
                estimate = stream.push(sample.values)
                if estimate is not None:
                    _write(out, times_s[0], estimate.values)
                latencies_s.append(time.perf_counter() - read_at)
                _warn(watch.add(sample))
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        return 0
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or the end of Python writes again
        raise InputError(f"cannot read or write the stream ({error.strerror})") from error
    _warn(watch.end())
    if not latencies_s:
        _print("No complete line was read.")
        return 0
    median_ms, high_ms = 1e3 * np.percentile(latencies_s, [50, 99])
    skipped = f"; skipped: {plural(filler.repeated, 'line')}" if filler.repeated else ""
    lookahead_ms = 1e3 * stream.lookahead / stream.rate_hz
    _print(
        f"Samples: {len(latencies_s):,}, of which {filler.filled:,} were missing and interpolated"
        f"{skipped}\n"
        f"From line to estimate: median {median_ms:.2f} ms, 99th percentile {high_ms:.2f} ms, "
        f"{plural(args.threads, 'CPU thread')}\n"
        f"Latency of an estimate: lookahead {lookahead_ms:g} ms + computation {median_ms:.2f} ms = "
        f"{lookahead_ms + median_ms:.2f} ms"
    )
    return 0


def _write(out: TextIO, time_s: float, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            "the output of the network is not finite; its training diverged, or the values are far "
            "too large: check the units"
        )
    time_text = f"{time_s:.{TIME_DIGITS}f}".rstrip("0").rstrip(".")
    print(time_text, *(f"{value:.7g}" for value in values), sep=",", file=out, flush=True)


def _warn(problems: str) -> None:
    if problems:
        _notify(f"{problems}; check the sensors, --acc-unit and --gyr-unit")


def _notify(text: str) -> None:
    _print(f"NOTICE: {text}")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m tools.stream", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=file_path, required=True, metavar="FILE", help="a streaming student")
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
        help="names of your columns: a FILE with the columns yours,ours, then pairs that replace "
        "its entries, or only one of these (default: the names of the dataset)",
    )
    add(
        "--time-column",
        metavar="NAME",
        help="name of the time column (default: time, if there is one; without it, each line is "
        "taken as the next sample)",
    )
    add("--time-unit", choices=SECONDS, default="s", help="unit of the time (default: s)")
    add(
        "--max-gap",
        type=positive_float,
        default=MAX_GAP_S,
        metavar="SECONDS",
        help="longest gap that is interpolated; at least two sampling intervals "
        f"(default: {MAX_GAP_S})",
    )
    add("--threads", type=positive_int, default=1, metavar="N", help="CPU threads (default: 1)")
    return parser


if __name__ == "__main__":
    # Bypass the wrapper of `run_main` around stdout, so that a closed pipe ends the command
    run_main(partial(main, out=sys.stdout))
