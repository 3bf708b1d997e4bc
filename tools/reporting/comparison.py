"""The tables of the statistics: ANOVA between models, pairs of models, distilled against naive."""

from __future__ import annotations

import pandas as pd

from tools.reporting import layout, statistics
from tools.reporting.collect import Results
from tools.reporting.statistics import ALPHA, LEAST_SUBJECTS
from tools.reporting.summary import common_subjects, places, subject_means
from tools.reporting.text import Cell, Number, Table, p_value

OURS = {"teacher", "mffm_gated", "distilled"}  # the paper's own network
PAIRED_HEADER = ("difference", "SD", "95 % CI low", "95 % CI high", "t", "p")


def tables(results: Results) -> list[Table]:
    """Return the tables of the statistics, on NRMSE in %, mean over targets per subject."""
    anova, pairs = _between_models(results)
    shown = [
        line for line in pairs.body if {layout.kind(str(line[1])), layout.kind(str(line[2]))} & OURS
    ]
    ours = Table(
        "statistics_kinetics_mffm_net",
        "Kinetics-MFFM-Net against other models, paired t-tests after Bonferroni",
        pairs.header,
        shown,
        [*pairs.notes, f"All {len(pairs.body)} pairs are in {pairs.stem}.csv."],
    )
    mark = ", SYNTHETIC DATA" if results.is_synthetic else ""
    found = [anova, ours, pairs, _distillation(results)]
    for table in found:
        table.title += f", Dataset {results.dataset}{mark}"
    return [table for table in found if table.body]


def _tested_values(results: Results, rows: list[str]) -> pd.DataFrame:
    """Return `(common subjects, rows)`, NRMSE in %."""
    lines = results.lines[results.lines["row"].isin(rows)]
    return subject_means(lines, "nrmse_percent").loc[rows, common_subjects(lines)].T


def _between_models(results: Results) -> tuple[Table, Table]:
    anova = Table(
        "statistics_anova",
        "Repeated-measures ANOVA between models",
        ("table", "sensors", "models", "subjects", "F", "df", "p", "Mauchly's W", "Mauchly's p",
         "Greenhouse-Geisser ε", "corrected p", "models differ"),
        [],
        [
            "NRMSE, mean over targets, on the subjects that the models have in common. Where "
            f"Mauchly's test rejects sphericity (p < {ALPHA}) or there are too few subjects for "
            "it, the p corrected after Greenhouse and Geisser decides. Left out: parts of "
            "Kinetics-FM-DLR-Net, and ablations that are not in the paper.",
        ],
    )  # fmt: skip
    pairs = Table(
        "statistics_pairs",
        "Pairs of models, paired t-tests after Bonferroni",
        ("table", "first", "second", "subjects", *PAIRED_HEADER, "p, Bonferroni", "dz"),
        [],
        [
            "Difference: NRMSE % of the second less the first. Corrected for all pairs of models "
            "of a table and sensor set. The intervals are not corrected.",
        ],
        is_long=True,
    )
    for place, all_rows in places(results).items():
        rows = [row for row in all_rows if _is_tested(row)]
        if len(rows) < 2:
            continue
        values = _tested_values(results, rows)
        start: list[Cell] = [place.number, place.group, len(rows), len(values)]
        if len(values) < LEAST_SUBJECTS:
            anova.body.append([*start, *[None] * 7, _too_few(len(values))])
            continue
        anova.body.append([*start, *_anova_cells(statistics.anova(values))])
        for first, second, test, p in statistics.post_hoc(values):
            cells = [place.number, first, second, test.subjects, *_paired_cells(test)]
            pairs.body.append([*cells, p_value(p), Number(test.dz, 2)])
    return anova, pairs


def _is_tested(row: str) -> bool:
    kind = layout.kind(row)
    return kind in {**layout.MODELS, **layout.ABLATION} and kind not in layout.PARTS


def _too_few(subjects: int) -> str:
    return f"no test: {subjects} common subjects, at least {LEAST_SUBJECTS} are needed"


def _anova_cells(test: statistics.Anova) -> list[Cell]:
    decides = test.p_corrected if test.is_corrected else test.p
    verdict = "yes" if decides < ALPHA else "not shown"
    w, p, epsilon = test.sphericity
    return [
        Number(test.f, 2),
        f"{test.df_models:.0f}, {test.df_error:.0f}",
        p_value(test.p),
        Number(w, 3),
        p_value(p),
        Number(epsilon, 3),
        p_value(test.p_corrected),
        verdict + (", corrected" if test.is_corrected else ""),
    ]


def _paired_cells(test: statistics.Paired) -> list[Cell]:
    numbers = (test.difference, test.sd, test.low, test.high, test.t)
    return [*(Number(value, 2) for value in numbers), p_value(test.p)]


def _distillation(results: Results) -> Table:
    table = Table(
        "statistics_distillation",
        "Distilled against naive students, paired",
        ("sensors", "subjects", *PAIRED_HEADER, "dz", "p, Wilcoxon", "differ (t)"),
        [],
        [
            "Difference: NRMSE % of the distilled student less the naive one's, below 0 where "
            "distillation helps. Two-sided; dz: Cohen's, mean over SD of the differences. The p of "
            "several sensor sets are not corrected for their number.",
        ],
    )
    rows = set(results.lines["row"])
    for sensors in layout.SPARSE_SETS[results.dataset]:
        pair = [f"student-{sensors}", f"distilled-{sensors}"]
        if not rows.issuperset(pair):
            continue
        values = _tested_values(results, pair)
        if len(values) < LEAST_SUBJECTS:
            table.body.append([sensors, len(values), *[None] * 8, _too_few(len(values))])
            continue
        test = statistics.paired(*values.to_numpy().T)
        verdict = "yes" if test.p < ALPHA else "not shown"
        table.body.append(
            [sensors, test.subjects, *_paired_cells(test), Number(test.dz, 2),
             p_value(test.wilcoxon_p), verdict]
        )  # fmt: skip
    return table
