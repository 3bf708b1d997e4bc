"""The report's numbers and statistics, against hand-computed, published and library results."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from tests.conftest import ROOT
from tests.made_runs import TARGETS, write_run
from tools.reporting import agreement, comparison, figures, layout, statistics, summary
from tools.reporting.collect import Results, collect
from tools.reporting.text import MeanSD, Table

# Field, "Discovering Statistics", repeated-measures ANOVA: eight celebrities, four foods. Published
# there: F(3, 21) = 3.79, p = 0.026; W = 0.136, p = 0.047; epsilon = 0.533, corrected p = 0.063.
FIELD = pd.DataFrame(
    {
        "stick insect": [8, 9, 6, 5, 8, 7, 10, 12],
        "kangaroo testicle": [7, 5, 2, 3, 4, 5, 2, 6],
        "fish eyeball": [1, 2, 3, 1, 5, 6, 7, 8],
        "witchetty grub": [6, 5, 8, 9, 8, 7, 2, 1],
    }
)


def distillation(folder: Path, values: dict[tuple[str, str], float], **others: object) -> Results:
    """Return results of Dataset B's sensor distillation; NRMSE of a row and subject, all targets.

    Targets are a point apart around the value, so that their mean is the value.
    """
    sets = {"teacher": "all_imus_video"}
    rows = dict.fromkeys(row for row, _ in values)
    made = []
    for row in rows:
        tested = [subject for name, subject in values if name == row]
        sensor_set = sets.get(row, row.partition("-")[2])
        run = folder / row
        others = {"subjects": ["01", "02", "03", "04", "05"], **others}
        write_run(
            run, "Dataset_B_sensor_distillation", [(row, sensor_set, 1000)],
            lambda row, subject, k: values[row, subject] + k - 2, tested=tested, **others,
        )  # fmt: skip
        made.append(run)
    [results] = collect(made)
    return results


def cells(table: Table, row: str) -> dict[str, object]:
    """Return a row's cells by the header."""
    line = next(line for line in table.body if row in line)
    return dict(zip(table.header, line, strict=True))


def named(tables: list[Table], stem: str) -> Table:
    """Return the table of that stem."""
    return next(table for table in tables if table.stem == stem)


def test_means_and_sd_are_over_subjects_of_the_mean_over_targets(tmp_path: Path) -> None:
    """Means 4, 6 and 8 of three subjects: 6 ± 2. The SD over targets (1.58) must not stand there;
    subjects that were not run are counted as missing.
    """
    values = {("teacher", s): v for s, v in (("01", 4.0), ("02", 6.0), ("03", 8.0))}
    results = distillation(tmp_path, values)
    tables = summary.tables(results)
    found = cells(named(tables, "table_II"), "teacher")
    assert found["NRMSE %"] == MeanSD(6.0, 2.0, 2)
    assert found["PCC"] == pytest.approx(MeanSD(0.94, 0.02, 3))
    assert found["folds"] == "3 of 5"
    assert found["parameters"] == 1000
    per_target = cells(named(tables, "table_II_nrmse_per_target"), "teacher")
    assert [per_target[t] for t in TARGETS["B"]] == [MeanSD(6.0 + k, 2.0, 2) for k in range(-2, 3)]


def test_rows_of_different_subjects_are_compared_on_the_common_ones(tmp_path: Path) -> None:
    """A row that was only run on the easy subjects must not look better than the others."""
    values = {("student-feet", s): float(s) for s in ("01", "02", "03", "04")}
    values |= {("distilled-feet", s): float(s) - 1 for s in ("03", "04", "05")}
    results = distillation(tmp_path, values)
    table = named(summary.tables(results), "table_IV")
    naive, distilled = cells(table, "student-feet"), cells(table, "distilled-feet")
    assert naive["NRMSE %"].mean == 2.5
    assert distilled["NRMSE %"].mean == 3.0
    assert naive["NRMSE % on 2 common subjects"].mean == 3.5
    assert distilled["NRMSE % on 2 common subjects"].mean == 2.5
    assert any("different subjects" in note and "03, 04" in note for note in table.notes)
    per_target = named(summary.tables(results), "table_IV_nrmse_per_target")
    assert "different subjects" in per_target.notes[0]


def test_an_undefined_score_makes_its_mean_undefined(tmp_path: Path) -> None:
    """Left out unseen, the worst target of a row would make it the best; tests drop the subject."""

    def nrmse(row: str, subject: str, k: int) -> float:
        return math.nan if (row, subject, k) == ("distilled-feet", "02", 0) else 5.0 + k

    rows = [(f"{kind}-feet", "feet", 1000) for kind in ("student", "distilled")]
    script = "Dataset_B_sensor_distillation"
    run = write_run(tmp_path / "run", script, rows, nrmse, subjects=["01", "02", "03"])
    [results] = collect([run])
    table = named(summary.tables(results), "table_IV")
    assert math.isnan(cells(table, "distilled-feet")["NRMSE %"].mean)
    assert cells(table, "student-feet")["NRMSE %"].mean == 7.0
    assert summary.common_subjects(results.lines) == ["01", "03"]
    assert results.notices == [
        "distilled-feet, KFM: NRMSE or PCC is undefined on subject 02; so are its means."
    ]


def test_anova_is_that_of_statsmodels_with_the_published_correction() -> None:
    """Field's worked example, with sphericity violated: 0.026 must become 0.063."""
    found = statistics.anova(FIELD)
    long = FIELD.melt(ignore_index=False).reset_index()
    reference = AnovaRM(long, "value", "index", within=["variable"]).fit().anova_table.iloc[0]
    assert found.f == pytest.approx(reference["F Value"])
    assert found.p == pytest.approx(reference["Pr > F"])
    assert (round(found.f, 2), found.df_models, found.df_error) == (3.79, 3, 21)
    assert round(found.p, 3) == 0.026
    assert round(found.sphericity.w, 3) == 0.136
    assert round(found.sphericity.p, 3) == 0.047
    assert round(found.sphericity.epsilon, 3) == 0.533
    assert round(found.p_corrected, 3) == 0.063
    assert found.is_corrected


def test_sphericity_at_its_ends() -> None:
    """Equal, uncorrelated models need no correction; of two there is nothing to correct."""
    orthogonal = np.vstack([np.eye(3), -np.eye(3)])
    found = statistics.sphericity(orthogonal)
    assert found.epsilon == pytest.approx(1)
    assert found.w == pytest.approx(1)
    assert found.p == pytest.approx(1)
    assert statistics.sphericity(FIELD.to_numpy(float)[:, :2]) == (1, 1, 1)
    one_dimension = np.outer([1.0, 2.0, 4.0, 7.0, 9.0], [1.0, 2.0, 3.0])
    assert statistics.sphericity(one_dimension).epsilon == pytest.approx(1 / 2)


def test_too_few_subjects_to_test_sphericity_are_corrected() -> None:
    """Three subjects and four models: Mauchly's test does not exist, so that p is corrected."""
    found = statistics.anova(FIELD.iloc[:3])
    assert math.isnan(found.sphericity.p)
    assert found.is_corrected


def test_paired_tests_by_hand() -> None:
    """Differences -1, -2, -3, -2: mean -2, SD 0.816, t = -4.899, p = 0.0163, dz = -2.449, interval
    -2 ± 3.182 x 0.408; Wilcoxon's p of four negative differences, a tie among them, is SciPy's.
    """
    naive = np.array([6.0, 7.0, 8.0, 9.0])
    found = statistics.paired(naive, naive + [-1, -2, -3, -2])
    assert (found.subjects, found.difference) == (4, -2)
    assert found.sd == pytest.approx(math.sqrt(2 / 3))
    assert found.t == pytest.approx(-4.89898, abs=1e-5)
    assert found.p == pytest.approx(0.01628, abs=1e-5)
    assert found.dz == pytest.approx(-math.sqrt(6))
    assert (found.low, found.high) == pytest.approx((-3.29923, -0.70077), abs=1e-5)
    assert found.wilcoxon_p == stats.wilcoxon([-1, -2, -3, -2]).pvalue


def test_models_that_differ_by_a_constant_are_not_tested() -> None:
    """Dividing by rounding errors would find an F of 10^29; of two equal ones W does not exist."""
    constant = pd.DataFrame({"a": [0.1, 0.2, 0.7, 0.3], "b": [0.3, 0.4, 0.9, 0.5]})
    assert math.isnan(statistics.anova(constant).p)
    assert math.isnan(statistics.anova(FIELD.assign(more=FIELD["fish eyeball"])).sphericity.w)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_without_spread_are_not_tested(shift: float) -> None:
    """Rounding alone would give a p of zero."""
    found = statistics.paired(np.array([0.1, 0.2, 0.7]), np.array([0.1, 0.2, 0.7]) + shift)
    assert math.isnan(found.p)
    assert math.isnan(found.dz)
    assert math.isnan(found.wilcoxon_p)


def test_pairs_are_corrected_as_statsmodels_does() -> None:
    """Six pairs of four foods; an uncorrected p would find differences by chance."""
    found = statistics.post_hoc(FIELD)
    raw = [stats.ttest_rel(FIELD[b], FIELD[a]).pvalue for a, b, _, _ in found]
    assert len(found) == 6
    assert [p for *_, p in found] == pytest.approx(multipletests(raw, method="bonferroni")[1])


def test_statistics_pair_subjects_and_need_three(tmp_path: Path) -> None:
    """Subjects come in another order in the second run; those of one run only are left out."""
    naive = {"01": 6.0, "02": 7.0, "03": 8.0, "04": 9.0}
    distilled = {"04": 8.0, "03": 5.0, "02": 5.0, "05": 1.0}
    values = {("student-feet", subject): value for subject, value in naive.items()}
    values |= {("distilled-feet", subject): value for subject, value in distilled.items()}
    values |= {
        (f"{kind}-all_imus", s): 1.0 for kind in ("student", "distilled") for s in ("01", "02")
    }
    tables = comparison.tables(distillation(tmp_path, values))
    table = named(tables, "statistics_distillation")
    found = cells(table, "feet")
    expected = stats.ttest_rel([5, 5, 8], [7, 8, 9])
    assert found["subjects"] == 3
    assert found["difference"].value == -2
    assert found["t"].value == pytest.approx(expected.statistic)
    assert "no test: 2 common subjects" in cells(table, "all_imus")["differ (t)"]
    assert "no test" in cells(named(tables, "statistics_anova"), "all_imus")["models differ"]


def test_rows_stand_in_the_papers_order_and_strangers_at_the_end() -> None:
    """A row that the layout does not know must not be lost."""
    rows = [("mine-foot", "foot"), ("distilled-foot", "foot"), ("teacher", "all_imus_emg")]
    rows += [("ffn-all_imus", "all_imus"), ("ffn-foot", "foot"), ("ffn_hf-foot", "foot")]
    assert [row for row, _ in layout.in_order("A", rows)] == [
        "ffn_hf-foot", "ffn-foot", "distilled-foot", "ffn-all_imus", "teacher", "mine-foot",
    ]  # fmt: skip
    assert layout.place("A", "Dataset_A_model_ablation", "mffm_lstm", "all_imus_emg").number == "I"
    assert layout.place("A", "Dataset_A_x", "teacher", "all_imus_emg").number == "II"
    assert layout.place("A", "Dataset_A_x", "mine-foot", "foot").number == "III"
    assert layout.place("B", "Dataset_B_x", "mine-feet", "feet").number == "IV"


@pytest.mark.parametrize("dataset", ["A", "B"])
def test_the_layout_names_the_rows_of_the_scripts(dataset: str) -> None:
    """A figure of the paper under a misspelt row is never shown; an unknown row is not tested."""
    rows = {}
    for path in ROOT.glob(f"Dataset_{dataset}_*.py"):
        for experiment in importlib.import_module(path.stem).EXPERIMENTS:
            assert experiment.row not in rows, "two scripts have a row of that name"
            rows[experiment.row] = experiment.sensor_set
    assert {layout.kind(row) for row in rows} == (
        layout.MODELS.keys() | layout.ABLATION.keys() | layout.MORE_ABLATION.keys()
    )
    assert set(rows.values()) == {*layout.SPARSE_SETS[dataset], layout.FULL_SET[dataset]}
    assert layout.PAPER_NRMSE[dataset].keys() <= rows.keys()
    for number in ("I", "II", "III", "IV"):
        assert set(layout.expected_rows(dataset, number)) <= rows.keys()


def test_pareto_front() -> None:
    """Smallest first; a larger model only if it is better; of two equally large ones the better."""
    points = pd.DataFrame(
        {"parameters": [10, 1, 5, 5, 20], "nrmse": [4.0, 9.0, 6.0, 5.0, 4.0]}, index=list("abcde")
    )
    assert list(figures.pareto_front(points).index) == ["b", "d", "a"]


def test_limits_of_agreement_count_the_spread_between_subjects() -> None:
    """Two subjects with differences 0, 2 and 4, 6 (means 1 and 5, variance within 2): mean square
    between 16, so that the variance between is (16 - 2) / 2 = 7 and the limits 3 ± 1.96 x 3.
    """
    moments = [agreement.Moments(2, 1.0, 2.0), agreement.Moments(2, 5.0, 2.0)]
    assert agreement.limits_of_agreement(moments) == pytest.approx((3.0, -2.88, 8.88))
    one = agreement.limits_of_agreement(moments[:1])
    assert one == pytest.approx((1.0, 1 - 1.96 * math.sqrt(2), 1 + 1.96 * math.sqrt(2)))
