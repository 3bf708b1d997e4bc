"""Ways to train faster: what they change, and that they are on record."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import Dataset_B_lmfn_tfn_fusion_models as script
from common import faster
from common.files import InputError

BATCHES = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], [2, 4, 6, 8], [1, 3, 5, 7]]  # one is short


class Problem:
    """A network with dropout and BatchNorm statistics, its optimiser, and its training step."""

    def __init__(self, device: str = "cpu", capturable: bool = False) -> None:
        torch.manual_seed(0)
        layers = [nn.BatchNorm1d(3), nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2)]
        self.model = nn.Sequential(*layers).to(device)
        self.x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1)).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), 0.05, capturable=capturable)
        torch.manual_seed(2)

    def step(self, chosen: Tensor) -> Tensor:
        """Train on some windows."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = (self.model(self.x[chosen]) - self.x[chosen, :2]).square().mean()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def train(self, step: faster.Step) -> list[float]:
        """Go through the batches; return the losses."""
        return [float(step(torch.tensor(batch, device=self.x.device))) for batch in BATCHES]

    def graphed(self) -> faster.GraphedStep:
        """Capture the step."""
        chosen = torch.tensor(BATCHES[0], device=self.x.device)
        return faster.GraphedStep(self.step, self.model, self.optimiser, chosen)


class FakeGraph:
    """What a CUDA graph does, on the CPU: what is captured does not run, but can be replayed."""

    captured: Problem

    def replay(self) -> None:
        """Do again what was captured, into the same memory."""
        self.step.loss.copy_(self.captured.step(self.step.chosen))


@contextlib.contextmanager
def capturing(graph: FakeGraph) -> Iterator[None]:
    """Take back what runs while it is captured."""
    problem, random = graph.captured, torch.get_rng_state()
    before = copy.deepcopy([problem.model.state_dict(), problem.optimiser.state_dict()])
    yield
    problem.model.load_state_dict(before[0])
    problem.optimiser.load_state_dict(before[1])
    torch.set_rng_state(random)


class FakeStream:
    """A CUDA stream, on the CPU."""

    def __init__(self, device: torch.device) -> None:
        pass

    def wait_stream(self, stream: FakeStream) -> None:
        """Wait for nothing."""


def test_a_graphed_step_trains_as_the_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warming up must leave no trace, a short last batch must count, each batch be its own.

    The GPU's part is stood in for here; the next test runs it where there is one.
    """
    fakes = {
        "Stream": FakeStream,
        "current_stream": FakeStream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": capturing,
        "get_rng_state": lambda device: torch.get_rng_state(),
        "set_rng_state": lambda state, device: torch.set_rng_state(state),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    usual, other = Problem(), Problem()
    expected = usual.train(usual.step)
    torch.manual_seed(2)
    monkeypatch.setattr(FakeGraph, "captured", other, raising=False)
    step = other.graphed()
    step.graph.step = step
    assert other.train(step) == expected
    for name, values in other.model.state_dict().items():
        assert torch.equal(values, usual.model.state_dict()[name]), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graphed_step_trains_as_the_step_does_on_a_gpu() -> None:
    """A captured graph that reads old memory would train on anything."""
    usual = Problem("cuda", capturable=True)
    expected = usual.train(usual.step)
    torch.manual_seed(2)
    other = Problem("cuda", capturable=True)
    assert other.train(other.graphed()) == pytest.approx(expected, rel=1e-5)


def test_adam_begun_by_hand_begins_the_same() -> None:
    """Moments that are made within a graph would be made anew in every step."""
    usual, begun = Problem(), Problem()
    before = copy.deepcopy(begun.model.state_dict())
    faster.begin_adam(begun.optimiser)
    assert all(torch.equal(before[name], v) for name, v in begun.model.state_dict().items())
    expected = usual.train(usual.step)
    torch.manual_seed(2)
    assert begun.train(begun.step) == expected
    kept = copy.deepcopy(begun.optimiser.state_dict()["state"])
    faster.begin_adam(begun.optimiser)  # as when a training goes on
    assert str(kept) == str(begun.optimiser.state_dict()["state"])


def test_a_run_tells_how_it_was_made_faster(sample_files: dict[str, Path], tmp_path: Path) -> None:
    """Numbers of rounded products must not pass as the usual ones, nor be mixed with them."""
    usual = ["--data", str(sample_files["b"]), "--output-dir", str(tmp_path), "--run-name", "low"]
    usual += ["--rows", "lmfn-feet", "--epochs", "1", "--device", "cpu"]
    script.main([*usual, "--faster", "bf16"])
    config = json.loads((tmp_path / script.STUDY.script.stem / "low" / "config.json").read_text())
    assert config["settings"]["faster"] == ["bf16"]
    with pytest.raises(InputError, match="faster: .*bf16.* there, None now"):
        script.main(usual)


@pytest.mark.parametrize("way", faster.ON_CUDA)
def test_ways_of_the_gpu_are_refused_elsewhere(way: str) -> None:
    """A run on record as TF32 that was none would be compared as one."""
    with pytest.raises(InputError, match=f"--faster {way}: needs --device cuda"):
        faster.check(["bf16", way], torch.device("cpu"))
    faster.check(["bf16", "compile"], torch.device("cpu"))
    faster.check(list(faster.WAYS), torch.device("cuda"))


def test_bfloat16_is_for_the_forward_pass_of_training_only() -> None:
    """The flag must do something, and leave weights, optimiser and prediction in float32."""
    problem = Problem()
    seen = []

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output = model(batch["x"])
        seen.append(output.dtype)
        return output.float().square().mean()

    assert faster.faster_loss(loss, (), problem.x.device) is loss
    low = faster.faster_loss(loss, ("bf16",), problem.x.device)
    low(problem.model, {"x": problem.x}).backward()
    assert seen == [torch.bfloat16]
    assert {p.grad.dtype for p in problem.model.parameters()} == {torch.float32}
    assert problem.model(problem.x).dtype == torch.float32
