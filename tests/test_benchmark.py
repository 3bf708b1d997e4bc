"""The benchmark: what is compared does the same, what is counted is right, nothing is lost.

No test asserts a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import Dataset_A_ffn_hf_ffn_bilstm_convnet as baselines
import Dataset_A_lmfn_tfn_fusion_models as fusion
from common.files import InputError
from tools import benchmark
from tools.timing import inference, memory, multiply_adds, options, reading, side_by_side, training
from tools.timing.published import PublishedLoop
from tools.timing.rows import Problem, Row, choose

TINY = ["--datasets", "a", "--rows", "ffn_hf-foot", "--device", "cpu"]
TINY += ["--batches", "1", "--batch-size", "2", "--repeats", "1"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure each latency once or twice, and memory in no process of its own."""
    monkeypatch.setattr(inference, "SECONDS", 0.0)
    monkeypatch.setattr(inference, "LEAST_RUNS", 2)
    for name in ("of_training", "of_prediction", "of_reading", "of_appending"):
        monkeypatch.setattr(memory, name, lambda *arguments: 10**6)


def counted(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Count the multiply-adds of a model."""
    return multiply_adds.count(model.eval(), lambda: model(*inputs))


def test_multiply_adds_are_those_of_the_textbook() -> None:
    """A count that is off ranks the networks wrongly; here by hand, of 2 windows of 5 samples."""
    x = torch.zeros(2, 5, 3)
    assert counted(nn.Linear(3, 4), x) == 10 * 3 * 4
    one_way = nn.LSTM(3, 7, batch_first=True)
    assert counted(one_way, x) == 10 * 4 * 7 * (3 + 7)
    both_ways = nn.GRU(3, 7, batch_first=True, bidirectional=True)
    assert counted(both_ways, x) == 2 * 10 * 3 * 7 * (3 + 7)
    assert counted(nn.Conv1d(5, 4, kernel_size=3, padding=1), x) == 2 * 4 * 3 * (5 * 3)
    planes = torch.zeros(2, 3, 6, 8)
    assert counted(nn.Conv2d(3, 4, (3, 5), padding=(1, 2)), planes) == 2 * 4 * 6 * 8 * (3 * 3 * 5)
    attention = nn.MultiheadAttention(8, 4, batch_first=True)
    y = torch.zeros(2, 5, 8)
    by_hand = 10 * 4 * 8 * 8 + 2 * 2 * 5 * 5 * 8  # four Linear; scores, and sums of values
    assert counted(attention, y, y, y) == by_hand


def test_multiply_adds_of_the_fusions() -> None:
    """They multiply by weights of their own, which no hook of a PyTorch layer sees."""
    acc, gyr = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)
    low_rank = fusion.LowRankFusion(modalities=2, size=3, out_size=6, rank=4)
    assert counted(low_rank, acc, gyr) == 10 * (2 * 4 * 4 * 6 + 4 * 6)
    tensor = fusion.TensorFusion(modalities=2, size=3, out_size=6)
    assert counted(tensor, acc, gyr) == 10 * (4 * 4 * 6 + 4 * 6)


def test_multiply_adds_agree_with_pytorchs_counter() -> None:
    """On a whole network without recurrent layers, which PyTorch's counter does not see."""
    row = Row(baselines, "conv2d-foot")
    model = row.experiment.model().eval()
    x = torch.zeros(1, row.study.window, 6)  # acc and gyr of one IMU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counted(model, x) == counter.get_total_flops() // 2  # a product and a sum


@pytest.mark.parametrize("name", ["ffn_hf-foot", "distilled-foot", "lmfn-all_imus_emg"])
def test_the_published_loop_learns_what_ours_learns(name: str) -> None:
    """The ratio of two loops that do different things says nothing of either.

    Over two epochs: a loss of the second depends on every step before it.
    """
    [row] = choose(["a"], [name])
    problem = Problem(row, batches=2, batch_size=2, device=torch.device("cpu"))
    ours = problem.train(problem.model(), epochs=2)
    published = PublishedLoop(problem).run(problem.model(), epochs=2)
    for one, other in zip(ours, published, strict=True):
        assert one.epoch == other.epoch
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-6)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-6)


def test_a_published_sample_has_seven_tensors_and_few_are_used() -> None:
    """The published loop collates them all and moves some: fewer would make it look faster."""
    for name, used in (("student-foot", 3), ("distilled-foot", 4), ("ffn_hf-foot", 2)):
        [row] = choose(["a"], [name])
        loop = PublishedLoop(Problem(row, 1, 2, torch.device("cpu")))
        sample = loop.train[0]
        assert len(sample) == 7
        batch = loop.batch([tensor[None] for tensor in sample])
        assert len(batch) == used


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_reading_by_appending_gives_what_ours_gives(
    dataset: str, sample_files: dict[str, Path]
) -> None:
    """Readers of different data have no speeds to compare."""
    path, script = sample_files[dataset], reading.SCRIPTS[dataset]
    columns = reading.column_numbers(dataset, path)
    appended = reading.append_all(path, reading.READERS[dataset], columns)
    recording = script.STUDY.read(path)
    imus = [recording.samples[name].numpy() for name in ("acc", "gyr")]
    kept = np.concatenate(imus, axis=1)
    assert np.isfinite(appended).all()  # else ours would leave rows out
    other = appended[:, : kept.shape[1]]
    if dataset == "a":  # they take the activities of a subject in another order
        kept, other = (values[np.lexsort(values.T)] for values in (kept, other))
    np.testing.assert_array_equal(other, kept)


def test_the_figures_are_there_and_the_gpu_is_marked(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table that breaks off, or is silent on the GPU, would be read as whole."""
    parts = ["--parts", "training", "inference"]
    assert benchmark.main([*TINY, *parts, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    [trained], [predicted] = results["training"], results["inference"]
    assert trained["ours_s"] > 0
    assert trained["published_s"] > 0
    assert trained["training_losses"][0] == pytest.approx(trained["training_losses"][1], rel=1e-6)
    assert predicted["parameters"] == 301_116
    assert predicted["delay_ms"] == pytest.approx(500 + 250 + predicted["batch_1_ms"])
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out
    for line in (line for line in text.splitlines() if line.startswith("|")):
        header = next(h for h in text.splitlines() if h.count("|") == line.count("|"))
        assert line.count("|") == header.count("|")
    assert text.count("`ffn_hf-foot`") == 2
    if not torch.cuda.is_available():
        assert results["machine"]["gpu"] is None
        assert "CUDA: not measured" in text
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_what_was_measured_before_an_interruption_stays(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of measuring must not be lost to Ctrl-C, nor to the call that goes on."""
    out = ["--out", str(tmp_path)]
    two_rows = [*TINY, "--rows", "ffn_hf-foot", "ffn-foot", "--parts", "training"]

    def measured() -> dict[str, list[str]]:
        results = json.loads((tmp_path / "benchmark.json").read_text())
        return {part: [f["row"] for f in results[part]] for part in benchmark.PARTS}

    measure = training.measure

    def until_ctrl_c(row: Row, **sizes: object) -> dict[str, object]:
        return measure(row, **sizes) if row.name == "ffn_hf-foot" else stop()

    with monkeypatch.context() as patch:
        patch.setattr(training, "measure", until_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            benchmark.main([*two_rows, *out])
    assert measured()["training"] == ["ffn_hf-foot"]
    assert "ffn_hf-foot" in (tmp_path / "benchmark.md").read_text()
    benchmark.main([*TINY, "--parts", "inference", *out])
    benchmark.main([*TINY, "--parts", "inference", *out])  # takes the place of the one before
    assert measured()["training"] == measured()["inference"] == ["ffn_hf-foot"]


def stop() -> NoReturn:
    """Press Ctrl-C."""
    raise KeyboardInterrupt


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, quick: None) -> None:
    """Seconds of an epoch of one batch beside those of three would be compared."""
    command = [*TINY, "--parts", "training", "--out", str(tmp_path)]
    benchmark.main(command)
    results = tmp_path / "benchmark.json"
    before = results.read_bytes()
    with pytest.raises(InputError, match="other settings; give another --out"):
        benchmark.main([*command, "--batch-size", "3"])
    assert results.read_bytes() == before
    results.write_text("{")
    with pytest.raises(InputError, match="damaged .*; delete it"):
        benchmark.main(command)


def test_a_way_that_fails_is_told_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a compiler torch.compile fails: that must not take the rest along."""

    def train(*arguments: object) -> tuple[float, float, float]:
        if "compile" in arguments[-1]:
            raise RuntimeError("no compiler\nand more")
        return 1.0, 10.0, 0.5

    monkeypatch.setattr(options, "_train", train)
    monkeypatch.setattr(options, "SAMPLE", {"subjects": 2, "minutes": 0.1, "seed": 0})
    [row] = choose(["a"], ["student-foot"])
    found = list(options.measure(row, epochs=2, seeds=1, device=torch.device("cpu")))
    by_way = {f["way"]: f for f in found}
    assert by_way["compile"]["problem"] == "no compiler"
    assert by_way["bf16"]["ratio"] == 1.0
    assert by_way["tf32"]["seconds_per_epoch"] is None


def test_a_row_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    """A misspelt row must not end in an empty table."""
    with pytest.raises(InputError, match="student-foto: no such row"):
        benchmark.main(["--rows", "student-foto", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_is_that_of_the_work_alone() -> None:
    """A large process that measures a small one must not hide what it takes."""
    held = np.ones(2 * 10**7)  # 160 MB, more than what is measured
    assert 70e6 < memory._added(np.ones, 10**7) < 120e6
    assert len(held) == 2 * 10**7


@pytest.mark.slow
def test_trainings_side_by_side_start_together_and_fail_together() -> None:
    """One that fails before the others begin must not leave them, and the user, waiting."""
    sizes = (1, 2, 1, torch.device("cpu"), 1)  # batches, batch size, epochs, device, threads
    assert side_by_side._windows_per_s(2, Row(baselines, "ffn_hf-foot"), *sizes) > 0
    with pytest.raises(StopIteration):
        side_by_side._windows_per_s(2, Row(baselines, "none"), *sizes)
