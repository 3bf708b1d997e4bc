"""Figures of a report: which are drawn, and of which data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress

from common.files import InputError
from tests.conftest import Capture
from tests.made_runs import PAIR, TWENTY_SUBJECTS, make_run, synthetic_data, write_predictions
from tools.report import agreement, figures
from tools.report.__main__ import main
from tools.report.runs import load_results
from tools.report.stances import load_row, load_stances
from tools.report.statistics import limits_of_agreement


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_figures_are_drawn_for_two_subjects(tmp_path: Path, capsys: Capture) -> None:
    """Two subjects have no quartiles, yet their figures must be drawn, without warnings."""
    rows = [("teacher", "all_imus_emg", 3324424), *PAIR, ("dlr_correlation-foot", "foot", 1)]
    run = make_run(tmp_path / "1", rows=rows, tested=["7", "8"])
    for subject in ("7", "8"):
        write_predictions(run, "teacher", subject, ["Treadmill", "Ramp"], samples=200)
    main([str(run), "--out", str(tmp_path / "report")])
    drawn = tmp_path / "report" / "A-paper" / "figures"
    assert {path.stem for path in drawn.iterdir()} == {
        "models_table_II", "models_table_III", "targets_table_II", "targets_table_III",
        "nrmse_against_parameters", "nrmse_against_imus",
        "bland_altman-teacher", "scatter-teacher", "stance_curves",
    }  # fmt: skip
    assert "distilled-foot: no Bland-Altman and scatter plots" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("subjects", "boxes"), [(["7", "8"], 0), (TWENTY_SUBJECTS, 2)])
def test_boxes_are_drawn_for_enough_subjects(
    tmp_path: Path, subjects: list[str], boxes: int
) -> None:
    """Quartiles of two subjects would look like a distribution; points show each subject."""
    data = synthetic_data(subjects)
    [results] = load_results([make_run(tmp_path / "1", subjects=subjects, data=data)])
    figure = figures.models_figure(results, "III", {"foot": [row for row, _, _ in PAIR]})
    [axes] = figure.axes
    assert len(axes.patches) == boxes
    assert sum(len(points.get_offsets()) for points in axes.collections) == 2 * len(subjects)
    assert "SYNTHETIC DATA" in figure.get_suptitle()
    means = [results.select([row])["nrmse_percent"].mean() for row, _, _ in PAIR]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"{means[0]:.2f} ({means[0] - means[1]:+.2f})", f"{means[1]:.2f}"]


@pytest.mark.filterwarnings("error")
def test_nrmse_against_imus_separates_the_third_modality(tmp_path: Path) -> None:
    """EMG would look like the benefit of a fourth IMU."""
    rows = [("lmfn-foot", "foot", 1), ("lmfn-all_imus", "all_imus", 1)]
    rows.append(("lmfn-all_imus_emg", "all_imus_emg", 1))
    run = make_run(tmp_path / "1", rows=rows, script="Dataset_A_lmfn_tfn_fusion_models")
    metrics = pd.read_csv(run / "metrics.csv")
    metrics.loc[metrics["row"] == rows[2][0], "modalities"] = "acc+gyr+emg"
    metrics.to_csv(run / "metrics.csv", index=False)
    [results] = load_results([run])
    [axes] = figures.imus_figure(results).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4", "4\n+ emg"]
    assert [list(bars[0].get_xdata()) for bars in axes.containers] == [[1, 4], [5]]
    nrmse = results.metrics.groupby("row")["nrmse_percent"].mean()
    drawn = [y for bars in axes.containers for y in bars[0].get_ydata()]
    assert drawn == pytest.approx([nrmse[row] for row, _, _ in rows])


def test_rows_without_common_subjects_are_drawn_without_means(
    tmp_path: Path, capsys: Capture
) -> None:
    """Rows that are tested on different subjects so far must not stop the report."""
    runs = [
        make_run(tmp_path / row, [(row, "foot", 9)], tested=[s])
        for (row, *_), s in zip(PAIR, "78", strict=True)
    ]
    main([*map(str, runs), "--out", str(tmp_path / "report")])
    assert "no test subject in common" in capsys.readouterr().out
    assert (tmp_path / "report" / "A-paper" / "figures" / "targets_table_III.png").exists()


def test_agreement_has_a_point_per_stance(tmp_path: Path) -> None:
    """Samples of swing, where every force is 0, would make any network look right."""
    run = make_run(tmp_path / "1", [("teacher", "all_imus_emg", 1)], tested=["7", "9"])
    for subject in "79":
        path = write_predictions(run, "teacher", subject, ["Ramp", "Stair"], samples=200)
    [results] = load_results([run])
    stances = load_stances(results)
    figure = agreement.agreement_figure("teacher", stances, "measured", is_difference=False)
    assert [len(axes.collections) for axes in figure.axes[:7]] == [2] * 7  # a color per activity
    points = np.concatenate([c.get_offsets() for c in figure.axes[1].collections])
    of_target = stances[stances["target"] == "hip adduction moment"]
    assert len(points) == len(of_target) > 8
    measure = agreement.peak(of_target)
    measured, estimated = (of_target[f"{kind}_{measure}"] for kind in ("measured", "estimated"))
    assert sorted(points[:, 1]) == pytest.approx(sorted(estimated))
    fit = linregress(measured, estimated)
    rmse = np.sqrt(np.mean((estimated - measured) ** 2))
    assert figure.axes[1].get_title().splitlines() == [
        f"hip adduction moment, {measure}, n = {len(of_target)}",
        f"slope {fit.slope:.2f}, r {fit.rvalue:.2f}, RMSE {rmse:.2g}",
    ]
    figure = agreement.agreement_figure("teacher", stances, "measured", is_difference=True)
    differences = (estimated - measured).groupby(of_target["test_subject"])
    bias, low, high = limits_of_agreement([part.to_numpy() for _, part in differences])
    text = figure.axes[1].get_title().splitlines()[1]
    assert text == f"bias {bias:.2g}, limits {low:.2g} to {high:.2g}"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"subject_9\.npz: damaged predictions"):
        load_row(results, "teacher")


def test_figures_are_also_written_in_the_requested_format(tmp_path: Path) -> None:
    """Journals want vector graphics; the page needs PNG."""
    run = make_run(tmp_path / "1", [("teacher", "all_imus_emg", 1)])
    write_predictions(run, "teacher", "7", ["Ramp"], samples=200)
    main([str(run), "--out", str(tmp_path / "report"), "--figure-format", "svg"])
    drawn = {path.name for path in (tmp_path / "report" / "A-paper" / "figures").iterdir()}
    assert {"models_table_II.svg", "models_table_II.png"} <= drawn
    assert len(drawn) % 2 == 0
