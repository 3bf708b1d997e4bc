"""The model card of a run: readers decide from it whether a network is made for them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

import Dataset_A_Sensor_Distillation as distillation_a
import Dataset_B_sensor_distillation as distillation_b
from tests.made_runs import make_run, synthetic_data
from tools.report.__main__ import main


def write_card(
    folder: Path, rows: list[tuple[str, str, int]], script: ModuleType, **others: object
) -> str:
    """Return the card of a made-up run with three test subjects."""
    make_run(folder, rows, script=script.__name__, **others)
    out = folder.parent / "report"
    main([str(folder), "--out", str(out), "--no-figures"])
    [card] = out.glob(f"*/{script.__name__}-{folder.name}/MODEL_CARD.md")
    return card.read_text(encoding="utf-8")


def test_card_describes_the_networks_and_their_errors(tmp_path: Path) -> None:
    """Someone would use a network with the wrong sensors or units, or trust it too much."""
    rows = [("teacher", "all_imus_emg", 3275144), ("distilled-foot_trunk", "foot_trunk", 1874056)]
    card = write_card(tmp_path / "mine", rows, distillation_a, alpha=0.25)
    lines = [line for line in card.splitlines() if line.startswith("| distilled-foot_trunk ")]
    network, result = ([cell.strip() for cell in line.split("|")[2:-1]] for line in lines)
    assert network == ["KineticsMFFMNet", "foot, trunk", "acc, gyr", "1,874,056"]
    metrics = pd.read_csv(tmp_path / "mine" / "metrics.csv", dtype={"test_subject": str})
    student = metrics[metrics["row"] == "distilled-foot_trunk"]
    by_subject = student.groupby("test_subject")["nrmse_percent"].mean()
    assert by_subject.idxmax() == "9"
    assert result[:2] == ["3", f"{by_subject.mean():.2f} ± {by_subject.std():.2f}"]
    assert result[3] == f"9 ({by_subject['9']:.2f})"
    for words in (
        *("run mine", "at 200 Hz", "100 samples (0.5 s)", "gyr (rad/s)", "ankle moment (BW·BH)"),
        *("3 subjects: 7, 8, 9", "protocol paper", "epochs 40", "seed 42", "alpha 0.25"),
        *("adults who walk", "optimistic", "placed and oriented", "latency of up to 0.75 s"),
        "Not for clinical decisions",
        *("Camargo et al. 2021", "checkpoints/distilled-foot_trunk-subject_9.safetensors"),
    ):
        assert words in " ".join(card.split()), words
    assert "SYNTHETIC" not in card


@pytest.mark.parametrize("is_synthetic", [True, False])
def test_card_states_that_data_are_synthetic(tmp_path: Path, is_synthetic: bool) -> None:
    """A network of simulated walkers would be taken for one of people."""
    others = {"data": synthetic_data()} if is_synthetic else {}
    rows = [("student-feet", "feet", 1872774)]
    card = write_card(tmp_path / "run", rows, distillation_b, protocol="strict", **others)
    assert ("SYNTHETIC DATA" in card) == is_synthetic
    assert ("Tan et al. 2022" in card.partition("## Networks")[2]) != is_synthetic
    assert ("adults who walk" in card) != is_synthetic
    assert "optimistic" not in card
    assert "gyr (deg/s)" in card
