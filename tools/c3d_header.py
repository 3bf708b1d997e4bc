"""Check a c3d file before it is read: the library that reads it crashes on some damaged files.

Source: The C3D File Format, https://www.c3d.org/docs/C3D_User_Guide.pdf
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

from common.files import InputError, shorten

BLOCK = 512  # bytes
MAGIC = 0x50  # second byte of the header and of the parameter section
ORDERS = {84: "<", 85: "<", 86: ">"}  # byte order by processor: Intel, DEC, SGI
SIGN_BYTES = {84: 15, 85: 13, 86: 12}  # of the scale in the header, negative if values are floats
MOST = 255  # values of a parameter, of which more are in SCALE2 and so on
LARGEST = 2**16 - 1
TYPES = (-1, 1, 2, 4)  # of a parameter: text, byte, integer, float; the absolute value is its size


class _DamagedError(Exception):
    """The file is damaged; the message says how."""


def check_c3d(path: Path) -> None:
    """Check the header, the chain of parameters, and that the file has the frames it declares.

    Raises:
        InputError: The file cannot be read, is not a c3d file, or is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(BLOCK)
            if len(head) < BLOCK or head[1] != MAGIC:
                raise InputError(f"{path}: not a c3d file; export the trial as c3d")
            size = path.stat().st_size
            start = BLOCK * (head[0] - 1)
            file.seek(max(start, 0))
            section = file.read(4)
            if start < BLOCK or len(section) < 4 or section[3] not in ORDERS:
                raise _DamagedError("no parameters where the header says")
            order = ORDERS[section[3]]
            points, analog, first, last = struct.unpack(f"{order}4H", head[2:10])
            data_start = BLOCK * (struct.unpack(f"{order}H", head[16:18])[0] - 1)
            if not start < data_start <= size:
                raise _DamagedError("its data do not start after its parameters, within the file")
            numbers, sizes = _numbers(file.read(data_start - start - 4), order)
            channels = min(max(numbers.get("ANALOG:USED", (0,))), MOST)
            for name in ("ANALOG:SCALE", "ANALOG:OFFSET") if analog or channels else ():
                if sizes.get((name, 2), 0) + sizes.get((name, 4), 0) < max(channels, 1):
                    raise _DamagedError(f"{name} has fewer numbers than there are channels")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (_DamagedError, struct.error, IndexError) as error:
        reason = error if isinstance(error, _DamagedError) else "its parameters are cut off"
        raise InputError(f"{path}: damaged c3d file ({reason}); export it again") from error
    points = max(points, *numbers.get("POINT:USED", ()), 0)
    word = 4 if head[SIGN_BYTES[section[3]]] & 0x80 else 2
    per_frame = word * (4 * points + analog)
    declared = numbers.get("POINT:FRAMES", ())[:1]
    # Numbers of 16 bits: of a long recording, the header states the largest.
    frames = max(last - first + 1 if last < LARGEST else 0, *declared, 0)
    is_at_limit = (*declared, last)[0] == LARGEST
    if is_at_limit and size - data_start > LARGEST * per_frame + BLOCK:
        raise InputError(f"{path}: longer than {LARGEST:,} frames; export it in several parts")
    if per_frame * frames > size - data_start:
        raise InputError(
            f"{path}: damaged c3d file (truncated: it declares {frames} frames of {per_frame} "
            "bytes, and has fewer); export or copy it again"
        )


def _numbers(
    section: bytes, order: str
) -> tuple[dict[str, tuple[int, ...]], dict[tuple[str, int], int]]:
    """Return what the parameters contain.

    Returns:
        GROUP:NAME -> values of the integer parameters, as unsigned numbers; and GROUP:NAME and type
        -> number of values.

    Raises:
        _DamagedError: A parameter does not fit into its section or belongs to no group.
    """
    groups: dict[int, str] = {}
    found: dict[tuple[int, str], tuple[int, ...]] = {}
    counts: dict[tuple[int, str, int], int] = {}
    here = 0
    while here < len(section) and section[here]:
        length, group = struct.unpack_from("2b", section, here)
        name = section[here + 2 : here + 2 + abs(length)].decode("latin-1").upper()
        here += 2 + abs(length)
        step = struct.unpack_from(f"{order}H", section, here)[0]
        content = here + 2
        if group < 0:
            groups[-group] = name
        else:
            kind, dimensions = struct.unpack_from("bB", section, content)
            if kind not in TYPES:
                raise _DamagedError(f"parameter {shorten(name, 40)!r} has no valid type")
            shape = section[content + 2 : content + 2 + dimensions]
            content += 2 + dimensions
            count = math.prod(shape)
            if content + count * abs(kind) >= len(section) or len(shape) < dimensions:
                raise _DamagedError(f"parameter {shorten(name, 40)!r} does not fit into the file")
            counts[group, name, kind] = count
            if kind == 2:
                found[group, name] = struct.unpack_from(f"{order}{count}H", section, content)
            content += count * abs(kind)
        if step and here + step < content + 1 + section[content]:
            raise _DamagedError(f"parameter {shorten(name, 40)!r} overlaps with the next one")
        if not step:
            break
        here += step
    if unknown := {group for group, *_ in counts} - {*groups}:
        raise _DamagedError(f"parameters of group {min(unknown)}, which does not exist")
    numbers = {f"{groups[group]}:{name}": values for (group, name), values in found.items()}
    sizes = {(f"{groups[group]}:{name}", kind): n for (group, name, kind), n in counts.items()}
    return numbers, sizes
