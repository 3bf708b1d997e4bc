"""The command `python -m synthetic_gait --dataset a|b --out FILE`; `--help` lists all flags."""

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

from . import write_file


class _ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def main(argv: list[str] | None = None) -> int:
    """Write a file of synthetic gait and print a summary.

    Args:
        argv: command-line arguments; `sys.argv[1:]` if None.

    Returns:
        Exit status: 0, 2 if the file cannot be written as requested, 130 after Ctrl-C.
    """
    parser = _ArgumentParser(
        prog="python -m synthetic_gait",
        description="Simulate walking and write it to an HDF5 file in the layout of Dataset A or "
        "B: inertial sensors, EMG or video, joint moments and ground reaction forces.",
    )
    add = parser.add_argument
    add("--dataset", choices=("a", "b"), required=True, help="layout of the file")
    add("--subjects", type=int, default=3, metavar="N", help="number of subjects (default: 3)")
    add("--minutes", type=float, default=1.0, metavar="M", help="minutes per subject (default: 1)")
    add("--seed", type=int, default=0, metavar="S", help="random seed (default: 0)")
    add("--out", type=Path, required=True, metavar="FILE", help="HDF5 file to write")
    args = parser.parse_args(argv)
    start_s = time.perf_counter()
    try:
        write_file(args.out, args.dataset, args.subjects, args.minutes, args.seed)
    except ValueError as error:
        print(f"error: {error}; see --help", file=sys.stderr)
        return 2
    except OSError as error:
        reason = " ".join(str(error).split())
        print(f"error: {args.out}: cannot write the file ({reason})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    size_mb = args.out.stat().st_size / 1e6
    print(
        f"Wrote {args.out} ({size_mb:.1f} MB): synthetic gait in the layout of Dataset "
        f"{args.dataset.upper()}, subjects: {args.subjects}, minutes per subject: "
        f"{args.minutes:g}, seed: {args.seed} (took {time.perf_counter() - start_s:.1f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
