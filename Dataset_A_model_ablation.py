"""Ablation of Kinetics-MFFM-Net on Dataset A (Camargo et al. 2021): IMUs and EMG at 200 Hz.

Estimates four joint moments and the ground reaction force of the right leg from windows of 0.5 s.
Rows of the table (the paper's Table I): early fusion, plain concatenation and MFFM, each with
BiLSTM and BiGRU encoders, and the full network with gated dual encoders. Then, with BiLSTM
encoders, every other subset of MFFM's branches (`maf`, `mwff`, `mwfs`), pairs with and without its
gate, and all three without. All with all sensors.

Models: AblationNet, of RecurrentEncoder, GatedDualEncoder and MFFM.
Time and memory of a fold: see the README.
Writes outputs/Dataset_A_model_ablation/<run>/: config.json, history.csv, metrics.csv,
predictions/, checkpoints/, figures/.

    python Dataset_A_model_ablation.py
    python Dataset_A_model_ablation.py --data data/dataset_a.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import flags, plots, study
from common.data import read_dataset_a
from common.experiments import Experiment, Sample, SensorSet, Study, Target
from common.hdf5 import Columns
from common.training import Batch, Loss

# What the paper fixes --------------------------------------------------------------------------

RATE_HZ = 200
WINDOW = 100  # samples, 0.5 s
EPOCHS = 40
LEARNING_RATE = 1e-3

SENSORS = ("foot", "shank", "thigh", "trunk")  # of the right side, in the order of the columns
MUSCLES = (
    *("gastrocmed", "tibialisanterior", "soleus", "vastusmedialis", "vastuslateralis"),
    *("rectusfemoris", "bicepsfemoris", "semitendinosus", "gracilis", "gluteusmedius"),
    "rightexternaloblique",
)
SENSOR_SETS = {
    "foot": SensorSet(("foot",)),
    "foot_trunk": SensorSet(("foot", "trunk")),
    "foot_shank_trunk": SensorSet(("foot", "shank", "trunk")),
    "all_imus": SensorSet(SENSORS),
    "all_imus_emg": SensorSet(SENSORS, ("acc", "gyr", "emg")),
}
TARGETS = {  # column: name and unit; moments over body weight x height, forces over body weight
    "hip_flexion_r_moment": Target("hip flexion moment", "BW·BH"),
    "hip_adduction_r_moment": Target("hip adduction moment", "BW·BH"),
    "knee_angle_r_moment": Target("knee moment", "BW·BH"),
    "ankle_angle_r_moment": Target("ankle moment", "BW·BH"),
    "right_vx": Target("GRF x", "BW"),
    "right_vy": Target("GRF y", "BW"),  # vertical
    "right_vz": Target("GRF z", "BW"),
}


def prepare(columns: Columns) -> dict[str, np.ndarray]:
    """Pick the modalities, `(rows, C)`: acc in m/s², gyr in rad/s, processed EMG; and targets."""
    return {
        "acc": columns[[f"{s}_Accel_{axis}" for s in SENSORS for axis in "XYZ"]],
        "gyr": columns[[f"{s}_Gyro_{axis}" for s in SENSORS for axis in "XYZ"]],
        "emg": columns[list(MUSCLES)],
        "targets": columns[list(TARGETS)],
    }


def inputs(batch: Batch, sensor_set: SensorSet) -> list[Tensor]:
    """Pick what a model of `sensor_set` sees: one `(B, T, C)` per modality, three axes per IMU."""
    imus = [SENSORS.index(sensor) for sensor in sensor_set.sensors]
    return [
        torch.cat([batch[modality][..., 3 * i : 3 * i + 3] for i in imus], dim=-1)
        if modality in ("acc", "gyr")
        else batch[modality]
        for modality in sensor_set.modalities
    ]


# Models ----------------------------------------------------------------------------------------


class RecurrentEncoder(nn.Module):
    """Encode one modality by a BiLSTM or a BiGRU.

    Source: Kinetics-MFFM-Net, ablation (Table I): one half of the gated dual encoder.

    Needs: nothing.

    Args:
        channels: Of the modality. kind: `lstm` or `gru`.
        hidden_sizes: Units per direction of the first and the second recurrent layer.
        dropout: After each recurrent layer.

    Shape:
        `(B, T, channels)` to `(B, T, 2 * hidden_sizes[1])`.

    Example:
        >>> RecurrentEncoder(12, "gru")(torch.zeros(2, 100, 12)).shape
        torch.Size([2, 100, 128])
    """

    def __init__(
        self,
        channels: int,
        kind: str,
        *,
        hidden_sizes: tuple[int, int] = (128, 64),
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        first, second = hidden_sizes
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.layers = nn.ModuleList(
            layer(size, hidden, batch_first=True, bidirectional=True)
            for size, hidden in ((channels, first), (2 * first, second))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, C)` as `(B, T, 2 * hidden_sizes[1])`."""
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return x


class GatedDualEncoder(nn.Module):
    """Encode one modality by a BiLSTM and a BiGRU, mixed feature by feature by a learned gate.

    Source: Kinetics-MFFM-Net, GDEN. With `g = sigmoid(Linear([lstm; gru]))` the output is
    `g * lstm + (1 - g) * gru`.

    Needs: nothing.

    Args:
        channels: Of the modality.
        hidden_sizes: Units per direction of the first and the second recurrent layer.
        dropout: After each recurrent layer.

    Shape:
        `(B, T, channels)` to `(B, T, 2 * hidden_sizes[1])`.

    Example:
        >>> GatedDualEncoder(12)(torch.zeros(2, 100, 12)).shape
        torch.Size([2, 100, 128])
    """

    def __init__(
        self, channels: int, hidden_sizes: tuple[int, int] = (128, 64), dropout: float = 0.25
    ) -> None:
        super().__init__()
        first, second = hidden_sizes
        self.lstm = nn.ModuleList(
            nn.LSTM(size, hidden, batch_first=True, bidirectional=True)
            for size, hidden in ((channels, first), (2 * first, second))
        )
        self.gru = nn.ModuleList(
            nn.GRU(size, hidden, batch_first=True, bidirectional=True)
            for size, hidden in ((channels, first), (2 * first, second))
        )
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(4 * second, 2 * second)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, C)` as `(B, T, 2 * hidden_sizes[1])`."""
        lstm = gru = x
        for lstm_layer, gru_layer in zip(self.lstm, self.gru, strict=True):
            lstm = self.dropout(lstm_layer(lstm)[0])
            gru = self.dropout(gru_layer(gru)[0])
        gate = torch.sigmoid(self.gate(torch.cat([lstm, gru], dim=-1)))
        return gate * lstm + (1 - gate) * gru


class MFFM(nn.Module):
    """Fuse the features of several modalities at each time step, and gate the result.

    Source: Kinetics-MFFM-Net, multi-modal feature fusion module: self-attention over time (MAF),
    weighted features (MWFF), a weighted sum of the modalities (MWFS) and the gate (MMF).
    Attention is plain: no mask, residual, norm or position code. MWFS scores every modality by
    one shared Linear.

    Needs: nothing.

    Args:
        modalities: Their number, M. size: Features of each. heads: Of the attention.
        branches: Those that there are; the ablation leaves some out. gated: Whether MMF is there.

    Shape:
        `(B, T, M * size)`, the modalities one after another, to `(B, T, out_size)`: M * size for
        MAF, as many for MWFF, and size for MWFS.

    Example:
        >>> MFFM(modalities=2, size=128)(torch.zeros(3, 50, 256)).shape
        torch.Size([3, 50, 640])
    """

    def __init__(
        self,
        modalities: int,
        size: int,
        *,
        heads: int = 4,
        branches: tuple[str, ...] = ("maf", "mwff", "mwfs"),
        gated: bool = True,
    ) -> None:
        super().__init__()
        width = modalities * size
        sizes = {"maf": width, "mwff": width, "mwfs": size}
        self.out_size = sum(sizes[branch] for branch in branches)
        self.modalities, self.branches, self.gated = modalities, branches, gated
        if "maf" in branches:
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        if "mwff" in branches:
            self.feature_weights = nn.Linear(width, width)
        if "mwfs" in branches:
            self.modality_weight = nn.Linear(size, 1)
        if gated:
            self.gate = nn.Linear(self.out_size, self.out_size)

    def forward(self, x: Tensor) -> Tensor:
        """Fuse `(B, T, M * size)` into `(B, T, out_size)`."""
        fused = []
        if "maf" in self.branches:
            fused.append(self.attention(x, x, x, need_weights=False)[0])
        if "mwff" in self.branches:
            fused.append(torch.sigmoid(self.feature_weights(x)) * x)
        if "mwfs" in self.branches:
            blocks = x.unflatten(-1, (self.modalities, -1))  # (B, T, M, size)
            fused.append((torch.sigmoid(self.modality_weight(blocks)) * blocks).sum(dim=-2))
        z = torch.cat(fused, dim=-1)
        return torch.sigmoid(self.gate(z)) * z if self.gated else z


class AblationNet(nn.Module):
    """Estimate the targets by Kinetics-MFFM-Net or by what is left of it without some blocks.

    Source: Kinetics-MFFM-Net, ablation (Table I). With every block it is the network of the
    sensor-distillation scripts, short of the projection that serves distillation. The published
    rows differ in dropout and epochs as well; here a row differs in its blocks only.

    Needs: RecurrentEncoder, GatedDualEncoder, MFFM

    Args:
        channels: Of each modality. targets: K.
        encoder: `lstm`, `gru` or `gated`, which is both.
        early_fusion: Whether all channels go into one encoder, rather than each modality into its
            own.
        branches: Those of MFFM, any of `maf`, `mwff`, `mwfs`; none for plain concatenation.
        gated: Whether MFFM has its gate.
        hidden_sizes: Units per direction of the encoders' recurrent layers.
        dropout: After each recurrent layer. heads: Of the attention.

    Shape:
        One `(B, T, C)` per modality to `(B, T, K)`.

    Example:
        >>> model = AblationNet((12, 12), targets=7, encoder="lstm", branches=("maf",))
        >>> acc, gyr = torch.zeros(2, 100, 12), torch.zeros(2, 100, 12)
        >>> model(acc, gyr).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        targets: int,
        *,
        encoder: str = "gated",
        early_fusion: bool = False,
        branches: tuple[str, ...] = ("maf", "mwff", "mwfs"),
        gated: bool = True,
        hidden_sizes: tuple[int, int] = (128, 64),
        dropout: float = 0.25,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.early_fusion = early_fusion
        groups = (sum(channels),) if early_fusion else channels
        size = 2 * hidden_sizes[1]
        self.norms = nn.ModuleList(nn.BatchNorm1d(count, affine=False) for count in groups)
        self.encoders = nn.ModuleList(
            GatedDualEncoder(count, hidden_sizes, dropout)
            if encoder == "gated"
            else RecurrentEncoder(count, encoder, hidden_sizes=hidden_sizes, dropout=dropout)
            for count in groups
        )
        if branches:
            self.fusion = MFFM(len(groups), size, heads=heads, branches=branches, gated=gated)
            self.head = nn.Linear(self.fusion.out_size, targets)
        else:
            self.fusion = nn.Identity()
            self.head = nn.Linear(len(groups) * size, targets)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        groups = (torch.cat(modalities, dim=-1),) if self.early_fusion else modalities
        encoded = [
            encoder(norm(x.transpose(1, 2)).transpose(1, 2))  # BatchNorm1d takes (B, C, T)
            for x, norm, encoder in zip(groups, self.norms, self.encoders, strict=True)
        ]
        return self.head(self.fusion(torch.cat(encoded, dim=-1)))


# Losses ----------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error over batch, time and targets; its gradient at 0 is 0."""
    error = prediction - target
    norm = torch.linalg.vector_norm(error, dtype=torch.float64)  # of millions of values, too
    return norm / math.sqrt(error.numel())


def supervised_loss(sensor_set: str) -> Loss:
    """RMSE between the prediction from a sensor set and the measured targets."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return rmse(model(*inputs(batch, SENSOR_SETS[sensor_set])), batch["targets"])

    return loss


# Rows of the table -----------------------------------------------------------------------------

FULL_SET = "all_imus_emg"
EARLY = {"early_fusion": True, "branches": ()}
CONCAT = {"branches": ()}
TABLE_I = {  # the paper's rows, in its order
    "early_lstm": {"encoder": "lstm", **EARLY},
    "early_gru": {"encoder": "gru", **EARLY},
    "concat_lstm": {"encoder": "lstm", **CONCAT},
    "concat_gru": {"encoder": "gru", **CONCAT},
    "mffm_lstm": {"encoder": "lstm"},
    "mffm_gru": {"encoder": "gru"},
    "mffm_gated": {},  # the full Kinetics-MFFM-Net
}
SUBSETS = {  # further branches of MFFM, and its gate
    "mwfs": {"branches": ("mwfs",), "gated": False},
    "mwff": {"branches": ("mwff",), "gated": False},
    "maf": {"branches": ("maf",), "gated": False},
    "maf_mwff": {"branches": ("maf", "mwff"), "gated": False},
    "maf_mwff_gate": {"branches": ("maf", "mwff")},
    "maf_mwfs": {"branches": ("maf", "mwfs"), "gated": False},
    "maf_mwfs_gate": {"branches": ("maf", "mwfs")},
    "mwff_mwfs": {"branches": ("mwff", "mwfs"), "gated": False},
    "mwff_mwfs_gate": {"branches": ("mwff", "mwfs")},
    "maf_mwff_mwfs": {"gated": False},
}
NETWORKS = {
    **TABLE_I,
    **{f"{name}_lstm": {"encoder": "lstm", **blocks} for name, blocks in SUBSETS.items()},
}


def network(name: str, sensor_set: str) -> partial[AblationNet]:
    """Return the network of a row, to be built."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    sizes = tuple(channels[modality] for modality in modalities)
    return partial(AblationNet, sizes, len(TARGETS), **NETWORKS[name])


def ablation_row(name: str) -> Experiment:
    """Return the row of a network, with all sensors."""
    return Experiment(
        name,
        FULL_SET,
        model=network(name, FULL_SET),
        loss=lambda options: supervised_loss(FULL_SET),
    )


EXPERIMENTS = [ablation_row(name) for name in NETWORKS]

STUDY = Study(
    script=Path(__file__),
    dataset="a",
    read=partial(read_dataset_a, prepare=prepare),
    window=WINDOW,
    rate_hz=RATE_HZ,
    epochs=EPOCHS,
    sensor_sets=SENSOR_SETS,
    targets=list(TARGETS.values()),
    inputs=inputs,
    criterion=rmse,
    experiments=EXPERIMENTS,
    figures=plots.ablation_figures,
    sample=Sample(subjects=6, minutes=0.35, epochs=8, rows=tuple(TABLE_I)),
)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Run the rows on the folds that `argv` asks for; return the metrics in long form."""
    parser = flags.parser(
        __doc__,
        dataset="a",
        rows=[experiment.row for experiment in EXPERIMENTS],
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
    )
    return study.run(STUDY, parser.parse_args(argv))


if __name__ == "__main__":
    study.start(main)
