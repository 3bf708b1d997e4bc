"""What the commands share: how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from common.files import InputError


def start(main: Callable[[], int]) -> None:
    """Run `main` and exit with its status; what the user can mend ends with one line and 2."""
    try:
        status = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
