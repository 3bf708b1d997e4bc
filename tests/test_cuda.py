"""Training on a GPU: every script, resuming, precision, several jobs. Skipped without one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

import Dataset_B_sensor_distillation as distillation
from common.files import load_checkpoint
from common.training import count_used_parameters
from tests.conftest import ROOT, Files, Patch
from tests.networks import SCRIPTS, chosen_rows, random_batch, row_named
from tests.running import NAME, ROWS, run_python, script, usual_flags
from tests.test_interruption import CountedLoss, interrupt
from tools.benchmark.inference import added_mb
from tools.trained import load_trained

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.usefixtures("without_figures"),
]


@contextmanager
def recorded_types() -> Iterator[set[tuple[str, torch.dtype, str]]]:
    """Record type and device of the outputs of recurrent layers and of all gradients."""
    found = set()

    def record(kind: str, values: Tensor) -> None:
        found.add((kind, values.dtype, values.device.type))

    def record_output(module: nn.Module, inputs: object, output: tuple[Tensor, object]) -> None:
        if isinstance(module, nn.LSTM | nn.GRU):
            record("output", output[0])

    def record_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    record("gradient", parameter.grad)

    hooks = [
        register_module_forward_hook(record_output),
        register_optimizer_step_pre_hook(record_gradients),
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("module", SCRIPTS, ids=lambda module: module.__name__)
def test_every_script_trains_on_a_gpu(
    module: ModuleType, synthetic_files: Files, tmp_path: Path
) -> None:
    """The tables are made on GPUs: in float32, with networks that give the same on a CPU."""
    rows, data = chosen_rows(module), synthetic_files[module.DATASET]
    flags = ["--data", str(data), "--output-dir", str(tmp_path), "--run-name", "run"]
    with recorded_types() as types:
        metrics = module.main([*flags, "--device", "cuda", "--epochs", "1", "--rows", *rows])
    assert types >= {("gradient", torch.float32, "cuda")}
    assert {(dtype, device) for _, dtype, device in types} == {(torch.float32, "cuda")}
    assert list(dict.fromkeys(metrics["row"])) == rows
    assert np.isfinite(metrics["nrmse_percent"]).all()
    folder, row = tmp_path / module.__name__ / "run", row_named(module, rows[-1])
    (path,) = folder.glob(f"checkpoints/{row.name}-subject_*")
    network = row.network().eval()
    network.load_state_dict(load_checkpoint(path).tensors)
    saved = np.load(folder / "predictions" / f"{path.stem}.npz")
    recording = module.read(data)
    window = torch.from_numpy(saved["sample"][: module.WINDOW])
    inputs = module.inputs({n: v[window] for n, v in recording.samples.items()}, row.sensor_set)
    with torch.no_grad():
        expected = network(*(values[None] for values in inputs))[0].numpy()
    found = saved["prediction"][: module.WINDOW]
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # rounding of TF32


def test_training_is_resumed_on_a_gpu(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """A run that is stopped every night must continue with the same dropout, on a GPU as well."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path)[:-1], "--device", "cuda"]
    flags += ["--save-every", "0.000001", "--epochs", "4"]
    script.main([*flags, "--run-name", "whole"])
    with monkeypatch.context() as patch:
        patch.setattr(script, "supervised_loss", CountedLoss(6, interrupt))
        with pytest.raises(KeyboardInterrupt):
            script.main([*flags, "--run-name", "stopped"])
    folder = tmp_path / NAME
    (path,) = folder.glob("stopped/unfinished/*.pt")
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert len(state["history"]) == 2
    assert state["random_cuda"].dtype == torch.uint8
    script.main(["--output-dir", str(tmp_path), "--resume", "stopped"])
    losses = [
        pd.read_csv(folder / name / "history.csv")[["training_loss", "validation_loss"]]
        for name in ("whole", "stopped")
    ]
    assert losses[0].to_numpy() == pytest.approx(losses[1].to_numpy(), rel=1e-3)


def test_two_jobs_share_a_gpu(synthetic_files: Files, tmp_path: Path) -> None:
    """`--jobs 2` trains two rows at the same time on one GPU, to the same numbers."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--device", "cuda"]
    script.main([*flags, "--run-name", "one"])
    done = run_python(script.__file__, *flags, "--run-name", "two", "--jobs", "2", folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Rows are trained in parallel, 2 at a time." in done.stdout
    one, two = (pd.read_csv(tmp_path / NAME / name / "metrics.csv") for name in ("one", "two"))
    assert list(dict.fromkeys(two["row"])) == ROWS
    assert two["rmse"].to_numpy() == pytest.approx(one["rmse"].to_numpy(), rel=1e-3)


@pytest.mark.parametrize("row", ["teacher", "distilled-feet"])
def test_used_parameters_are_counted_on_a_gpu(row: str) -> None:
    """cuDNN has no backward pass in eval mode; the size in the table must not depend on it."""
    network, inputs = row_named(distillation, row).network(), random_batch(distillation, row, 1)[0]
    count = count_used_parameters(network, inputs)
    assert count == count_used_parameters(network.cuda(), [values.cuda() for values in inputs])
    assert count < sum(parameter.numel() for parameter in network.parameters())


def test_loaded_networks_are_flat_on_a_gpu(synthetic_files: Files, tmp_path: Path) -> None:
    """Otherwise every call of a recurrent layer copies all its weights, and warns."""
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--device", "cuda", "--epochs", "1"]
    flags += ["--rows", "student-feet", "--run-name", "run"]
    distillation.main(flags)
    (path,) = tmp_path.glob("*/run/checkpoints/*")
    trained = load_trained(path)
    trained.network.to("cuda")
    inputs = random_batch(distillation, "student-feet", 2)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained.network(*(values.cuda() for values in inputs))


def allocate(millions: int, device: torch.device) -> None:
    """Use 4 MB per million of values."""
    torch.zeros(millions, 1_000_000, device=device)


def test_memory_is_measured_on_the_device_in_use() -> None:
    """With `--device cuda:1`, the memory of device 0 would be 0 MB."""
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    measured = [added_mb(last, allocate, size, last) for size in (10, 20)]
    assert measured == pytest.approx([40, 80], rel=0.2)
