"""What is checked before a checkpoint is read."""

from __future__ import annotations

from pathlib import Path

from common.files import InputError, file_digest, read_json, read_problem


def check_checkpoint(path: Path) -> None:
    """Check that a checkpoint is a file, and that it is the one of its result, if it has one.

    Raises:
        InputError: It is missing, a folder or a pipe, or its result states another digest.
    """
    if problem := read_problem(path):
        raise InputError(f"{path}: {problem}; checkpoints are in the folder checkpoints/ of a run")
    result = path.parent.parent / "results" / f"{path.stem}.json"
    if read_problem(result):
        return  # copied from its run
    digests = read_json(result).get("sha256")
    digest = digests.get(path.name) if isinstance(digests, dict) else None
    if digest and digest != file_digest(path):
        raise InputError(
            f"{path}: damaged or replaced (differs from {result}); copy it again, or train the row "
            "again with --resume"
        )
