"""When targets are valid: while the foot of that side is on a force plate."""

from __future__ import annotations

import argparse
import re
from typing import NamedTuple, Self

import numpy as np

from common.files import InputError
from tools.signals import find_runs

DURATION_S = (0.3, 1.5)  # of a stance in walking
AROUND_S = 0.0


class Contact(NamedTuple):
    """A rule that finds the contacts of a foot in a force.

    Attributes:
        column: the force, a target of the script in its unit there, or a column of the files.
        sign: 1, or -1 if the force is negative in contact.
        threshold: a foot with a larger force times `sign` is in contact.
        shortest_s: a shorter contact does not count.
        longest_s: a longer contact does not count.
        peak: a contact whose largest force times `sign` is smaller does not count.
        before_s: targets are valid from so long before a contact.
        after_s: targets are valid until so long after a contact.
    """

    column: str
    sign: float
    threshold: float
    shortest_s: float
    longest_s: float
    peak: float
    before_s: float
    after_s: float

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> Self | None:
        """Return the rule in the flags, or None if there is none.

        Raises:
            InputError: The rule is malformed.
        """
        if not args.valid_contact:
            if args.contact_duration or args.contact_peak is not None or args.contact_around:
                raise InputError("--contact-...: needs a rule --valid-contact 'FORCE > VALUE'")
            return None
        number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
        rule = re.fullmatch(rf"\s*(.+?)\s*([<>])\s*({number})\s*", args.valid_contact)
        if not rule:
            raise InputError(
                f"--valid-contact {args.valid_contact!r}: write the name of a force, > or < and a "
                "number, such as 'vertical_force > 0.05'"
            )
        sign = 1.0 if rule[2] == ">" else -1.0
        shortest_s, longest_s = args.contact_duration or DURATION_S
        if shortest_s >= longest_s:
            raise InputError("--contact-duration: the first number must be the smaller one")
        before_s, after_s = args.contact_around or (AROUND_S, AROUND_S)
        threshold = sign * float(rule[3])
        if min(before_s, after_s) < 0:
            raise InputError("--contact-around: both numbers must be 0 or more")
        peak = threshold if args.contact_peak is None else sign * args.contact_peak
        if peak < threshold:
            raise InputError(
                f"--contact-peak {args.contact_peak:g}: every contact by the rule "
                f"{args.valid_contact!r} reaches it; check its sign and unit"
            )
        return cls(rule[1], sign, threshold, shortest_s, longest_s, peak, before_s, after_s)

    def __str__(self) -> str:
        """Return the rule in words."""
        bounds = f"for {self.shortest_s:g} to {self.longest_s:g} s"
        comparison = f"{'>' if self.sign > 0 else '<'} {self.sign * self.threshold:g}"
        return f"{self.column} {comparison} {bounds}, peak at least {self.sign * self.peak:g}"

    def find(self, force: np.ndarray, rate_hz: float) -> tuple[np.ndarray, int]:
        """Return where targets are valid, `(samples,)`, and the number of contacts.

        Args:
            force: `(samples,)`; NaN where there is no contact.
            rate_hz: sampling rate.
        """
        force = self.sign * np.nan_to_num(force, nan=-self.sign * np.inf)
        is_loaded = force > self.threshold
        is_valid, contacts = np.zeros(len(force), bool), 0
        for start, stop in find_runs(is_loaded):
            is_long_enough = self.shortest_s <= (stop - start) / rate_hz <= self.longest_s
            if is_long_enough and force[start:stop].max() >= self.peak:
                before, after = (round(s * rate_hz) for s in (self.before_s, self.after_s))
                is_valid[max(start - before, 0) : stop + after] = True
                contacts += 1
        return is_valid, contacts


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the rule."""
    add = parser.add_argument
    add(
        "--valid-contact",
        metavar="RULE",
        help="the targets are valid only while the foot is on a force plate: 'FORCE > VALUE' (or "
        "<), where FORCE is a target of the script, in its unit there, or a column of the files; "
        "all targets are NaN elsewhere",
    )
    add(
        "--contact-duration",
        nargs=2,
        type=float,
        metavar=("SHORTEST", "LONGEST"),
        help=f"duration of a contact in s (default: {DURATION_S[0]} {DURATION_S[1]})",
    )
    add(
        "--contact-peak",
        type=float,
        metavar="VALUE",
        help="smallest peak of FORCE in a contact (default: that of the rule)",
    )
    add(
        "--contact-around",
        nargs=2,
        type=float,
        metavar=("BEFORE", "AFTER"),
        help="the targets are also valid this long (in s) before and after a contact (default: "
        "0 0)",
    )
