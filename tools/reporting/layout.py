"""The paper's tables: their rows in its order, and its figures.

Source of the rows and figures: Hossain, Hadley, Guo and Choi, "Lightweight and Efficient Kinetics
Estimation with Sparse IMUs via Multi-Modal Sensor Distillation", IEEE Sensors Journal, Tables I-IV.
Only the figures that are known stand here; they are never shown in a column of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SUBJECTS = {"A": 20, "B": 17}  # of the paper's datasets

SPARSE_SETS = {  # sensor set: number of IMUs
    "A": {"foot": 1, "foot_trunk": 2, "foot_shank_trunk": 3, "all_imus": 4},
    "B": {
        "feet": 2,
        "feet_pelvis": 3,
        "feet_pelvis_shanks": 5,
        "feet_pelvis_shanks_thighs": 7,
        "all_imus": 8,
    },
}
FULL_SET = {"A": "all_imus_emg", "B": "all_imus_video"}

MODELS = {  # first part of a row's name: name in the tables
    "ffn_hf": "FFN (HF)",
    "ffn": "FFN",
    "bilstm": "Bi-LSTM, both directions",
    "lstm": "LSTM, one direction",
    "conv2d": "2D convolution",
    "lmfn": "LMFN",
    "tfn": "TFN",
    "dlr": "Kinetics-FM-DLR-Net",
    "dlr_rmse": "its RMSE network",
    "dlr_correlation": "its correlation network",
    "dl": "DL-Kinetics-FM-Net",
    "teacher": "Kinetics-MFFM-Net (T)",
    "student": "Kinetics-MFFM-Net (S)",
    "distilled": "Kinetics-MFFM-Net (S) + SD",
}
ABLATION = {
    "early_lstm": "Early fusion (Bi-LSTM)",
    "early_gru": "Early fusion (Bi-GRU)",
    "concat_lstm": "Feature concat (Bi-LSTM)",
    "concat_gru": "Feature concat (Bi-GRU)",
    "mffm_lstm": "MFFM (Bi-LSTM)",
    "mffm_gru": "MFFM (Bi-GRU)",
    "mffm_gated": "Kinetics-MFFM-Net (T)",
}
MORE_ABLATION = {  # every other subset of the branches, not in the paper's table
    "mwfs_lstm": "MWFS",
    "mwff_lstm": "MWFF",
    "maf_lstm": "MAF",
    "maf_mwff_lstm": "MAF + MWFF",
    "maf_mwff_gate_lstm": "MAF + MWFF, gate",
    "maf_mwfs_lstm": "MAF + MWFS",
    "maf_mwfs_gate_lstm": "MAF + MWFS, gate",
    "mwff_mwfs_lstm": "MWFF + MWFS",
    "mwff_mwfs_gate_lstm": "MWFF + MWFS, gate",
    "maf_mwff_mwfs_lstm": "MAF + MWFF + MWFS",
}
PARTS = {"dlr_rmse", "dlr_correlation"}  # of another row; the second one's scale is arbitrary

PAPER_NRMSE = {  # NRMSE in %; mean over targets, mean ± SD over subjects where it is known
    "A": {
        "early_lstm": "4.63 ± 0.75",
        "early_gru": "4.65 ± 0.83",
        "concat_lstm": "4.80 ± 0.82",
        "concat_gru": "4.72 ± 0.70",
        "mffm_lstm": "4.25 ± 0.71",
        "mffm_gru": "4.19 ± 0.76",
        "mffm_gated": "4.16 ± 0.77",
        "ffn_hf-all_imus_emg": "6.04",
        "ffn-all_imus_emg": "5.56",
        "lstm-all_imus_emg": "4.93",
        "lmfn-all_imus_emg": "4.89",
        "tfn-all_imus_emg": "4.69",
        "teacher": "4.16 ± 0.77",
        "dl-foot_trunk": "5.06",
        "distilled-foot_trunk": "4.91",
        "student-foot_shank_trunk": "4.98",
        "dlr-all_imus": "4.91",
        "distilled-all_imus": "4.75",
    },
    "B": {
        "early_lstm": "4.12 ± 0.47",
        "early_gru": "4.07 ± 0.45",
        "concat_lstm": "3.95 ± 0.42",
        "concat_gru": "4.00 ± 0.45",
        "mffm_lstm": "3.67 ± 0.41",
        "mffm_gru": "3.68 ± 0.48",
        "mffm_gated": "3.61 ± 0.47",
        "ffn_hf-all_imus_video": "5.43",
        "ffn-all_imus_video": "4.32",
        "lstm-all_imus_video": "4.21",
        "lmfn-all_imus_video": "4.55",
        "tfn-all_imus_video": "4.05",
        "teacher": "3.61 ± 0.47",
        "dl-feet_pelvis": "4.40",
        "distilled-feet_pelvis": "4.38",
        "dl-all_imus": "3.95",
        "distilled-all_imus": "3.90",
    },
}
LSTM_NOTE = (
    "The paper calls its row Bi-LSTM; its parameter count is that of one direction, our row `lstm`."
)


class Place(NamedTuple):
    """Where a row stands: the table's number and title, and the group it is tested within."""

    number: str
    title: str
    group: str


def kind(row: str) -> str:
    """Return the model's part of a row's name."""
    return row.split("-")[0]


def label(row: str) -> str:
    """Return the paper's name of a row's model; an unknown row keeps its own."""
    return {**MODELS, **ABLATION, **MORE_ABLATION}.get(kind(row), kind(row))


def place(dataset: str, script: str, row: str, sensor_set: str) -> Place:
    """Return the table that a row of a script belongs to."""
    sensors = {"A": "IMUs and EMG", "B": "IMUs and video"}[dataset]
    if script.endswith("model_ablation"):
        if sensor_set != FULL_SET[dataset]:
            return Place("I, IMUs only", "Ablation, IMUs only", sensor_set)
        return Place("I", f"Ablation, {sensors}", sensor_set)
    if sensor_set == FULL_SET[dataset]:
        return Place("II", f"All modalities, {sensors}", sensor_set)
    return Place({"A": "III", "B": "IV"}[dataset], "Sparse IMUs", sensor_set)


def in_order(dataset: str, rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort `(row, sensor set)` as the paper does; what it does not know goes to the end."""
    sets = [*SPARSE_SETS[dataset], FULL_SET[dataset]]
    kinds = [*ABLATION, *MORE_ABLATION, *MODELS]

    def position(line: tuple[str, str]) -> tuple[bool, int, int]:
        row, sensor_set = line
        is_unknown = kind(row) not in kinds or sensor_set not in sets
        return (
            is_unknown,
            sets.index(sensor_set) if sensor_set in sets else len(sets),
            kinds.index(kind(row)) if kind(row) in kinds else len(kinds),
        )

    return sorted(rows, key=position)


def expected_rows(dataset: str, number: str) -> list[str]:
    """Return the rows of the paper's table, as the scripts name them."""
    if number == "I":
        return list(ABLATION)
    if number == "II":
        models = ("ffn_hf", "ffn", "lstm", "lmfn", "tfn")
        return [*(f"{model}-{FULL_SET[dataset]}" for model in models), "teacher"]
    if number in ("III", "IV"):
        models = ("ffn_hf", "ffn", "lstm", "conv2d", "lmfn", "tfn", "dlr", "dl", "student")
        models += ("distilled",)
        return [f"{model}-{name}" for name in SPARSE_SETS[dataset] for model in models]
    return []
