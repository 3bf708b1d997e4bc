"""`python -m common.sample --dataset a|b --subjects N --minutes M --seed S --out FILE`."""

import argparse
import sys
import time
from pathlib import Path

from . import write_sample


def main(argv: list[str] | None = None) -> None:
    """Write one sample file and say what was written; exit with status 2 if that is impossible."""
    parser = argparse.ArgumentParser(
        prog="python -m common.sample",
        description="Write synthetic gait that obeys mechanics, in the layout of the real files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--dataset", choices=("a", "b"), required=True, help="layout of the file")
    parser.add_argument("--subjects", type=int, default=3, help="number of subjects")
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes of walking per subject")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to write (replaced)")
    args = parser.parse_args(argv)
    began_s = time.perf_counter()
    try:
        write_sample(args.out, args.dataset, args.subjects, args.minutes, args.seed)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        sys.exit(2)
    size_mb = args.out.stat().st_size / 1e6
    print(
        f"{args.out}: dataset {args.dataset}, {args.subjects} subjects of {args.minutes:g} min, "
        f"seed {args.seed}, {size_mb:.1f} MB, {time.perf_counter() - began_s:.1f} s"
    )


if __name__ == "__main__":
    main()
