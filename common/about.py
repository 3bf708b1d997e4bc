"""What a run says of itself, in `config.json` and on the screen before the first training."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import platform
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from common import flags
from common.data import Recording
from common.experiments import Experiment, Study
from common.plan import Plan


def settings(
    study: Study,
    options: argparse.Namespace,
    recording: Recording,
    plan: Plan,
    device: torch.device,
) -> dict[str, Any]:
    """Return what decides the numbers of a run; runs that differ in it are different runs."""
    return {
        "script": study.script.stem,
        "data": {
            "file": recording.path.name,
            "bytes": recording.path.stat().st_size,
            "subjects": recording.subjects,
            "digest": digest(recording),
        },
        "protocol": options.protocol,
        **{name: value for name, value in plan.settings._asdict().items() if value != ()},
        **({"row_epochs": plan.row_epochs} if plan.row_epochs else {}),
        **{name: getattr(options, name) for name in study.own_flags},
        "device": device.type,
        **({"threads": options.threads} if device.type == "cpu" else {}),
    }


def model(study: Study, experiment: Experiment) -> dict[str, Any]:
    """Return what decides how a row's model is built, what it reads and what it gives."""
    arguments = inspect.signature(experiment.model.func).bind(
        *experiment.model.args, **experiment.model.keywords
    )
    arguments.apply_defaults()
    sensors, modalities = study.sensor_sets[experiment.sensor_set]
    return {
        "script": study.script.stem,
        "row": experiment.row,
        "model": experiment.model.func.__name__,
        "arguments": arguments.arguments,
        "sensor_set": experiment.sensor_set,
        "sensors": sensors,
        "modalities": modalities,
        "targets": [target._asdict() for target in study.targets],
        "window": study.window,
        "rate_hz": study.rate_hz,
    }


def checkpoint(
    study: Study, experiment: Experiment, test_subject: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what a checkpoint tells of its model, so that it can be used without its run.

    Args:
        study: The script's. experiment: The row. test_subject: Not trained on.
        settings: Of the run.
    """
    return {
        **model(study, experiment),
        "normalisation": "by the model's own input BatchNorm, whose statistics are tensors here",
        "test_subject": test_subject,
        "settings": settings,
        "versions": _versions(),
        "git": _git_description(study.script.parent),
    }


def digest(recording: Recording) -> str:
    """Tell one data file from another by everything that is read of it."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(recording.samples):
        found.update(np.ascontiguousarray(recording.samples[name].cpu().numpy()).data)
    for numbers in (recording.subject, recording.activity, recording.stretch):
        found.update(np.ascontiguousarray(numbers).data)
    return found.hexdigest()


def side_by_side(options: argparse.Namespace, jobs: int) -> str:
    """Return what is to be said where trainings run side by side."""
    where = f"on the cluster at {options.scheduler}" if options.scheduler else f"{jobs} at a time"
    return f"Trainings run side by side, {where}; a line appears when one is done."


def circumstances(
    study: Study, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return the flags as given, the device, the versions and the state of the checkout."""
    given = {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()}
    given.pop("given", None)
    return {
        "flags": given,
        "device_name": flags.device_name(device),
        "versions": _versions(),
        "git": _git_description(study.script.parent),
    }


def _versions() -> dict[str, str]:
    modules = {module.__name__: module.__version__ for module in (torch, np, h5py)}
    return {"python": platform.python_version(), **modules}


def _git_description(checkout: Path) -> str | None:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def introduction(
    study: Study,
    options: argparse.Namespace,
    recording: Recording,
    plan: Plan,
    device: torch.device,
) -> str:
    """Return what is to be said before the first training."""
    rows = len(recording.subject)
    lines = [
        f"Data: {recording.path}, {len(recording.subjects)} subjects, {rows:,} rows, "
        f"{rows / study.rate_hz / 60:.1f} minutes",
        f"Device: {flags.device_name(device)}",
    ]
    if device.type == "cpu":
        lines.append("NOTICE: training on the CPU, which is slow; no CUDA device is in use.")
    if recording.dropped:
        parts = [f"{place} {count:,}" for place, count in recording.dropped.items()]
        total = sum(recording.dropped.values())
        lines.append(f"Dropped {total:,} rows with NaN: {', '.join(parts)}")
    if options.protocol == "strict" and not recording.has_trials:
        lines.append("NOTICE: the file has no `trial_starts`: windows stay within an activity.")
    if plan.is_sample:
        lines.append(
            "SYNTHETIC DATA: simulated gait stands in for the measured file. It shows that "
            "everything runs; its figures are not the paper's."
        )
    if plan.is_short:
        lines.append(
            f"A quick look: trainings of {plan.settings.epochs} epochs; --epochs {study.epochs} "
            "trains as the paper."
        )
    if plan.is_part:
        lines.append(
            f"A quick look: {len(plan.rows)} of {len(study.rows)} rows; --rows all runs them all, "
            "--help lists them."
        )
    if plan.added:
        lines.append(f"Rows that the others need and that come first: {', '.join(plan.added)}")
    return "\n".join(lines)
