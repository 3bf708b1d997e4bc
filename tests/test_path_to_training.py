"""The calls from `main` to the optimizer step, which a reader of a script follows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines_a
import Dataset_A_kinetics_fm_models as kinetics_fm_a
import Dataset_A_lmfn_tfn_fusion_models as fusion_a
import Dataset_A_model_ablation as ablation_a
import Dataset_A_Sensor_Distillation as distillation_a
import Dataset_B_ffn_hf_ffn_bilstm_convnet as baselines_b
import Dataset_B_kinetics_fm_models as kinetics_fm_b
import Dataset_B_lmfn_tfn_fusion_models as fusion_b
import Dataset_B_model_ablation as ablation_b
import Dataset_B_sensor_distillation as distillation_b
from tests.conftest import ROOT
from tests.narrow import narrow_networks
from tests.networks import run_script

ROWS = {  # the row that is trained: the first one that starts with
    "teacher": (distillation_a, distillation_b),
    "ffn-": (baselines_a, baselines_b),
    "lmfn": (fusion_a, fusion_b),
    "dlr_rmse": (kinetics_fm_a, kinetics_fm_b),
    "early_gru": (ablation_a, ablation_b),
}
CASES = [
    pytest.param((script, start), id=script.__name__)
    for start, scripts in ROWS.items()
    for script in scripts
]


@contextmanager
def recorded_steps() -> Iterator[list[list[CodeType]]]:
    """Record the calls, the outermost first, that lead to every step of Adam."""
    stacks = []

    def record(*_: object) -> None:
        frame, codes = sys._getframe(1), []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        stacks.append(codes[::-1])

    hook = register_optimizer_step_pre_hook(record)
    try:
        yield stacks
    finally:
        hook.remove()


class CallPath(NamedTuple):
    """The functions of the project from `main` to the first optimizer step."""

    script: ModuleType
    functions: list[CodeType]

    @property
    def names(self) -> str:
        """The functions by name."""
        return " > ".join(code.co_name for code in self.functions)


@pytest.fixture(scope="module", params=CASES)
def call_path(
    request: pytest.FixtureRequest,
    synthetic_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> CallPath:
    """Run a script on one job and return its call path."""
    script, start = request.param
    row = next(row.name for row in script.ROWS if row.name.startswith(start))
    data, folder = synthetic_files[script.DATASET], tmp_path_factory.mktemp("run")
    with narrow_networks(script), recorded_steps() as stacks:
        run_script(script, data, folder, "run", "--rows", row, "--epochs", "1")
    codes = stacks[0][stacks[0].index(script.main.__code__) :]
    return CallPath(script, [code for code in codes if Path(code.co_filename).is_relative_to(ROOT)])


def test_the_script_itself_trains(call_path: CallPath) -> None:
    """A reader must find the training in the script, not in `common`."""
    script = call_path.script
    own = [code for code in call_path.functions if code.co_filename == script.__file__]
    functions = (script.main, script.train_and_test, script.train)
    assert own == [function.__code__ for function in functions], call_path.names
    assert call_path.functions[-1] == script.train.__code__  # which calls optimizer.step()


def test_few_calls_and_files_lie_between_main_and_the_optimizer_step(call_path: CallPath) -> None:
    """Nobody follows eight calls through six files to see how a network is trained."""
    calls = [*call_path.functions[1:], "step"]
    assert len(calls) <= 6, call_path.names
    assert len({code.co_filename for code in call_path.functions}) <= 4, call_path.names


def test_main_reaches_train_in_three_calls(call_path: CallPath) -> None:
    """`main` calls `Run.each`, which calls `train_and_test`, which calls `train`."""
    assert len(call_path.functions) - 1 <= 3, call_path.names
