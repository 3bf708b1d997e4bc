"""The report's figures: which are drawn, what of, and in how much memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common import plots
from common.files import InputError
from tests.made_runs import PAIR, TWENTY, made, write_predictions
from tools import report
from tools.reporting import agreement, agreement_figures, figures
from tools.reporting.collect import collect


def test_figures_are_drawn_for_few_subjects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two subjects have no quartiles; whoever has two must get figures all the same."""
    rows = [("teacher", "all_imus_emg", 3324424), *PAIR, ("dlr_correlation-foot", "foot", 1)]
    folder = made(tmp_path / "1", rows=rows, tested=["7", "8"])
    for subject in ("7", "8"):
        write_predictions(folder, "teacher", subject, ["Treadmill", "Ramp"], 50, seed=int(subject))
    report.main([str(folder), "--out", str(tmp_path / "report")])
    drawn = tmp_path / "report" / "A-paper" / "figures"
    assert {path.stem for path in drawn.iterdir()} == {
        "models_table_II", "models_table_III", "nrmse_against_parameters", "nrmse_against_imus",
        "bland_altman-teacher", "scatter-teacher",
    }  # fmt: skip
    assert "distilled-foot: no plots of agreement, since" in capsys.readouterr().out


@pytest.mark.parametrize(("subjects", "boxes"), [(["7", "8"], 0), (TWENTY, 2)])
def test_boxes_need_subjects(tmp_path: Path, subjects: list[str], boxes: int) -> None:
    """Quartiles of two subjects look like a distribution; a point per subject is always there."""
    data = {"file": "sample_dataset_a.h5", "bytes": 5, "subjects": subjects}
    [results] = collect([made(tmp_path / "1", subjects=subjects, data=data)])
    with plots.style():
        figure = figures.models(results, "III", {"foot": ["student-foot", "distilled-foot"]})
    axes = figure.axes[0]
    assert len(axes.patches) == boxes
    points = sum(len(collection.get_offsets()) for collection in axes.collections)
    assert points == 2 * len(subjects)
    assert "SYNTHETIC DATA" in figure.get_suptitle()


def test_agreement_reads_every_sample_and_draws_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty subjects of Dataset A are millions of samples; limits need all, a plot does not."""
    monkeypatch.setattr(agreement, "DRAWN_SAMPLES", 30)
    folder = made(tmp_path / "1")
    files = [write_predictions(folder, "teacher", s, ["Ramp", "Stair"], 50, int(s)) for s in "79"]
    found = agreement.read(files)
    panel = found.panels["knee moment", "Stair"]
    assert [len(drawn) for drawn in panel.drawn] == [15, 15]
    with np.load(files[0]) as saved:
        difference = (saved["prediction"].astype(float) - saved["truth"])[50:, 2]
    assert panel.moments[0].count == 50
    assert panel.moments[0].mean == pytest.approx(difference.mean())
    assert panel.moments[0].squares == pytest.approx(difference.var() * 50)
    assert (found.activities, found.subjects) == (["Ramp", "Stair"], 2)
    with plots.style():
        figure = agreement_figures.bland_altman("teacher", found)
    titles = [axes.get_title().splitlines() for axes in figure.axes]
    assert [title[0] for title in titles[:3]] == [
        "hip flexion moment, Ramp", "hip flexion moment, Stair", "hip adduction moment, Ramp",
    ]  # fmt: skip
    assert len(titles) == 14
    limits = agreement.limits_of_agreement(panel.moments)
    assert titles[5][1] == f"bias {limits.bias:.2g}, limits {limits.low:.2g} to {limits.high:.2g}"
    files[1].write_bytes(files[1].read_bytes()[:500])
    with pytest.raises(InputError, match=r"subject_9\.npz: damaged predictions"):
        agreement.read(files)
