"""Ways to train faster that change numbers: off by default, chosen by `--faster`, on record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from common.files import InputError

WAYS = {
    "tf32": "products of float32 numbers rounded to 10 bits (CUDA)",
    "bf16": "the forward pass in bfloat16, by autocast",
    "compile": "torch.compile; on the CPU it needs a C++ compiler",
    "cuda_graph": "a training step as one CUDA graph (CUDA; not TFN)",
}
ON_CUDA = ("tf32", "cuda_graph")
WARM_UP_STEPS = 3  # as PyTorch's documentation of CUDA graphs has them

Step = Callable[[Tensor], Tensor]
"""Trains on the windows of some numbers, and returns the loss, detached."""
LossFunction = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def check(ways: Sequence[str], device: torch.device) -> None:
    """Check that a device has the ways.

    Raises:
        InputError: It has not.
    """
    missing = [way for way in ways if way in ON_CUDA]
    if missing and device.type != "cuda":
        raise InputError(f"--faster {' '.join(missing)}: needs --device cuda; leave it out")


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Set what holds for the process: CPU threads, and TF32, which PyTorch has on in cuDNN."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = "tf32" in ways


def faster_loss(loss: LossFunction, ways: Sequence[str], device: torch.device) -> LossFunction:
    """Return a training loss, compiled and in bfloat16 where that is wanted."""
    if "compile" in ways:
        torch.compiler.reset()  # rows share the function whose compilations are limited
        loss = torch.compile(loss)
    if "bf16" not in ways:
        return loss

    def in_bfloat16(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return loss(model, batch)

    return in_bfloat16


class GraphedStep:
    """A training step captured as one CUDA graph: one launch in place of thousands.

    The recurrent layers launch a few small kernels per time step, so that a step waits for launches
    rather than for arithmetic. A batch of another size than the captured one is done as usual.

    Args:
        step: The step as usual, of a model and its optimiser.
        model: Its weights and Adam's state are as before when this is made, and so are the random
            numbers to come.
        optimiser: Adam, `capturable`. chosen: Numbers of windows, a whole batch.
    """

    def __init__(
        self, step: Step, model: nn.Module, optimiser: torch.optim.Adam, chosen: Tensor
    ) -> None:
        self.step, self.chosen = step, chosen.clone()
        begin_adam(optimiser)
        kept = [values.clone() for values in _state(model, optimiser)]
        random = torch.cuda.get_rng_state(chosen.device)
        beside = torch.cuda.Stream(chosen.device)
        beside.wait_stream(torch.cuda.current_stream(chosen.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP_STEPS):
                step(self.chosen)
        torch.cuda.current_stream(chosen.device).wait_stream(beside)
        with torch.no_grad():
            for values, before in zip(_state(model, optimiser), kept, strict=True):
                values.copy_(before)
        torch.cuda.set_rng_state(random, chosen.device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):  # records, and does not run
            self.loss = step(self.chosen)

    def __call__(self, chosen: Tensor) -> Tensor:
        """Train on the windows of the numbers `chosen`; return the loss."""
        if len(chosen) != len(self.chosen):
            return self.step(chosen)
        self.chosen.copy_(chosen)
        self.graph.replay()
        return self.loss


def begin_adam(optimiser: torch.optim.Adam) -> None:
    """Give Adam its moments, 0, which it makes in its first step: not within a graph.

    With gradients of 0 that step moves nothing; an optimiser that has its moments keeps them.
    """
    if optimiser.state:
        return
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for moments in optimiser.state.values():
        moments["step"].zero_()


def _state(model: nn.Module, optimiser: torch.optim.Adam) -> list[Tensor]:
    """Return the tensors that a step changes."""
    moments = [values for state in optimiser.state.values() for values in state.values()]
    return [*model.state_dict().values(), *moments]
