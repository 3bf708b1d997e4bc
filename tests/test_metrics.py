"""The accuracy that every table reports, and the tables on the screen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from common.metrics import COLUMNS, final_table, fold_table, long_form, score, with_phase

# Scores ------------------------------------------------------------------------------------------


def test_scores_of_a_case_computed_by_hand() -> None:
    """A wrong NRMSE would make every table incomparable with the paper's."""
    truth = np.array([[0.0], [2.0], [4.0]])
    prediction = np.array([[1.0], [2.0], [5.0]])
    result = score(truth, prediction, ["knee"])
    rmse = np.sqrt(2 / 3)
    assert result["rmse"][0] == pytest.approx(rmse)
    assert result["nrmse_percent"][0] == pytest.approx(100 * rmse / 4)
    assert result["r2"][0] == pytest.approx(1 - 2 / 8)


def test_scores_equal_those_of_scipy_and_scikit_learn() -> None:
    """PCC and R² must be what readers know by those names, for each target by itself."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 3)) * [1, 100, 0.01] + [0, 5, -3]
    prediction = truth + rng.normal(size=(500, 3)) * [0.1, 300, 0.02]
    result = score(truth.astype(np.float32), prediction.astype(np.float32), list("abc"))
    for k in range(3):
        expected = stats.pearsonr(truth[:, k], prediction[:, k]).statistic
        assert result["pcc"][k] == pytest.approx(expected, abs=1e-5)
        assert result["r2"][k] == pytest.approx(r2_score(truth[:, k], prediction[:, k]), rel=1e-4)


def test_constants_give_nan_and_a_warning_that_names_the_target() -> None:
    """A force that is zero throughout an activity must not end a run of days."""
    rng = np.random.default_rng(0)
    truth, prediction = rng.normal(size=(2, 50, 3))
    truth[:, 0] = 0.1
    prediction[:, 1] = 3.0
    with pytest.warns(RuntimeWarning, match="of knee, ankle:"):
        result = score(truth, prediction, ["knee", "ankle", "hip"])
    assert np.isnan(result["nrmse_percent"]).tolist() == [True, False, False]
    assert np.isnan(result["pcc"]).tolist() == [True, True, False]
    assert np.isnan(result["r2"]).tolist() == [True, False, False]
    assert np.isfinite(result["rmse"]).all()


def test_each_activity_is_scored_by_itself() -> None:
    """The range in an activity's NRMSE is that of the activity; `all` covers every sample."""
    truth = np.array([[0.0], [1.0], [10.0], [20.0]])
    prediction = truth + np.array([[0.0], [1.0], [0.0], [0.0]])
    activity = np.array(["Ramp", "Ramp", "Stair", "Stair"])
    frame = long_form(truth, prediction, activity, [("knee", "BW")], {"row": "teacher"})
    found = frame.set_index("activity")["nrmse_percent"].round(6).to_dict()
    expected = {"all": 100 * 0.5 / 20, "Ramp": 100 * np.sqrt(0.5), "Stair": 0.0}
    assert found == {name: round(value, 6) for name, value in expected.items()}
    assert frame["n"].tolist() == [4, 2, 2]


def test_the_stance_phase_is_scored_by_itself() -> None:
    """Swing, where a force is 0, flatters every score; lines of all samples stay as they are."""
    truth = np.array([[0.0], [1.0], [10.0], [30.0], [0.0]])
    prediction = truth + np.array([[0.0], [1.0], [2.0], [2.0], [0.0]])
    activity = np.array(["Ramp", "Ramp", "Stair", "Stair", "Stair"])
    arguments = truth, prediction, activity, [("knee", "BW")], {"row": "teacher"}
    frame = long_form(*arguments, is_stance=truth[:, 0] > 5)
    pd.testing.assert_frame_equal(frame[frame["phase"] == "all"], long_form(*arguments))
    stance = frame[frame["phase"] == "stance"]
    assert stance["activity"].tolist() == ["all", "Stair"]  # a ramp without stances has no line
    assert stance["n"].tolist() == [2, 2]
    assert stance["nrmse_percent"].tolist() == pytest.approx([10.0, 10.0])


def test_metrics_of_earlier_versions_are_those_of_all_samples() -> None:
    """A run that was started with an earlier version could not be resumed or reported."""
    now = with_phase(METRICS.drop(columns="phase"))
    assert list(now) == list(COLUMNS)
    assert set(now["phase"]) == {"all"}
    mixed = pd.concat([METRICS.drop(columns="phase"), METRICS.assign(phase="stance")])
    assert with_phase(mixed)["phase"].tolist() == ["all"] * 6 + ["stance"] * 6
    assert list(with_phase(pd.DataFrame())) == list(COLUMNS)


# Tables on the screen ----------------------------------------------------------------------------


def line(row: str, subject: str, target: str, nrmse: float) -> dict[str, object]:
    """Return a line of the metrics over all activities."""
    network = {"sensor_set": "foot", "modalities": "acc+gyr", "parameters": 1234567}
    place = {"row": row, "test_subject": subject, "activity": "all", "phase": "all"}
    scores = {"nrmse_percent": nrmse, "rmse": 1.0, "pcc": nrmse / 100, "r2": 0.5}
    return {**network, **place, "target": target, "unit": "BW", "n": 100, **scores}


METRICS = pd.DataFrame(
    [
        line("teacher", "1", "GRF vertical", 4.0),
        line("teacher", "1", "GRF medio-lateral", 8.0),
        line("teacher", "2", "GRF vertical", 10.0),
        line("teacher", "2", "GRF medio-lateral", 10.0),
        line("student", "2", "GRF vertical", 12.0),
        line("student", "2", "GRF medio-lateral", np.nan),
    ]
)


def cells(table: str, row: str) -> str:
    """Return the line of a row with single spaces."""
    return " ".join(next(text for text in table.splitlines() if text.startswith(row)).split())


def test_table_of_a_fold_shows_the_targets_and_their_mean() -> None:
    """Mean 6 of 4 and 8; the lines of another subject, or of a phase, must not leak in."""
    table = fold_table(METRICS, ["teacher"], "1")
    assert cells(table, "teacher") == "teacher 4.00 8.00 6.00"
    assert "Test subject 1" in table
    stance = METRICS.assign(phase="stance", nrmse_percent=99.0)
    assert fold_table(pd.concat([METRICS, stance]), ["teacher"], "1") == table


def test_final_table_shows_the_sd_over_subjects() -> None:
    """Means 6 and 10: 8 ± 2.83, as in the report; the SD over targets would look like theirs."""
    table = final_table(METRICS, ["teacher"], ["1", "2"])
    assert cells(table, "teacher").startswith("teacher 1,234,567 8.00 ± 2.83 0.080 ± 0.028")
    assert "Mean over 2 targets, then mean ± SD over 2 test subjects" in table
    one = final_table(METRICS, ["teacher"], ["1"])
    assert cells(one, "teacher").startswith("teacher 1,234,567 6.00 0.060")
    assert "Mean over 2 targets, test subject 1" in one


def test_an_undefined_value_is_not_left_out_of_a_mean() -> None:
    """Without its undefined target a row would look better than it is."""
    assert cells(fold_table(METRICS, ["student"], "2"), "student").endswith("nan nan")
