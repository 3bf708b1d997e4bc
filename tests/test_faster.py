"""Faster ways to train: what they change, and that they are on record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import training
from common.cli import run_main
from common.files import InputError
from common.training import Loss
from common.windows import Batch
from tests.conftest import Capture, Files, Patch
from tests.running import NAME, ROWS, no_figures, script, usual_flags

COMPILE = torch.compile


def test_a_run_records_how_it_was_made_faster(synthetic_files: Files, tmp_path: Path) -> None:
    """Numbers of rounded products must not pass as the usual ones, nor be mixed with them."""
    skip_without_bfloat16()
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--run-name", "low", "--rows", ROWS[0]]
    with no_figures():
        script.main([*flags, "--faster", "bf16"])
        folder = tmp_path / NAME / "low"
        config = json.loads((folder / "config.json").read_text())
        assert config["settings"]["faster"] == ["bf16"]
        with pytest.raises(InputError, match=r"faster: \['bf16'\] in the run, None now"):
            script.main(flags)
        shutil.rmtree(folder)
        script.main(flags)
    config = json.loads((folder / "config.json").read_text())
    assert "faster" not in config["settings"]


def skip_without_bfloat16() -> None:
    """Skip a test where this processor cannot train a recurrent layer in bfloat16."""
    layer, x = nn.LSTM(3, 4, batch_first=True, bidirectional=True), torch.zeros(2, 5, 3)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x)[0].float().square().mean()
        loss.backward()
    except RuntimeError as error:
        pytest.skip(f"no training in bfloat16 on this processor: {str(error).splitlines()[0]}")


def test_bfloat16_is_for_the_forward_pass_of_training_only() -> None:
    """The flag must have an effect, and leave weights, optimizer and prediction in float32."""
    skip_without_bfloat16()
    network, seen = nn.Linear(3, 2), []

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        output = network(*batch.inputs)
        seen.append(output.dtype)
        return (output.float() - batch.targets).square().mean()

    batch = Batch((torch.ones(4, 3),), torch.zeros(4, 2), ())
    assert training.accelerate(loss, []) is loss
    training.accelerate(loss, ["bf16"])(network, batch).backward()
    assert seen == [torch.bfloat16]
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}
    assert network(*batch.inputs).dtype == torch.float32


def test_tf32_is_off_unless_asked_for() -> None:
    """A run recorded as TF32 that was none would be compared as one, and the other way round."""
    with pytest.raises(InputError, match="--faster tf32: .*needs a CUDA device.*leave tf32 out"):
        training.check_faster(["tf32"], torch.device("cpu"))
    for faster in (["tf32"], []):
        training.set_up(1, faster)
        assert torch.backends.cuda.matmul.allow_tf32 == ("tf32" in faster)
        assert torch.backends.cudnn.allow_tf32 == ("tf32" in faster)


def test_a_way_that_this_machine_lacks_is_found_before_the_run(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Some CPUs have no LSTM in bfloat16: one line must say so, before the data are read."""
    forward = nn.LSTM.forward

    def without_bfloat16(layer: nn.LSTM, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor for the LSTM\nRun ...")
        return forward(layer, *inputs)

    monkeypatch.setattr(nn.LSTM, "forward", without_bfloat16)
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--faster", "bf16"]
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: script.main(flags))
    assert capsys.readouterr().err == (
        "error: --faster bf16: does not work on CPU here (could not create a primitive descriptor "
        "for the LSTM); leave bf16 out\n"
    )
    assert not (tmp_path / NAME).exists()


@pytest.mark.slow
def test_a_compiled_loss_trains_to_the_same_numbers(
    synthetic_files: Files, tmp_path: Path, monkeypatch: Patch
) -> None:
    """A compiled loss that computes something else would be a faster way to a wrong table."""
    compiled = []

    def compile_without_compiler(function: Loss) -> Loss:  # traced all the same
        compiled.append(function)
        return COMPILE(function, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_compiler)
    flags = [*usual_flags(synthetic_files["b"], tmp_path), "--epochs", "1", "--rows", ROWS[0]]
    with no_figures():
        usual = script.main(flags)
        faster = script.main([*flags, "--faster", "compile"])
    assert compiled[-1] is script.supervised_loss  # after the trial before the run
    assert faster["rmse"].tolist() == pytest.approx(usual["rmse"].tolist(), rel=1e-4)
