"""The paper's tests: repeated-measures ANOVA, Bonferroni post-hoc, paired t-test, Wilcoxon.

statsmodels' ANOVA neither tests nor corrects for sphericity; Mauchly's test and the
Greenhouse-Geisser epsilon are computed here from the same covariance.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import linalg, stats
from statsmodels.stats.anova import AnovaRM

ALPHA = 0.05
LEAST_SUBJECTS = 3


class Sphericity(NamedTuple):
    """Mauchly's W and its p, Greenhouse-Geisser epsilon.

    W and p are NaN where the covariance is singular: too few subjects, or two equal models.
    """

    w: float
    p: float
    epsilon: float


class Anova(NamedTuple):
    """F with its degrees of freedom; `p_corrected` is p after Greenhouse and Geisser."""

    f: float
    df_models: float
    df_error: float
    p: float
    sphericity: Sphericity
    p_corrected: float

    @property
    def is_corrected(self) -> bool:
        """Whether the corrected p counts: sphericity fails, or cannot be tested."""
        return not self.sphericity.p >= ALPHA


class Paired(NamedTuple):
    """Tests of differences `b - a` over the same subjects, two-sided.

    `low` and `high` bound the 95 % confidence interval of the mean difference; `dz` is Cohen's,
    mean over SD of the differences. What differences without spread leave undefined is NaN.
    """

    subjects: int
    difference: float
    sd: float
    low: float
    high: float
    t: float
    p: float
    dz: float
    wilcoxon_p: float


def sphericity(values: np.ndarray) -> Sphericity:
    """Test sphericity, and return the factor that corrects the degrees of freedom.

    Args:
        values: `(subjects, models)`.

    Source: Mauchly 1940 (doi 10.1214/aoms/1177731915); Greenhouse and Geisser 1959
    (doi 10.1007/BF02289823).
    """
    subjects, models = values.shape
    p = models - 1
    if p == 1:
        return Sphericity(1.0, 1.0, 1.0)  # one difference: nothing to be unequal
    contrasts = linalg.helmert(models)  # orthonormal, (models - 1, models)
    covariance = contrasts @ np.cov(values, rowvar=False) @ contrasts.T
    trace = np.trace(covariance)
    epsilon = trace**2 / (p * np.sum(covariance**2))
    if np.linalg.matrix_rank(covariance) < p:
        return Sphericity(math.nan, math.nan, epsilon)
    w = np.linalg.det(covariance) / (trace / p) ** p
    return Sphericity(w, _mauchly_p(w, p, subjects - 1), epsilon)


def _mauchly_p(w: float, p: int, df: int) -> float:
    """Return the p value of W for `p` contrasts, from the expansion in chi-squared distributions.

    Source: Anderson, "An Introduction to Multivariate Statistical Analysis", section 10.7.4; its
    second term counts with few subjects.
    """
    scaled = df - (2 * p**2 + p + 2) / (6 * p)
    second = (p + 2) * (p - 1) * (p - 2) * (2 * p**3 + 6 * p**2 + 3 * p + 2)
    second /= 288 * (p * scaled) ** 2
    degrees = p * (p + 1) / 2 - 1
    first, further = stats.chi2.sf(-scaled * np.log(w), [degrees, degrees + 4])
    return first + second * (further - first)


def anova(values: pd.DataFrame) -> Anova:
    """Test whether models differ, by a repeated-measures ANOVA.

    Args:
        values: A line per subject, a column per model; at least two of each, none missing.

    Returns:
        F and all that follows is NaN where models differ by a constant only.
    """
    residuals = values.sub(values.mean(axis=1), axis=0) - values.mean()
    if _is_rounding(residuals.to_numpy(), values.to_numpy()):
        subjects, models = values.shape
        df = models - 1, (models - 1) * (subjects - 1)
        return Anova(math.nan, *df, math.nan, Sphericity(*[math.nan] * 3), math.nan)
    long = values.rename_axis(index="subject", columns=None).reset_index()
    long = long.melt("subject", var_name="model")
    table = AnovaRM(long, "value", "subject", within=["model"]).fit().anova_table
    f, df_models, df_error, p = table.loc["model", ["F Value", "Num DF", "Den DF", "Pr > F"]]
    found = sphericity(values.to_numpy())
    corrected = stats.f.sf(f, found.epsilon * df_models, found.epsilon * df_error)
    return Anova(f, df_models, df_error, p, found, corrected)


def _is_rounding(residuals: np.ndarray, values: np.ndarray) -> bool:
    """Whether what varies in the residuals is only the rounding of the values."""
    return np.ptp(residuals) <= 1e-12 * np.abs(values).max()


def paired(a: np.ndarray, b: np.ndarray) -> Paired:
    """Test the differences `b - a`; both `(subjects,)`, in the same order."""
    differences = b - a
    mean, sd = differences.mean(), differences.std(ddof=1)
    if _is_rounding(differences, a):
        return Paired(len(a), mean, sd, *[math.nan] * 6)
    test = stats.ttest_rel(b, a)
    low, high = test.confidence_interval(1 - ALPHA)
    wilcoxon = stats.wilcoxon(differences)
    return Paired(
        len(a), mean, sd, low, high, test.statistic, test.pvalue, mean / sd, wilcoxon.pvalue
    )


def post_hoc(values: pd.DataFrame) -> list[tuple[str, str, Paired, float]]:
    """Test all pairs of models; the last number is p after Bonferroni, over all pairs."""
    pairs = list(combinations(values.columns, 2))
    tests = [paired(values[a].to_numpy(), values[b].to_numpy()) for a, b in pairs]
    return [
        (a, b, test, float(np.minimum(1, test.p * len(pairs))))
        for (a, b), test in zip(pairs, tests, strict=True)
    ]
