"""The paper's tables: their rows in the paper's order, and its published values.

Source: Hossain, Hadley, Guo and Choi, "Lightweight and Efficient Kinetics Estimation with Sparse
IMUs via Multi-Modal Sensor Distillation", IEEE Sensors Journal, Tables I-IV. Only values known to
us are listed; a report shows them in a column of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SUBJECTS = {"A": 20, "B": 17}  # of the paper's datasets

SPARSE_SETS = {  # number of IMUs in each sensor set
    "A": {"foot": 1, "foot_trunk": 2, "foot_shank_trunk": 3, "all_imus": 4},
    "B": {
        **{"feet": 2, "feet_pelvis": 3, "feet_pelvis_shanks": 5},
        **{"feet_pelvis_shanks_thighs": 7, "all_imus": 8},
    },
}
FULL_SET = {"A": "all_imus_emg", "B": "all_imus_video"}

SCRIPTS = {  # in lower case
    f"dataset_{letter}_{family}"
    for letter in "ab"
    for family in (
        *("ffn_hf_ffn_bilstm_convnet", "lmfn_tfn_fusion_models", "kinetics_fm_models"),
        *("sensor_distillation", "model_ablation"),
    )
}

MODELS = {  # names in the tables, by the first part of a row's name
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
MORE_ABLATION = {  # the other subsets of branches, which are not in the paper
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
OURS = ("teacher", "mffm_gated", "distilled")  # kinds of rows of the paper's own network
PARTS = {"dlr_rmse", "dlr_correlation"}  # networks of another row; the latter has no fixed scale

NRMSE_PERCENT = {  # mean over targets; mean ± SD over subjects where the SD is known
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
    "The paper labels this row Bi-LSTM; its parameter count is that of a unidirectional LSTM, our "
    "row `lstm`."
)
DISTILLATION_NOTE = (
    "The published script for Dataset B weights the teacher's output and feature by 0.1 and 5.0; "
    "the paper's text, and this project by default, by 0.5 and 1.0."
)


class PaperTable(NamedTuple):
    """Number and title of one of the paper's tables, or of an extension of it."""

    number: str
    title: str

    @property
    def stem(self) -> str:
        """Start of the names of the table's files."""
        return f"table_{self.number.replace(', ', '_').replace(' ', '_')}"


def kind(row: str) -> str:
    """Return the part of a row's name that denotes the model: `lmfn` for `lmfn-foot`.

    A row that is marked with its script is of another kind: `lmfn (my_script)`.
    """
    return re.sub(r"-\S*", "", row)


def label(row: str) -> str:
    """Return the paper's name of a row's model, or the kind of the row if the paper has none."""
    return {**MODELS, **ABLATION, **MORE_ABLATION}.get(kind(row), kind(row))


def table(dataset: str, script: str, sensor_set: str) -> PaperTable:
    """Return the table of a script's rows of a sensor set; other datasets have one for all rows."""
    if dataset not in SUBJECTS:
        return PaperTable("1", "All rows")
    sensors = {"A": "IMUs and EMG", "B": "IMUs and video"}[dataset]
    is_full = sensor_set == FULL_SET[dataset]
    if script.endswith("model_ablation"):
        full = PaperTable("I", f"Ablation, {sensors}")
        return full if is_full else PaperTable("I, IMUs only", "Ablation, IMUs only")
    if is_full:
        return PaperTable("II", f"All modalities, {sensors}")
    return PaperTable({"A": "III", "B": "IV"}[dataset], "Sparse IMUs")


def sort_rows(sets: Sequence[str], rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort pairs of row and sensor set by set and the paper's models; unknown ones come last."""
    orders = sets, [*ABLATION, *MORE_ABLATION, *MODELS]

    def position(pair: tuple[str, str]) -> tuple[bool, list[int]]:
        names = pair[1], kind(pair[0])
        known = [name in order for name, order in zip(names, orders, strict=True)]
        ranks = [
            order.index(name) if name in order else len(order)
            for name, order in zip(names, orders, strict=True)
        ]
        return not all(known), ranks

    return sorted(rows, key=position)
