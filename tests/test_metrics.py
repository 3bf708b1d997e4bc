"""The accuracy that every table reports."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from common.metrics import score


def test_hand_computed_case() -> None:
    """A wrong NRMSE would make every table incomparable with the paper's."""
    truth = np.array([[0.0], [2.0], [4.0]])
    prediction = np.array([[1.0], [2.0], [5.0]])
    result = score(truth, prediction, ["knee"])
    rmse = np.sqrt(2 / 3)
    assert result["rmse"][0] == pytest.approx(rmse)
    assert result["nrmse_percent"][0] == pytest.approx(100 * rmse / 4)
    assert result["r2"][0] == pytest.approx(1 - 2 / 8)


def test_equals_scipy_and_scikit_learn_per_target() -> None:
    """PCC and R² must be what readers know by those names, for each target on its own."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(500, 3)) * [1, 100, 0.01] + [0, 5, -3]
    prediction = truth + rng.normal(size=(500, 3)) * [0.1, 300, 0.02]
    result = score(truth.astype(np.float32), prediction.astype(np.float32), list("abc"))
    for k in range(3):
        expected = stats.pearsonr(truth[:, k], prediction[:, k]).statistic
        assert result["pcc"][k] == pytest.approx(expected, abs=1e-5)
        assert result["r2"][k] == pytest.approx(r2_score(truth[:, k], prediction[:, k]), rel=1e-4)


def test_constants_give_nan_with_a_warning_that_names_the_target() -> None:
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
