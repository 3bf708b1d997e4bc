"""Sensor distillation on Dataset A (Camargo et al. 2021): IMUs and EMG of the right leg at 200 Hz.

Estimates four joint moments and the ground reaction force of the right leg from windows of 0.5 s.
Rows of the table: Kinetics-MFFM-Net with all sensors (the teacher) and, for each set of IMUs, the
same network with those IMUs alone (the student), trained without and with distillation.

Models: KineticsMFFMNet, of GatedDualEncoder and MFFM.
Time and memory of a fold: see the README.
Writes outputs/Dataset_A_Sensor_Distillation/<run>/: config.json, history.csv, metrics.csv,
predictions/, checkpoints/, figures/.

    python Dataset_A_Sensor_Distillation.py
    python Dataset_A_Sensor_Distillation.py --data data/dataset_a.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import flags, plots, study
from common.data import read_dataset_a
from common.experiments import Experiment, Sample, SensorSet, Study, Target
from common.hdf5 import Columns
from common.training import Batch, Loss, Maker

# What the paper fixes --------------------------------------------------------------------------

RATE_HZ = 200
WINDOW = 100  # samples, 0.5 s
EPOCHS = 40
LEARNING_RATE = 1e-3
ALPHA, BETA = 0.5, 1.0  # weights of the teacher's output and of its feature

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


class DistillationFeatures(NamedTuple):
    """Output `(B, T, K)` in the targets' units, and the distilled feature `(B, T, 128)`."""

    output: Tensor
    feature: Tensor


class KineticsMFFMNet(nn.Module):
    """Estimate joint moments and ground reaction forces at each time step of a window.

    Source: Kinetics-MFFM-Net. Each modality is normed over batch and time (no learned scale),
    encoded by a GatedDualEncoder, and all are fused by MFFM. The teacher gets every modality,
    a student the accelerometers and gyroscopes of a sensor set.
    For distillation the concatenated features are projected to 128; the prediction does not use
    that. The teacher's projection gets no gradient from its own loss, so that it stays the fixed
    random projection it was born as.

    Needs: GatedDualEncoder, MFFM, DistillationFeatures, typing.NamedTuple

    Args:
        channels: Of each modality. targets: K.
        hidden_sizes: Units per direction of the encoders' recurrent layers.
        dropout: After each recurrent layer. heads: Of the attention.
        projection: Whether to have the projection for distillation.

    Shape:
        One `(B, T, C)` per modality to `(B, T, K)`.

    Example:
        >>> student = KineticsMFFMNet(channels=(3, 3), targets=7)
        >>> acc, gyr = torch.zeros(2, 100, 3), torch.zeros(2, 100, 3)
        >>> student(acc, gyr).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        targets: int,
        *,
        hidden_sizes: tuple[int, int] = (128, 64),
        dropout: float = 0.25,
        heads: int = 4,
        projection: bool = False,
    ) -> None:
        super().__init__()
        size = 2 * hidden_sizes[1]
        width = len(channels) * size
        self.norms = nn.ModuleList(nn.BatchNorm1d(count, affine=False) for count in channels)
        self.encoders = nn.ModuleList(
            GatedDualEncoder(count, hidden_sizes, dropout) for count in channels
        )
        self.fusion = MFFM(len(channels), size, heads=heads)
        self.head = nn.Linear(self.fusion.out_size, targets)
        self.projection = nn.Linear(width, size) if projection else None

    def encode(self, *modalities: Tensor) -> Tensor:
        """Encode the modalities, `(B, T, C)` each, one after another: `(B, T, M * 128)`."""
        return torch.cat(
            [
                encoder(norm(x.transpose(1, 2)).transpose(1, 2))  # BatchNorm1d takes (B, C, T)
                for x, norm, encoder in zip(modalities, self.norms, self.encoders, strict=True)
            ],
            dim=-1,
        )

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        return self.head(self.fusion(self.encode(*modalities)))

    def features(self, *modalities: Tensor) -> DistillationFeatures:
        """Estimate, and project the encoded modalities for distillation."""
        encoded = self.encode(*modalities)
        return DistillationFeatures(self.head(self.fusion(encoded)), self.projection(encoded))


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


def teaching(teacher: nn.Module, teacher_set: str) -> Maker:
    """Return what makes the teacher's output and feature of windows.

    The teacher is frozen, in eval mode, and sees its full sensor set: what it makes of a window
    never changes, so that it is made once per fold.
    """
    teacher.eval().requires_grad_(False)

    def teach(batch: Batch) -> Batch:
        taught = teacher.features(*inputs(batch, SENSOR_SETS[teacher_set]))
        return {"taught_output": taught.output, "taught_feature": taught.feature}

    return teach


def distillation_loss(sensor_set: str, alpha: float, beta: float) -> Loss:
    """RMSE to the targets + alpha RMSE to the teacher's output + beta RMSE to its feature."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        student = model.features(*inputs(batch, SENSOR_SETS[sensor_set]))
        return (
            rmse(student.output, batch["targets"])
            + alpha * rmse(student.output, batch["taught_output"])
            + beta * rmse(student.feature, batch["taught_feature"])
        )

    return loss


# Rows of the table -----------------------------------------------------------------------------

TEACHER_SET = "all_imus_emg"
STUDENT_SETS = ("foot", "foot_trunk", "foot_shank_trunk", "all_imus")


def network(sensor_set: str, projection: bool) -> partial[KineticsMFFMNet]:
    """Return the network for a sensor set, to be built."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    return partial(
        KineticsMFFMNet,
        channels=tuple(channels[modality] for modality in modalities),
        targets=len(TARGETS),
        projection=projection,
    )


def teacher_row() -> Experiment:
    """Return the row of the teacher."""
    return Experiment(
        "teacher",
        TEACHER_SET,
        model=network(TEACHER_SET, projection=True),
        loss=lambda options: supervised_loss(TEACHER_SET),
    )


def student_rows(sensor_set: str) -> list[Experiment]:
    """Return the rows of a student, without and with distillation."""
    naive = Experiment(
        f"student-{sensor_set}",
        sensor_set,
        model=network(sensor_set, projection=False),
        loss=lambda options: supervised_loss(sensor_set),
    )
    distilled = Experiment(
        f"distilled-{sensor_set}",
        sensor_set,
        model=network(sensor_set, projection=True),
        loss=lambda options: distillation_loss(sensor_set, options.alpha, options.beta),
        teacher="teacher",
        teaching=lambda teacher: teaching(teacher, TEACHER_SET),
    )
    return [naive, distilled]


EXPERIMENTS = [teacher_row(), *(row for name in STUDENT_SETS for row in student_rows(name))]

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
    figures=plots.distillation_figures,
    sample=Sample(subjects=8, minutes=0.35, epochs=5),
    own_flags=("alpha", "beta"),
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
    flags.add_weight(parser, "--alpha", ALPHA, "of the RMSE to the teacher's output")
    flags.add_weight(parser, "--beta", BETA, "of the RMSE to the teacher's feature")
    return study.run(STUDY, parser.parse_args(argv))


if __name__ == "__main__":
    study.start(main)
