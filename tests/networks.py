"""The scripts, their networks in full and reduced size, random inputs, and short training."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.runs import Row
from common.training import Progress, count_used_parameters
from common.windows import Batch, Fold
from tests.conftest import ROOT
from tests.running import no_figures

Loss = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
SCRIPTS = [import_module(path.stem) for path in sorted(ROOT.glob("Dataset_*.py"))]
BEYOND = [import_module(f"beyond.{path.stem}") for path in sorted(ROOT.glob("beyond/Dataset_*.py"))]
# Layers small enough for tests: the real networks have up to 254 million parameters.
NARROW = {
    "FFN": {"hidden_sizes": (16, 12, 8)},
    "HandcraftedFFN": {"hidden_sizes": (16, 12, 8)},
    "BiLSTM": {"hidden_sizes": (6, 4)},
    "LMFN": {"hidden_size": 4, "fused_size": 8, "rank": 2},
    "TFN": {"hidden_size": 4, "size": 3, "fused_size": 8},
    "KineticsMFFMNet": {"hidden_sizes": (6, 4)},
    "StreamingMFFMNet": {"hidden_sizes": (6, 8)},  # its features have the size of the teacher's
    "AblationNet": {"hidden_sizes": (6, 4)},
    "KineticsFMNet": {"hidden_sizes": (6, 4)},
    "Conv1DEncoder": {"maps": (4, 5, 6, 7)},
    "Conv2DEncoder": {"maps": (4, 5, 6, 7)},
}


@contextmanager
def narrow_networks() -> Iterator[None]:
    """Reduce the default layer sizes of all scripts' networks; everything else stays."""
    with pytest.MonkeyPatch.context() as patch:
        for script in SCRIPTS + BEYOND:
            make_narrow(script, patch)
        yield


def make_narrow(script: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Reduce the default layer sizes of a script's networks."""
    for name, sizes in NARROW.items():
        if hasattr(script, name):
            defaults = getattr(script, name).__init__.__kwdefaults__
            for argument, size in sizes.items():
                patch.setitem(defaults, argument, size)


def random_samples(script: ModuleType, windows: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random modalities and targets of a script, `(windows, T, C)` each."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(windows, script.WINDOW, len(columns), generator=generator)
        for name, columns in script.COLUMNS.items()
        if name != "body"
    }


def row_named(script: ModuleType, name: str) -> Row:
    """Return the row of a script with this name."""
    return next(row for row in script.ROWS if row.name == name)


def chosen_rows(script: ModuleType) -> list[str]:
    """Return a few rows of a script, of every kind, in the order of its table."""
    family = script.__name__[10:].lower()
    if family == "sensor_distillation":  # the teacher, and both students with the fewest IMUs
        return [row.name for row in script.ROWS[:3]]
    if family == "model_ablation":
        return ["early_lstm", "mffm_gated", "maf_mwff_gate_lstm"]
    few, full = script.IMU_SETS[0], getattr(script, "FULL_SET", "")
    if family == "kinetics_fm_models":
        kinds = ["dlr_rmse", "dlr_correlation", "dlr", *(["dl"] if script.DATASET == "b" else [])]
        return [f"{kind}-{few}" for kind in kinds]
    if family == "lmfn_tfn_fusion_models":
        return [f"lmfn-{few}", f"lmfn-{full}", f"tfn-{full}"]
    return [f"ffn_hf-{few}", f"ffn-{full}", f"lstm-{few}", f"conv2d-{few}"]


def random_batch(script: ModuleType, row: str, windows: int, seed: int = 0) -> Batch:
    """Return a random batch as it is passed to the loss of a row."""
    samples = random_samples(script, windows, seed)
    inputs = script.inputs(samples, row_named(script, row).sensor_set)
    return Batch(tuple(inputs), samples["targets"], ())


def meta_network(script: ModuleType, row: str) -> nn.Module:
    """Build the network of a row without memory for its weights."""
    with torch.device("meta"):
        return row_named(script, row).network()


def count_parameters(network: nn.Module) -> int:
    """Count all parameters."""
    return sum(p.numel() for p in network.parameters())


def parameters_of_rows(script: ModuleType) -> dict[str, int]:
    """Count the parameters of the network of every row."""
    return {row.name: count_parameters(meta_network(script, row.name)) for row in script.ROWS}


def unused_parameters(script: ModuleType, rows: Iterable[Row]) -> dict[str, int]:
    """Count the parameters that the prediction of each row does not depend on, if any."""
    samples = random_samples(script, 1)
    unused = {}
    for row in rows:
        network = row.network()
        used = count_used_parameters(network, script.inputs(samples, row.sensor_set))
        if used != count_parameters(network):
            unused[row.name] = count_parameters(network) - used
    return unused


def check_dependence(
    script: ModuleType,
    rows: Iterable[Row],
    outputs: Callable[[nn.Module, Sequence[Tensor]], Iterable[Tensor]] | None = None,
) -> None:
    """Check by gradients that every output depends on all channels of the row's set and no others.

    Args:
        script: the script.
        rows: its rows to check.
        outputs: the outputs of a network and its inputs, by default the prediction alone.
    """
    for row in rows:
        torch.manual_seed(0)
        sensors, modalities = script.SENSOR_SETS[row.sensor_set]
        samples = random_samples(script, 1)
        watched = [values.requires_grad_() for values in samples.values()]
        network = row.network().eval().requires_grad_(False)
        inputs = script.inputs(samples, row.sensor_set)
        for output in outputs(network, inputs) if outputs else [network(*inputs)]:
            total = output.square().sum()
            gradients = torch.autograd.grad(total, watched, retain_graph=True, allow_unused=True)
            for (modality, values), gradient in zip(samples.items(), gradients, strict=True):
                count = values.shape[-1]
                found = torch.zeros(count) if gradient is None else gradient.abs().sum((0, 1))
                expected = np.full(count, modality in modalities)
                if modality in ("acc", "gyr"):
                    expected = np.repeat([sensor in sensors for sensor in script.SENSORS], 3)
                assert ((found > 0).numpy() == expected).all(), (row.name, modality)


def run_script(
    script: ModuleType, data: Path, output_dir: Path, run_name: str, *flags: str
) -> Path:
    """Run a script in this process on the CPU, without figures; return the folder of the run."""
    where = ["--data", str(data), "--output-dir", str(output_dir), "--run-name", run_name]
    with no_figures():
        script.main([*where, "--device", "cpu", *flags])
    return output_dir / Path(script.__file__).stem / run_name


class Training(NamedTuple):
    """The arguments of one call of a script's `train`."""

    network: nn.Module
    fold: Fold
    loss: Loss
    criterion: Criterion
    epochs: int


def record_trainings(script: ModuleType, patch: pytest.MonkeyPatch) -> list[Training]:
    """Train every network of a script for one epoch only, and record the arguments of `train`."""
    calls, train = [], script.train

    def train_one_epoch(
        network: nn.Module,
        fold: Fold,
        loss: Loss,
        criterion: Criterion,
        epochs: int,
        args: argparse.Namespace,
        progress: Progress,
    ) -> None:
        calls.append(Training(network, fold, loss, criterion, epochs))
        train(network, fold, loss, criterion, 1, args, progress)

    patch.setattr(script, "train", train_one_epoch)
    return calls
