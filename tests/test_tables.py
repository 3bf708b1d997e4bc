"""The tables on the screen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from common import tables

ABOUT = {"sensor_set": "foot", "modalities": "acc+gyr", "parameters": 1234567}


def line(row: str, subject: str, target: str, nrmse: float) -> dict[str, object]:
    """Return a line of metrics over all activities."""
    scores = {"nrmse_percent": nrmse, "rmse": 1.0, "pcc": nrmse / 100, "r2": 0.5}
    place = {"row": row, "test_subject": subject, "activity": "all", "target": target}
    return {**ABOUT, **place, "unit": "BW", "n": 100, **scores}


METRICS = pd.DataFrame(
    [
        line("teacher", "1", "GRF x", 4.0),
        line("teacher", "1", "GRF y", 8.0),
        line("teacher", "2", "GRF x", 10.0),
        line("teacher", "2", "GRF y", 10.0),
        line("student", "2", "GRF x", 12.0),
        line("student", "2", "GRF y", np.nan),
    ]
)


def cells(table: str, row: str) -> str:
    """Return a row's line with single spaces."""
    return " ".join(next(text for text in table.splitlines() if text.startswith(row)).split())


def test_fold_table_has_targets_and_their_mean_and_sd() -> None:
    """Mean 6 and sample SD 2.83 of 4 and 8; another subject's lines must not leak in."""
    table = tables.fold_table(METRICS, ["teacher"], "1")
    assert cells(table, "teacher") == "teacher 4.00 8.00 6.00 ± 2.83"
    assert "Test subject 1" in table
    assert len({len(text) for text in table.splitlines()[4:]}) == 1  # aligned


def test_final_table_has_the_sd_over_targets_and_over_subjects() -> None:
    """Means 6 and 10: mean 8, SD over subjects 2.83; SDs over targets 2.83 and 0: mean 1.41."""
    table = tables.final_table(METRICS, ["teacher"], ["1", "2"])
    assert cells(table, "teacher").startswith("teacher 1,234,567 8.00 ± 1.41 ± 2.83 0.080")
    assert "2 targets; 2 test subjects" in table
    one = tables.final_table(METRICS, ["teacher"], ["1"])
    assert cells(one, "teacher").startswith("teacher 1,234,567 6.00 ± 2.83 0.060")
    assert "SD over" not in one.splitlines()[1]


def test_an_undefined_value_is_not_left_out_of_a_mean() -> None:
    """A target without a score would otherwise make a row look better than it is."""
    assert cells(tables.fold_table(METRICS, ["student"], "2"), "student").endswith("nan ± nan")


def test_activities_are_scored_on_their_own() -> None:
    """Per activity the range is that activity's, and `all` is over every sample."""
    truth = np.array([[0.0], [1.0], [10.0], [20.0]])
    prediction = truth + np.array([[0.0], [1.0], [0.0], [0.0]])
    activity = np.array(["Ramp", "Ramp", "Stair", "Stair"])
    frame = tables.long_form(truth, prediction, activity, [("knee", "BW")], {"row": "teacher"})
    found = frame.set_index("activity")["nrmse_percent"].round(6).to_dict()
    expected = {"all": 100 * 0.5 / 20, "Ramp": 100 * np.sqrt(0.5), "Stair": 0.0}
    assert found == {name: round(value, 6) for name, value in expected.items()}
    assert frame["n"].tolist() == [4, 2, 2]
