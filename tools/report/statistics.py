"""The paper's statistical tests, their tables, and limits of agreement.

statsmodels' repeated-measures ANOVA neither tests nor corrects for sphericity; Mauchly's test and
the Greenhouse-Geisser epsilon are therefore computed here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import linalg, stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from common.files import plural
from tools.report import paper
from tools.report.runs import Results
from tools.report.tables import Table, common_nrmse, rows_by_table

ALPHA = 0.05
MIN_SUBJECTS = 3
ANOVA = ("table", "sensors", "models", "subjects", "F", "df", "p", "Mauchly's W", "Mauchly's p")
ANOVA += ("Greenhouse-Geisser ε", "corrected p", "models differ")
PAIRED = ("subjects", "difference", "SD", "95 % CI low", "95 % CI high", "t", "p")
PAIR = ("first", "second")  # of a pair
PAIRS = ("table", *PAIR, *PAIRED, "p, Bonferroni", "dz")
DISTILLATION = ("sensors", *PAIRED, "dz", "p, Wilcoxon", "differ (t)")
ANOVA_NOTE = (
    "NRMSE, mean over targets, on the subjects common to all models of a sensor set. Where "
    f"Mauchly's test rejects sphericity (p < {ALPHA}) or there are too few subjects for that test, "
    "the Greenhouse-Geisser corrected p decides. Ablations that are not in the paper and the "
    "networks within Kinetics-FM-DLR-Net are left out."
)
PAIRS_NOTE = (
    "Difference: NRMSE (%) of the second model minus that of the first. Bonferroni's correction "
    "covers all pairs of models of one table and sensor set; the confidence intervals are not "
    "corrected."
)
DISTILLATION_NOTE = (
    "Difference: NRMSE (%) with distillation minus that without, negative where distillation "
    "helps. The tests are two-sided. dz is Cohen's dz, the mean of the differences divided by "
    "their SD. The p values are not corrected for the number of sensor sets."
)
Line = dict[str, object]  # of a table


def sphericity(values: np.ndarray) -> tuple[float, float, float]:
    """Test sphericity.

    The second term in the expansion of Mauchly's p value matters for few subjects.
    Source: Mauchly 1940 (doi 10.1214/aoms/1177731915); Greenhouse and Geisser 1959
    (doi 10.1007/BF02289823); Anderson, "An Introduction to Multivariate Statistical Analysis",
    section 10.7.4.

    Args:
        values: `(subjects, models)`.

    Returns:
        Mauchly's W, its p value and the Greenhouse-Geisser epsilon; W and its p value are NaN for
        a singular covariance (too few subjects, or two equal models).
    """
    subjects, models = values.shape
    p = models - 1
    if p == 1:
        return 1.0, 1.0, 1.0  # a single difference is always spherical
    contrasts = linalg.helmert(models)  # orthonormal, (models - 1, models)
    covariance = contrasts @ np.cov(values, rowvar=False) @ contrasts.T
    trace = np.trace(covariance)
    epsilon = trace**2 / (p * np.sum(covariance**2))
    if np.linalg.matrix_rank(covariance) < p:
        return math.nan, math.nan, epsilon
    w = np.linalg.det(covariance) / (trace / p) ** p
    scaled = subjects - 1 - (2 * p**2 + p + 2) / (6 * p)
    second = (p + 2) * (p - 1) * (p - 2) * (2 * p**3 + 6 * p**2 + 3 * p + 2)
    second /= 288 * (p * scaled) ** 2
    degrees = p * (p + 1) / 2 - 1
    first, further = stats.chi2.sf(-scaled * np.log(w), [degrees, degrees + 4])
    return w, first + second * (further - first), epsilon


def anova(values: pd.DataFrame) -> Line:
    """Test whether models differ by a repeated-measures ANOVA.

    Args:
        values: a line per subject and a column per model, at least two of each, none missing.

    Returns:
        `F`, its degrees of freedom `df` and its `p`; Mauchly's W, which tests the assumption of
        sphericity, and its p value; the Greenhouse-Geisser epsilon, and the p value of F corrected
        by it. `models differ` states the verdict; the corrected p value decides if sphericity is
        rejected or cannot be tested. If the models differ by constants only, all numbers are NaN.
    """
    df = len(values.columns) - 1, (len(values.columns) - 1) * (len(values) - 1)
    residuals = values.sub(values.mean(axis=1), axis=0) - values.mean()
    f = p = w = w_p = epsilon = p_corrected = math.nan
    if not _is_rounding_error(residuals.to_numpy(), values.to_numpy()):
        long = values.rename_axis(index="subject", columns=None).reset_index()
        long = long.melt("subject", var_name="model")
        table = AnovaRM(long, "value", "subject", within=["model"]).fit().anova_table
        f, p = table.loc["model", ["F Value", "Pr > F"]]
        w, w_p, epsilon = sphericity(values.to_numpy())
        p_corrected = stats.f.sf(f, epsilon * df[0], epsilon * df[1])
    verdict = _verdict(p) if w_p >= ALPHA else f"{_verdict(p_corrected)}, corrected"
    numbers = (f, f"{df[0]}, {df[1]}", p, w, w_p, epsilon, p_corrected, verdict)
    return dict(zip(ANOVA[4:], numbers, strict=True))


def _is_rounding_error(residuals: np.ndarray, values: np.ndarray) -> bool:
    return np.ptp(residuals) <= 1e-12 * np.abs(values).max()


def _verdict(p: float) -> str:
    return "yes" if p < ALPHA else "not shown"


def paired_tests(a: np.ndarray, b: np.ndarray) -> Line:
    """Test the differences `b - a`, two-sided.

    Args:
        a: `(subjects,)`.
        b: `(subjects,)`, in the same order.

    Returns:
        Mean and SD of the differences, the bounds of the 95% confidence interval of the mean, `t`
        and `p` of the paired t-test, Cohen's dz (mean divided by SD) and the p value of Wilcoxon's
        signed-rank test; all but mean and SD are NaN if the differences do not vary.
    """
    differences = b - a
    mean, sd = differences.mean(), differences.std(ddof=1)
    low = high = t = p = dz = wilcoxon_p = math.nan
    if not _is_rounding_error(differences, a):
        t_test = stats.ttest_rel(b, a)
        t, p, dz = t_test.statistic, t_test.pvalue, mean / sd
        low, high = t_test.confidence_interval(1 - ALPHA)
        wilcoxon_p = stats.wilcoxon(differences).pvalue
    numbers = dict(zip(PAIRED, (len(a), mean, sd, low, high, t, p), strict=True))
    return {**numbers, "dz": dz, "p, Wilcoxon": wilcoxon_p}


def limits_of_agreement(differences: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Compute 95% limits of agreement for several measurements per subject.

    The variance of a difference is the sum of the variances within and between subjects, from a
    one-way analysis of variance with groups of unequal size; for one subject it is that within.
    Source: Bland and Altman 2007, "Agreement between methods of measurement with multiple
    observations per individual", section 3 (doi 10.1080/10543400701329422).

    Args:
        differences: `(samples,)` for each subject.

    Returns:
        Bias, lower and upper limit.
    """
    counts = np.array([len(part) for part in differences], float)
    means = np.array([part.mean() for part in differences])
    total = counts.sum()
    bias = (counts * means).sum() / total
    within = sum(part.var() * len(part) for part in differences) / max(total - len(counts), 1)
    between = 0.0
    if len(counts) > 1:
        mean_square = (counts * (means - bias) ** 2).sum() / (len(counts) - 1)
        size = (total - (counts**2).sum() / total) / (len(counts) - 1)
        between = max(0.0, (mean_square - within) / size)
    reach = 1.96 * np.sqrt(within + between)
    return bias, bias - reach, bias + reach


def statistics_tables(results: Results) -> list[Table]:
    """Return the tables of the tests, on the mean NRMSE over targets of each subject."""
    anovas: list[Line] = []
    pairs: list[Line] = []
    for table, by_sensor_set in rows_by_table(results).items():
        for sensor_set, all_rows in by_sensor_set.items():
            rows = [row for row in all_rows if _is_compared(row)]
            if len(rows) < 2:
                continue
            values = common_nrmse(results, rows)
            line: Line = {"table": table.number, "sensors": sensor_set}
            line |= {"models": len(rows), "subjects": len(values)}
            if len(values) < MIN_SUBJECTS:
                anovas.append({**line, "models differ": _too_few(values)})
                continue
            anovas.append({**line, **anova(values)})
            pairs += [{"table": table.number, **pair} for pair in _test_pairs(values)]
    distillation = _test_distillation(results)
    ours = [pair for pair in pairs if {paper.kind(pair[k]) for k in PAIR} & {*paper.OURS}]
    all_pairs = f"All pairs ({len(pairs)}) are listed in statistics_pairs.csv."
    title, tests = "Kinetics-MFFM-Net against other models", "paired t-tests, Bonferroni-corrected"
    compared = "Students with and without distillation: paired tests"
    found = (
        ("anova", "Repeated-measures ANOVA across models", ANOVA, anovas, [ANOVA_NOTE]),
        ("kinetics_mffm_net", f"{title}: {tests}", PAIRS, ours, [PAIRS_NOTE, all_pairs]),
        ("pairs", f"Pairs of models: {tests}", PAIRS, pairs, [PAIRS_NOTE]),
        ("distillation", compared, DISTILLATION, distillation, [DISTILLATION_NOTE]),
    )
    return [
        Table(
            f"statistics_{name}", f"{title}, {results.label}",
            pd.DataFrame(lines, columns=list(columns)), notes, is_long=name == "pairs",
        )
        for name, title, columns, lines, notes in found
        if lines
    ]  # fmt: skip


def _is_compared(row: str) -> bool:
    kind = paper.kind(row)
    return kind in {**paper.MODELS, **paper.ABLATION} and kind not in paper.PARTS


def _too_few(values: pd.DataFrame) -> str:
    count = plural(len(values), "common subject")
    return f"no test: {count}, at least {MIN_SUBJECTS} are needed"


def _test_pairs(values: pd.DataFrame) -> list[Line]:
    """Test all pairs of models, corrected for their number."""
    pairs = list(combinations(values, 2))
    tests = [paired_tests(values[a].to_numpy(), values[b].to_numpy()) for a, b in pairs]
    corrected = multipletests([test["p"] for test in tests], method="bonferroni")[1]
    return [
        {**dict(zip(PAIR, pair, strict=True)), **test, "p, Bonferroni": p}
        for pair, test, p in zip(pairs, tests, corrected, strict=True)
    ]


def _test_distillation(results: Results) -> list[Line]:
    """Test students with distillation against those without, one sensor set at a time."""
    lines: list[Line] = []
    for sensor_set in results.imus:
        pair = [f"student-{sensor_set}", f"distilled-{sensor_set}"]
        if set(pair) <= set(results.metrics["row"]):
            values = common_nrmse(results, pair)
            line: Line = {"sensors": sensor_set, "subjects": len(values)}
            if len(values) < MIN_SUBJECTS:
                lines.append({**line, "differ (t)": _too_few(values)})
            else:
                tests = paired_tests(*values.to_numpy().T)
                lines.append({**line, **tests, "differ (t)": _verdict(tests["p"])})
    return lines
