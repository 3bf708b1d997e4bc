"""The benchmark: it compares loops that do the same, counts correctly, and loses no results.

No test asserts a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import Dataset_A_lmfn_tfn_fusion_models as fusion
from common.files import InputError
from tests.conftest import Capture, Patch
from tests.networks import narrow_networks
from tools.benchmark import inference, streaming, training
from tools.benchmark.__main__ import PARTS, main
from tools.benchmark.inference import added_mb
from tools.benchmark.training import Case, Training, choose_cases, choose_losses

CPU = torch.device("cpu")
TINY = ["--datasets", "a", "--rows", "ffn_hf-foot", "--device", "cpu"]
TINY += ["--batches", "1", "--batch-size", "2", "--repeats", "1"]


def case_of(row: str, dataset: str = "a") -> Case:
    """Return a row by its name."""
    [case] = choose_cases([dataset], [row])
    return case


@pytest.fixture
def quick(monkeypatch: Patch) -> None:
    """Measure each latency twice, and no memory."""
    monkeypatch.setattr(inference, "MIN_S", 0.0)
    monkeypatch.setattr(inference, "MIN_RUNS", 2)
    monkeypatch.setattr(inference, "added_mb", lambda *_: 1.0)


# Training -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("row", ["ffn_hf-foot", "distilled-foot", "lmfn-all_imus_emg"])
def test_both_loops_learn_the_same(row: str) -> None:
    """The ratio of the times of two loops that do different things means nothing.

    The losses of the second epoch depend on every step before.
    """
    training = Training(case_of(row), batches=2, batch_size=2, device=CPU)
    ours, published = training.train(epochs=2), training.train_published(epochs=2)
    assert len(ours) == len(published) == 2
    for one, other in zip(ours, published, strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-6)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-6)


@pytest.mark.parametrize(("row", "cached"), [("student-foot", 0), ("distilled-foot", 2)])
def test_published_loop_loads_seven_tensors(row: str, cached: int) -> None:
    """With fewer tensors the published loop would look faster than it is."""
    training = Training(case_of(row), batches=1, batch_size=2, device=CPU)
    assert [len(tensors) for tensors in training.published_data] == [7, 7]
    [batch] = training.published_batches(training.published_data[0], None)
    assert (len(batch.targets), len(batch.cached)) == (2, cached)


@pytest.mark.slow
def test_losses_are_those_of_the_scripts() -> None:
    """Another loss takes another time; a row without training has none."""
    with narrow_networks():
        for case in choose_cases(["a", "b"], ["*-foot", "*-feet", "mffm_gated"]):
            if case.row.name.startswith("dlr-"):
                assert choose_losses(case.script, case.row) is None
                continue
            [epoch] = Training(case, batches=1, batch_size=2, device=CPU).train(epochs=1)
            assert 0 < epoch.training_loss < 20


# Inference ----------------------------------------------------------------------------------------


def multiply_adds(build: Callable[[], nn.Module], *shapes: Sequence[int]) -> int:
    """Count the multiply-adds of a network for inputs of some shapes."""
    with torch.device("meta"):
        return inference.count_multiply_adds(build(), [torch.zeros(shape) for shape in shapes])


class SelfAttention(nn.MultiheadAttention):
    """Attention of a sequence to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted values."""
        return super().forward(x, x, x, need_weights=False)[0]


X = (2, 5, 3)  # two windows of five samples
TEXTBOOK = [  # build, shapes of the inputs, multiply-adds
    (lambda: nn.Linear(3, 4), [X], 10 * 3 * 4),
    (lambda: nn.LSTM(3, 7, batch_first=True), [X], 10 * 4 * 7 * (3 + 7)),
    (lambda: nn.GRU(3, 7, bidirectional=True), [X], 2 * 10 * 3 * 7 * (3 + 7)),
    (lambda: nn.Conv1d(5, 4, 3, padding=1), [X], 2 * 4 * 3 * (5 * 3)),
    (lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), [(2, 3, 6, 8)], 2 * 4 * 6 * 8 * (3 * 3 * 5)),
    # Attention has four Linear layers, scores and their sums
    (lambda: SelfAttention(8, 4), [(2, 5, 8)], 10 * 4 * 8 * 8 + 2 * 5 * 2 * 2 * 8),
    (lambda: fusion.LowRankFusion(2, 3, 6, rank=4), [X, X], 10 * (2 * 4 * 4 * 6 + 4 * 6)),
    (lambda: fusion.TensorFusion(2, 3, 6), [X, X], 10 * (4 * 4 * 6 + 4 * 6)),
]


@pytest.mark.parametrize(("build", "shapes", "count"), TEXTBOOK)
def test_multiply_adds_are_those_of_the_textbook(
    build: Callable[[], nn.Module], shapes: list[Sequence[int]], count: int
) -> None:
    """A wrong count would rank the networks wrongly."""
    assert multiply_adds(build, *shapes) == count


def test_multiply_adds_of_a_row() -> None:
    """The README compares them between networks; the number was confirmed layer by layer."""
    network = case_of("student-foot").row.network
    assert multiply_adds(network, (1, 100, 3), (1, 100, 3)) == 190_169_600


def test_parameters_of_assembled_rows_count_together() -> None:
    """A regression of two trained networks has the parameters of both."""
    with narrow_networks():
        counts = []
        for row in ("dlr-foot", "dlr_rmse-foot", "dlr_correlation-foot"):
            trained = inference.build_untrained(case_of(row))
            inputs = trained.inputs(training.random_samples(trained.script, 1))
            counts.append(inference.count_parameters(trained, inputs))
    assert counts[0] == counts[1] + counts[2]


# The command --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_results_are_written_and_printed(tmp_path: Path, capsys: Capture) -> None:
    """A table that is incomplete, or silent about the GPU, would pass for a complete one."""
    main([*TINY, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "benchmark.json").read_text())
    [trained], [estimated] = results["training"], results["inference"]
    assert trained["ours_s"] > 0
    assert trained["published_s"] > 0
    assert trained["training_losses"][0] == pytest.approx(trained["training_losses"][1], rel=1e-6)
    assert estimated["parameters"] == 301_116
    assert estimated["latency_ms"] == pytest.approx(500 + 250 + estimated["window_1_ms"])
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("`ffn_hf-foot`") == 2
    if not torch.cuda.is_available():
        assert results["machine"]["gpu"] is None
        assert "CUDA: not measured" in text
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_a_sample_is_timed_in_numpy_onnxruntime_and_pytorch(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Users choose by this table what runs on their device."""
    monkeypatch.setattr(streaming, "ROUNDS", 1)
    monkeypatch.setattr(streaming, "BLOCK", 3)
    row = "streaming-foot"
    with narrow_networks():
        main(["--parts", "streaming", "--rows", row, "--out", str(tmp_path)])
    [result] = json.loads((tmp_path / "benchmark.json").read_text())["streaming"]
    assert result["row"] == row
    measured = {"numpy", "torch"} | ({"onnx"} if find_spec("onnxruntime") else set())
    assert {name for name in ("numpy", "onnx", "torch") if result.get(f"{name}_us")} == measured
    assert "| A         | `streaming-foot` |" in (tmp_path / "benchmark.md").read_text()


def test_interruption_loses_no_results(tmp_path: Path, quick: None, monkeypatch: Patch) -> None:
    """Minutes of measuring must survive Ctrl-C and the calls that follow."""
    out = ["--out", str(tmp_path)]

    def measured() -> dict[str, list[str]]:
        results = json.loads((tmp_path / "benchmark.json").read_text())
        return {part: [result["row"] for result in results[part]] for part in PARTS}

    measure = training.measure_training

    def interrupted(case: Case, *sizes: Any) -> dict[str, Any]:  # noqa: ANN401
        if case.row.name != "ffn_hf-foot":
            raise KeyboardInterrupt
        return measure(case, *sizes)

    with monkeypatch.context() as patch:
        patch.setattr(training, "measure_training", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*TINY, "--rows", "ffn_hf-foot", "ffn-foot", "--parts", "training", *out])
    assert measured() == {"training": ["ffn_hf-foot"], "inference": [], "streaming": []}
    assert "ffn_hf-foot" in (tmp_path / "benchmark.md").read_text()
    for _ in range(2):  # the second result replaces the first
        main([*TINY, "--parts", "inference", *out])
        assert measured() == {
            **dict.fromkeys(("training", "inference"), ["ffn_hf-foot"]),
            "streaming": [],
        }


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """Epochs of one batch would be compared with epochs of three."""
    command = [*TINY, "--parts", "training", "--out", str(tmp_path)]
    main(command)
    results = tmp_path / "benchmark.json"
    before = results.read_bytes()
    with pytest.raises(InputError, match="other settings; use another --out"):
        main([*command, "--batch-size", "3"])
    assert results.read_bytes() == before
    for damaged in ("{", "[]", '{"machine": 1, "settings": 2}'):
        results.write_text(damaged)
        with pytest.raises(InputError, match="damaged .*; delete it"):
            main(command)


def test_misspelt_rows_are_refused(tmp_path: Path) -> None:
    """A misspelt row would end in an empty table."""
    with pytest.raises(InputError, match="student-foto: no such row"):
        main(["--rows", "student-foto", "--out", str(tmp_path)])
    with pytest.raises(InputError, match="no such device"):
        main(["--device", "tpu", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_of_small_work_in_a_large_process() -> None:
    """The memory of the measuring process would hide that of what it measures."""
    held = np.ones(2 * 10**7)  # 160 MB, more than what is measured
    assert 70 < added_mb(CPU, np.ones, 10**7) < 120
    assert len(held) == 2 * 10**7
