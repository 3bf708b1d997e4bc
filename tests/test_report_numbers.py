"""The report's numbers and statistics, against hand-computed, published and library results."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from tests.conftest import ROOT
from tests.made_runs import TARGETS, make_run, write_run
from tools.report import paper, statistics, tables
from tools.report.__main__ import main as report
from tools.report.runs import Results, load_results
from tools.report.tables import Table

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


def distillation(folder: Path, values: dict[tuple[str, str], float]) -> Results:
    """Load made-up results of Dataset B's sensor distillation, one run per row.

    Args:
        folder: folder of the runs.
        values: NRMSE in %, mean over targets, of each row and subject; the targets are one
            percentage point apart.
    """
    runs = []
    for row in dict.fromkeys(row for row, _ in values):
        sensor_set = row.partition("-")[2] or "all_imus_video"
        run = write_run(
            folder / row, "Dataset_B_sensor_distillation", [(row, sensor_set, 1000)],
            lambda row, subject, k: values[row, subject] + k - 2,
            subjects=["01", "02", "03", "04", "05"],
            tested=[subject for name, subject in values if name == row],
        )  # fmt: skip
        runs.append(run)
    [results] = load_results(runs)
    return results


def find(found: list[Table], stem: str) -> Table:
    """Return the table with that stem."""
    return next(table for table in found if table.stem == stem)


def line(found: list[Table], stem: str, name: str) -> dict[str, object]:
    """Return the line of that row or sensor set in the table with that stem."""
    lines = find(found, stem).numbers.to_dict("records")
    return next(line for line in lines if name in line.values())


def test_means_are_over_targets_and_sds_over_subjects(tmp_path: Path) -> None:
    """Means 4, 6 and 8 of three subjects are 6 ± 2; the SD over targets (1.58) would mislead."""
    values = {("teacher", s): v for s, v in (("01", 4.0), ("02", 6.0), ("03", 8.0))}
    found = tables.summary_tables(distillation(tmp_path, values))
    teacher = line(found, "table_II", "teacher")
    assert (teacher["NRMSE % mean"], teacher["NRMSE % SD"]) == (6.0, 2.0)
    assert (teacher["PCC mean"], teacher["PCC SD"]) == pytest.approx((0.94, 0.02))
    assert (teacher["folds"], teacher["parameters"]) == ("3 of 5", 1000)
    per_target = line(found, "table_II_nrmse_per_target", "teacher")
    assert [per_target[f"{target} mean"] for target in TARGETS["B"]] == [4, 5, 6, 7, 8]
    assert {per_target[f"{target} SD"] for target in TARGETS["B"]} == {2.0}


def test_rows_with_different_subjects_are_compared_on_common_ones(tmp_path: Path) -> None:
    """A row that was run on the easy subjects only would look better than the others."""
    values = {("student-feet", s): float(s) for s in ("01", "02", "03", "04")}
    values |= {("distilled-feet", s): float(s) - 1 for s in ("03", "04", "05")}
    found = tables.summary_tables(distillation(tmp_path, values))
    means = find(found, "table_IV").numbers
    assert list(means["NRMSE % mean"]) == [2.5, 3.0]
    assert list(means["NRMSE % on 2 common subjects mean"]) == [3.5, 2.5]
    assert "common subjects: 03, 04" in find(found, "table_IV").notes[1]
    assert "different subjects" in find(found, "table_IV_nrmse_per_target").notes[1]


@pytest.mark.parametrize("dataset", ["A", "B"])
def test_moments_per_kg_need_the_bodies_in_the_data_file(dataset: str, tmp_path: Path) -> None:
    """RMSE in N·m/kg would be that of another person, or of the data file of another run."""
    heights = {"07": 1.5, "08": 2.0, "09": 180.0}  # the last one is not in m
    data = tmp_path / "data.h5"
    with h5py.File(data, "w") as file:
        file.attrs["columns"] = json.dumps(["body weight", "body height", "EXT_KM_X"])
        for subject, height_m in heights.items():
            if dataset == "B":
                file[f"subject_{subject}"] = np.full((2, 152, 3), [60.0, height_m, 1.0], "f4")
                continue
            group = file.create_group(f"All_subjects/Subject_{subject}")
            group.attrs["mass_kg"], group.attrs["height_m"] = 60.0, height_m
    script = f"Dataset_{dataset}_Sensor_Distillation"
    rows = [("student-foot", "foot", 1000)] if dataset == "A" else [("student-feet", "feet", 1000)]
    run = write_run(tmp_path / "run", script, rows, lambda *_: 10.0, subjects=[*heights])
    config = json.loads((run / "config.json").read_text())
    config["calls"] = [{"flags": {"data": str(data)}}]
    for size, expected in ((data.stat().st_size, True), (1, False)):
        config["settings"]["data"]["bytes"] = size
        (run / "config.json").write_text(json.dumps(config))
        [results] = load_results([run])
        assert ("rmse_nm_per_kg" in results.metrics) == expected
        if expected:
            first = results.metrics.groupby("test_subject").first()
            factor = 9.8 if dataset == "A" else 0.098
            known = (factor * first["rmse"] * pd.Series(heights))[["07", "08"]]
            np.testing.assert_allclose(first["rmse_nm_per_kg"][["07", "08"]], known, rtol=1e-6)
            of_force = results.metrics["unit"] == "BW"
            assert results.metrics.loc[of_force, "rmse_nm_per_kg"].isna().all()
            assert np.isnan(first["rmse_nm_per_kg"]["09"])


def test_undefined_scores_make_their_means_undefined(tmp_path: Path) -> None:
    """Skipping an undefined target would flatter the row; tests leave that subject out."""

    def nrmse(row: str, subject: str, k: int) -> float:
        return math.nan if (row, subject, k) == ("distilled-feet", "02", 0) else 5.0 + k

    rows = [(f"{kind}-feet", "feet", 1000) for kind in ("student", "distilled")]
    script = "Dataset_B_sensor_distillation"
    run = write_run(tmp_path / "run", script, rows, nrmse, subjects=["01", "02", "03"])
    [results] = load_results([run])
    table = find(tables.summary_tables(results), "table_IV")
    assert table.numbers["NRMSE % mean"].tolist() == pytest.approx([7, math.nan], nan_ok=True)
    [student, distilled] = table.markdown().splitlines()[4:6]
    assert "7.00 ± 0.00" in student
    assert "undefined" in distilled
    assert list(tables.common_nrmse(results, [row for row, _, _ in rows]).index) == ["01", "03"]
    [notice] = results.notices
    assert notice.startswith("distilled-feet, KFM: NRMSE or PCC is undefined for subject 02")


def test_anova_with_the_published_correction() -> None:
    """Without the correction, this example would show a difference that there is not."""
    found = statistics.anova(FIELD)
    long = FIELD.melt(ignore_index=False).reset_index()
    reference = AnovaRM(long, "value", "index", within=["variable"]).fit().anova_table.iloc[0]
    assert (found["F"], found["p"]) == pytest.approx((reference["F Value"], reference["Pr > F"]))
    assert found["df"] == "3, 21"
    published = {"F": 3.79, "p": 0.026, "Mauchly's W": 0.136, "Mauchly's p": 0.047}
    published |= {"Greenhouse-Geisser ε": 0.533, "corrected p": 0.063}
    assert {name: found[name] for name in published} == pytest.approx(published, abs=5e-3)
    assert found["models differ"] == "not shown, corrected"


def test_sphericity_at_its_extremes() -> None:
    """Uncorrelated models and pairs of models need no correction; three subjects always do."""
    uncorrelated = np.vstack([np.eye(3), -np.eye(3)])
    assert statistics.sphericity(uncorrelated) == pytest.approx((1, 1, 1))
    assert statistics.sphericity(FIELD.to_numpy(float)[:, :2]) == (1, 1, 1)
    one_dimension = np.outer([1.0, 2.0, 4.0, 7.0, 9.0], [1.0, 2.0, 3.0])
    assert statistics.sphericity(one_dimension)[2] == pytest.approx(1 / 2)
    few = statistics.anova(FIELD.iloc[:3])
    assert math.isnan(few["Mauchly's p"])
    assert few["models differ"].endswith(", corrected")


def test_paired_tests_by_hand() -> None:
    """Differences -1, -2, -3, -2: mean -2, SD 0.816, t -4.899, p 0.0163, dz -2.449, interval
    -2 ± 3.182 x 0.408; Wilcoxon's p of four negative differences with a tie is SciPy's.
    """
    student = np.array([6.0, 7.0, 8.0, 9.0])
    found = statistics.paired_tests(student, student + [-1, -2, -3, -2])
    assert (found["subjects"], found["difference"]) == (4, -2)
    assert (found["SD"], found["dz"]) == pytest.approx((math.sqrt(2 / 3), -math.sqrt(6)))
    assert (found["t"], found["p"]) == pytest.approx((-4.89898, 0.01628), abs=1e-5)
    interval = found["95 % CI low"], found["95 % CI high"]
    assert interval == pytest.approx((-3.29923, -0.70077), abs=1e-5)
    assert found["p, Wilcoxon"] == stats.wilcoxon([-1, -2, -3, -2]).pvalue


def test_constant_differences_are_not_tested() -> None:
    """Dividing by rounding errors would give an F of 10^29 and a p of zero."""
    values = pd.DataFrame({"a": [0.1, 0.2, 0.7, 0.3], "b": [0.3, 0.4, 0.9, 0.5]})
    assert math.isnan(statistics.anova(values)["p"])
    singular = statistics.anova(FIELD.assign(more=FIELD["fish eyeball"]))
    assert math.isnan(singular["Mauchly's W"])
    for b in ("a", "b"):
        found = statistics.paired_tests(values["a"].to_numpy(), values[b].to_numpy())
        assert np.isnan([found["p"], found["dz"], found["p, Wilcoxon"]]).all()


def test_pairs_of_models_are_corrected_for_their_number(tmp_path: Path) -> None:
    """With three pairs, one uncorrected test in seven finds a difference by chance."""
    random = np.random.default_rng(1)
    rows = ("ffn-feet", "student-feet", "distilled-feet")
    subjects = ("01", "02", "03", "04")
    values = {(row, s): len(row) + random.normal() for row in rows for s in subjects}
    results = distillation(tmp_path, values)
    pairs = find(statistics.statistics_tables(results), "statistics_pairs").numbers.to_dict(
        "records"
    )
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        (rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])
    ]  # fmt: skip
    for pair in pairs:
        a, b = ([values[pair[k], s] for s in subjects] for k in ("first", "second"))
        p = stats.ttest_rel(b, a).pvalue
        assert 0.001 < p < 1 / 3
        assert (pair["p"], pair["p, Bonferroni"]) == pytest.approx((p, 3 * p))


def test_statistics_pair_subjects_and_need_three(tmp_path: Path) -> None:
    """The runs list subjects in different order; subjects of one run alone are left out."""
    student = {"01": 6, "02": 7, "03": 8, "04": 9}
    distilled = {"04": 8, "03": 5, "02": 5, "05": 1}
    values = {("student-feet", subject): value for subject, value in student.items()}
    values |= {("distilled-feet", subject): value for subject, value in distilled.items()}
    for subject in ("01", "02"):
        values |= {(f"{k}-all_imus", subject): 1.0 for k in ("student", "distilled")}
    found = statistics.statistics_tables(distillation(tmp_path, values))
    feet = line(found, "statistics_distillation", "feet")
    assert (feet["subjects"], feet["difference"]) == (3, -2)
    assert feet["t"] == pytest.approx(stats.ttest_rel([5, 5, 8], [7, 8, 9]).statistic)
    too_few = "no test: 2 common subjects, at least 3 are needed"
    assert line(found, "statistics_distillation", "all_imus")["differ (t)"] == too_few
    assert line(found, "statistics_anova", "all_imus")["models differ"] == too_few


def test_limits_of_agreement_include_the_spread_between_subjects() -> None:
    """Two subjects with differences 0, 2 and 4, 6 (means 1 and 5, variance within 2): mean square
    between 16, so that the variance between is (16 - 2) / 2 = 7 and the limits 3 ± 1.96 x 3.
    """
    differences = [np.array([0.0, 2.0]), np.array([4.0, 6.0])]
    assert statistics.limits_of_agreement(differences) == pytest.approx((3.0, -2.88, 8.88))
    one = statistics.limits_of_agreement(differences[:1])
    assert one == pytest.approx((1.0, 1 - 1.96 * math.sqrt(2), 1 + 1.96 * math.sqrt(2)))


def test_rows_follow_the_papers_order() -> None:
    """A row that the paper does not have must not be lost."""
    rows = [("mine-foot", "foot"), ("distilled-foot", "foot"), ("teacher", "all_imus_emg")]
    rows += [("ffn-all_imus", "all_imus"), ("ffn-foot", "foot"), ("ffn_hf-foot", "foot")]
    sets = [*paper.SPARSE_SETS["A"], paper.FULL_SET["A"]]
    assert [row for row, _ in paper.sort_rows(sets, rows)] == [
        "ffn_hf-foot", "ffn-foot", "distilled-foot", "ffn-all_imus", "teacher", "mine-foot",
    ]  # fmt: skip
    assert paper.table("A", "Dataset_A_model_ablation", "all_imus_emg").number == "I"
    assert paper.table("A", "Dataset_A_x", "all_imus_emg").number == "II"
    assert paper.table("A", "Dataset_A_x", "foot").number == "III"
    assert paper.table("B", "Dataset_B_x", "feet").number == "IV"


@pytest.mark.parametrize("dataset", ["A", "B"])
def test_the_report_knows_the_rows_of_the_scripts(dataset: str) -> None:
    """A published value under a misspelled row would never appear."""
    rows = {}
    for path in ROOT.glob(f"Dataset_{dataset}_*.py"):
        assert path.stem.lower() in paper.SCRIPTS
        for row in importlib.import_module(path.stem).ROWS:
            assert row.name not in rows, "two scripts have a row of that name"
            rows[row.name] = row.sensor_set
    assert {paper.kind(row) for row in rows} == (
        {*paper.MODELS, *paper.ABLATION, *paper.MORE_ABLATION}
    )
    assert set(rows.values()) == {*paper.SPARSE_SETS[dataset], paper.FULL_SET[dataset]}
    assert paper.NRMSE_PERCENT[dataset].keys() <= rows.keys()


def test_networks_of_a_regression_have_no_stance_scores(tmp_path: Path) -> None:
    """The report of a complete study, which has such rows, would end in a traceback."""
    rows = [
        ("dlr_rmse-foot", "foot", 1),
        ("dlr_correlation-foot", "foot", 1),
        ("dlr-foot", "foot", 2),
    ]
    run = make_run(tmp_path / "run", rows, script="Dataset_A_kinetics_fm_models")
    metrics = pd.read_csv(run / "metrics.csv", dtype={"test_subject": str})
    both = pd.concat([metrics, metrics.assign(phase="stance")])
    both.to_csv(run / "metrics.csv", index=False)
    report([str(run), "--out", str(tmp_path / "out"), "--no-figures"])
    [table] = (tmp_path / "out").rglob("stance_phase.csv")
    assert set(pd.read_csv(table)["row"]) == {"dlr-foot"}
