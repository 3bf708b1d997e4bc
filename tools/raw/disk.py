"""HDF5 files written whole, on a disk that may fill up."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from common.files import InputError, written_whole


class _PatientFile(io.FileIO):
    """A file whose errors wait: HDF5 ends the process when a write fails while it closes a file.

    After the first failed write nothing is written any more, and `error` tells why.
    """

    error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`; FileIO itself may stop half-way."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def new_hdf5(path: Path, what: str) -> Iterator[h5py.File]:
    """Give an HDF5 file to fill, which takes the place of `path` when it is whole.

    Args:
        path: Of the file. what: Its content, for the error.

    Raises:
        InputError: The disk is full or cannot be written; nothing is left behind.
    """
    try:
        with written_whole(path) as part, _PatientFile(part, "w+") as raw:
            try:
                with h5py.File(raw, "w") as file:
                    yield file
            finally:  # HDF5 may have stumbled over what was not written: the cause comes first
                if raw.error is not None:
                    raise raw.error
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise InputError(
            f"{path}: {what} cannot be written ({reason}); free disk space and call again: "
            "finished subjects are kept"
        ) from error
