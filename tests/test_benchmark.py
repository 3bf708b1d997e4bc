"""The benchmark: it compares loops that do the same, counts correctly, and loses no results.

No test asserts a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import Dataset_A_lmfn_tfn_fusion_models as fusion
from common.data import DATASET_A_ACTIVITIES, SensorSet
from common.files import InputError
from common.runs import FailedTasksError
from tests.conftest import Capture, Files, Patch
from tests.networks import narrow_networks
from tools.benchmark import inference, reading, training
from tools.benchmark.__main__ import PARTS, main
from tools.benchmark.memory import added_bytes
from tools.benchmark.training import Case, Rehearsal, choose_cases

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
    monkeypatch.setattr(inference, "LEAST_S", 0.0)
    monkeypatch.setattr(inference, "LEAST_RUNS", 2)
    monkeypatch.setattr(inference, "added_bytes", lambda *_: 10**6)


# Training -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("row", ["ffn_hf-foot", "distilled-foot", "lmfn-all_imus_emg"])
def test_both_loops_learn_the_same(row: str) -> None:
    """The ratio of the times of two loops that do different things means nothing.

    The losses of the second epoch depend on every step before.
    """
    rehearsal = Rehearsal(case_of(row), batches=2, batch_size=2, device=CPU)
    ours = rehearsal.train(rehearsal.new_network(), epochs=2)
    published = rehearsal.train_published(rehearsal.new_network(), epochs=2)
    assert len(ours) == len(published) == 2
    for one, other in zip(ours, published, strict=True):
        assert one.training_loss == pytest.approx(other.training_loss, rel=1e-6)
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-6)


@pytest.mark.parametrize(
    ("row", "moved"), [("student-foot", 3), ("distilled-foot", 4), ("ffn_hf-foot", 2)]
)
def test_published_loop_loads_seven_tensors_and_moves_a_few(
    row: str, moved: int, monkeypatch: Patch
) -> None:
    """With fewer tensors the published loop would look faster than it is."""
    rehearsal = Rehearsal(case_of(row), batches=1, batch_size=2, device=CPU)
    window = rehearsal.published_data[0][0]
    assert len(window) == 7
    copies: list[torch.device] = []
    move = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device: copies.append(device) or move(tensor, device)
    )
    batch = rehearsal.published_batch([tensor[None] for tensor in window])
    assert len(copies) == moved
    assert len(batch.cached) == (2 if row == "distilled-foot" else 0)


def test_rows_without_training_are_not_timed() -> None:
    """A regression of two trained networks has no epochs; their parameters count together."""
    with narrow_networks():
        case, *parts = map(case_of, ("dlr-foot", "dlr_rmse-foot", "dlr_correlation-foot"))
        sizes = {"batches": 1, "batch_size": 2, "repeats": 1, "device": CPU}
        assert not list(training.measure_training(case, **sizes))
        counts = [inference.count_parameters(c, inference.build_untrained(c)) for c in parts]
        parameters = sum(count for count, _ in counts)
        network = inference.build_untrained(case)
        assert inference.count_parameters(case, network) == (parameters, False)


def test_failing_way_of_faster_does_not_stop_the_others(monkeypatch: Patch) -> None:
    """Without a compiler `compile` fails; that must not cost the results of the other ways."""

    def run_script(script: object, flags: dict[str, object]) -> tuple[float, float, float]:
        if flags.get("faster") == "compile":
            raise FailedTasksError("no compiler\nand more")
        if flags.get("faster") == "tf32":
            raise InputError("--faster tf32: needs CUDA")
        return 1.0, 10.0, 0.5

    monkeypatch.setattr(training, "_run_script", run_script)
    monkeypatch.setattr(training, "write_file", lambda *_, **__: None)
    sizes = {"epochs": 2, "seeds": 1, "threads": 1, "device": CPU}
    by_way = {r["way"]: r for r in training.measure_options(case_of("student-foot"), **sizes)}
    assert list(by_way) == ["none", "tf32", "bf16", "compile"]
    assert by_way["compile"]["problem"] == "no compiler and more"
    assert by_way["bf16"]["ratio"] == 1.0
    assert by_way["tf32"]["seconds_per_epoch"] is None


@pytest.mark.slow
def test_options_run_the_script(synthetic_files: Files, monkeypatch: Patch) -> None:
    """A way would be reported as slow or harmful although the script was called wrongly."""
    monkeypatch.setattr(training, "FASTER", {})
    monkeypatch.setattr(
        training,
        "write_file",
        lambda path, dataset, **_: shutil.copy(synthetic_files[dataset], path),
    )
    sizes = {"epochs": 1, "seeds": 2, "threads": 1, "device": CPU}
    [result] = training.measure_options(case_of("ffn_hf-foot"), **sizes)
    assert result["ratio"] == 1.0
    assert result["seconds_per_epoch"] > 0
    assert len(set(result["nrmse_percent"])) == 2  # the seeds differ


# Inference ----------------------------------------------------------------------------------------


def multiply_adds(build: type[nn.Module] | Any, *shapes: Sequence[int]) -> int:  # noqa: ANN401
    """Count the multiply-adds of a network for inputs of some shapes."""
    with torch.device("meta"):
        return inference.count_multiply_adds(build(), [torch.zeros(shape) for shape in shapes])


class SelfAttention(nn.MultiheadAttention):
    """Attention of a sequence to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted values."""
        return super().forward(x, x, x, need_weights=False)[0]


def test_multiply_adds_are_those_of_the_textbook() -> None:
    """A wrong count would rank the networks wrongly; here by hand, for 2 windows of 5 samples."""
    x = (2, 5, 3)
    assert multiply_adds(lambda: nn.Linear(3, 4), x) == 10 * 3 * 4
    lstm = multiply_adds(lambda: nn.LSTM(3, 7, batch_first=True), x)
    assert lstm == 10 * 4 * 7 * (3 + 7)
    gru = multiply_adds(lambda: nn.GRU(3, 7, batch_first=True, bidirectional=True), x)
    assert gru == 2 * 10 * 3 * 7 * (3 + 7)
    assert multiply_adds(lambda: nn.Conv1d(5, 4, 3, padding=1), x) == 2 * 4 * 3 * (5 * 3)
    conv2d = multiply_adds(lambda: nn.Conv2d(3, 4, (3, 5), padding=(1, 2)), (2, 3, 6, 8))
    assert conv2d == 2 * 4 * 6 * 8 * (3 * 3 * 5)
    attention = multiply_adds(lambda: SelfAttention(8, 4, batch_first=True), (2, 5, 8))
    assert attention == 10 * 4 * 8 * 8 + 2 * 2 * 5 * 5 * 8  # four Linear; scores and their sums
    low_rank = multiply_adds(lambda: fusion.LowRankFusion(2, 3, 6, rank=4), x, x)
    assert low_rank == 10 * (2 * 4 * 4 * 6 + 4 * 6)
    assert multiply_adds(lambda: fusion.TensorFusion(2, 3, 6), x, x) == 10 * (4 * 4 * 6 + 4 * 6)


def test_multiply_adds_of_a_row() -> None:
    """The README compares them between networks; the number was confirmed layer by layer."""
    network = case_of("student-foot").row.network
    assert multiply_adds(network, (1, 100, 3), (1, 100, 3)) == 190_169_600


def count_samples(monkeypatch: Patch) -> None:
    """Time a few samples of a stream only."""
    monkeypatch.setattr(inference, "SAMPLES", 20)
    monkeypatch.setattr(inference, "WARM_UP", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "narrow")
def test_streaming_rows_stand_beside_the_windowed_ones(tmp_path: Path, monkeypatch: Patch) -> None:
    """The delay is what a streaming student is for; that of a window would hide it."""

    def no_packages() -> None:
        raise InputError("onnx: not installed")

    count_samples(monkeypatch)
    monkeypatch.setattr(inference.runtime, "check_installed", no_packages)
    rows = ["--rows", "streaming-foot", "student-foot", "student-foot_trunk"]
    main([*TINY, *rows, "--parts", "inference", "training", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert [r["row"] for r in results["training"]] == ["student-foot", "student-foot_trunk"]
    [stream] = [r for r in results["inference"] if r["row"] == "streaming-foot"]
    assert stream["lookahead_ms"] == 50
    assert 0 < stream["sample_us"] <= stream["sample_p99_us"]
    section = (tmp_path / "benchmark.md").read_text().partition("## Sample by sample")[2]
    lines = [line for line in section.splitlines() if "`" in line]
    assert len(lines) == 2  # the sensors of the third row are others
    assert "| 50 + " in lines[0]
    assert "not measured" in lines[0]
    assert "| 500 + 250 + " in lines[1]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_streaming_rows_are_measured_in_onnxruntime(monkeypatch: Patch) -> None:
    """It is the way in which a device would run them."""
    pytest.importorskip("onnxruntime", reason="requirements-export.txt is not installed")
    count_samples(monkeypatch)
    result = inference.measure_stream(case_of("streaming-feet", "b"), threads=1)
    assert 0 < result["onnx_sample_us"] <= result["onnx_sample_p99_us"]


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["a", "b"])
def test_appending_reads_what_the_scripts_read(dataset: str, synthetic_files: Files) -> None:
    """Readers of different data cannot be compared."""
    script, path = reading.SCRIPTS[dataset], synthetic_files[dataset]
    recording = script.read(path)
    imus = torch.cat([recording.samples["acc"], recording.samples["gyr"]], dim=1).numpy()
    names = reading.script_columns(script)
    columns = [names.index(name) for name in script.column_names(SensorSet(script.SENSORS))]
    appended = reading.append_all(dataset, path)[:, columns]
    np.testing.assert_array_equal(appended, imus)


@pytest.mark.parametrize(("dataset", "size"), [("a", 80), ("b", 3)])
def test_large_files_have_the_requested_size(dataset: str, size: int) -> None:
    """Speeds would be reported for sizes that were not measured."""
    with reading.large_file(dataset, size, "float32") as path, reading.h5py.File(path) as file:
        tables = reading.TABLES[dataset](path, file)
        tables_per_subject = len(DATASET_A_ACTIVITIES) if dataset == "a" else 1
        assert len(tables) == 2 * tables_per_subject
        assert sum(len(table.dataset) for table in tables) == (size if dataset == "a" else 2 * size)


# The command --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_results_are_written_and_printed(tmp_path: Path, capsys: Capture) -> None:
    """A table that is incomplete, or silent about the GPU, would pass for a complete one."""
    parts = ["--parts", "training", "inference"]
    assert main([*TINY, *parts, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    [trained], [predicted] = results["training"], results["inference"]
    assert trained["ours_s"] > 0
    assert trained["published_s"] > 0
    assert trained["training_losses"][0] == pytest.approx(trained["training_losses"][1], rel=1e-6)
    assert predicted["parameters"] == 301_116
    assert predicted["delay_ms"] == pytest.approx(500 + 250 + predicted["batch_1_ms"])
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("`ffn_hf-foot`") == 2
    if not torch.cuda.is_available():
        assert results["machine"]["gpu"] is None
        assert "CUDA: not measured" in text
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_interruption_loses_no_results(tmp_path: Path, quick: None, monkeypatch: Patch) -> None:
    """Minutes of measuring must survive Ctrl-C and the calls that follow."""
    out = ["--out", str(tmp_path)]
    two_rows = [*TINY, "--rows", "ffn_hf-foot", "ffn-foot", "--parts", "training"]

    def measured() -> dict[str, list[str]]:
        results = json.loads((tmp_path / "benchmark.json").read_text())
        return {part: [result["row"] for result in results[part]] for part in PARTS}

    measure = training.measure_training

    def interrupted(case: Case, **sizes: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401
        if case.row.name != "ffn_hf-foot":
            raise KeyboardInterrupt
        yield from measure(case, **sizes)

    with monkeypatch.context() as patch:
        patch.setattr(training, "measure_training", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([*two_rows, *out])
    assert measured()["training"] == ["ffn_hf-foot"]
    assert "ffn_hf-foot" in (tmp_path / "benchmark.md").read_text()
    for _ in range(2):  # the second result replaces the first
        main([*TINY, "--parts", "inference", *out])
        assert measured()["training"] == measured()["inference"] == ["ffn_hf-foot"]


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """Epochs of one batch would stand beside epochs of three."""
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
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_of_small_work_in_a_large_process() -> None:
    """The memory of the measuring process would hide that of what it measures."""
    held = np.ones(2 * 10**7)  # 160 MB, more than what is measured
    assert 70e6 < added_bytes(np.ones, 10**7) < 120e6
    assert len(held) == 2 * 10**7


@pytest.mark.slow
def test_parallel_trainings_start_and_fail_together() -> None:
    """If one fails before the others start, the command would wait forever."""
    sizes = (1, 2, 1, CPU, 1)  # batches, batch size, epochs, device, threads
    case = case_of("ffn_hf-foot")
    assert training.seconds_in_parallel(2, case, *sizes) > 0
    with pytest.raises(ValueError, match="there is no script"):
        training.seconds_in_parallel(2, case._replace(script_name="none"), *sizes)
