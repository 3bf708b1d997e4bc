"""Sensor distillation on Dataset B (Tan et al. 2022): eight IMUs and two cameras, 100 Hz.

The networks estimate the knee flexion and adduction moments and the ground reaction force of
the right leg in windows of 0.5 s.

Rows of the table (Kinetics-MFFM-Net in the paper's Tables II and IV):
    teacher            reads all IMUs and video
    student-<set>      reads the IMUs of one sensor set only
    distilled-<set>    the same network, trained with the help of the teacher
<set> is a sensor set, from both feet (`feet`) to all eight IMUs (`all_imus`).

Rows beyond the paper (`--rows beyond`): students for real time, which read one sample after another
and are late by --lookahead instead of a window:
    streaming-<set>, distilled_streaming-<set>

Models: KineticsMFFMNet, built from GatedDualEncoder and MFFM; StreamingMFFMNet, built from
StreamingEncoder and MFFM, for the streaming rows.
Training: `train_and_test` minimizes the RMSE against the measured targets (`supervised_loss`).
For distilled students, `distillation_loss` adds the RMSE against the output and the feature of the
trained teacher. `train_and_test_streaming` does the same on sequences of samples.
Output: outputs/Dataset_B_sensor_distillation/<run>/ with config.json, history.csv,
metrics.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_b.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_B_sensor_distillation.py
    python Dataset_B_sensor_distillation.py --data data/dataset_b.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import cli, plots
from common.data import Columns, Recording, SensorSet, Target, read_dataset_b
from common.runs import QuickLook, Row, Run
from common.training import (
    Criterion,
    DivergedError,
    Epoch,
    Loss,
    Progress,
    accelerate,
    predict,
    predict_stream,
)
from common.windows import Batch, Windows, cut_sequences, make_fold, precompute

# Data and hyperparameters of the paper ---------------------------------------------------------

DATASET = "b"
RATE_HZ = 100
WINDOW = 50  # samples: 0.5 s
EPOCHS = 40  # at most
LEARNING_RATE = 1e-3
# Weights of the teacher's output and feature in the loss; the script published for Dataset B has
# 0.1 and 5.0
ALPHA, BETA = 0.5, 1.0
# Beyond the paper, for the streaming students
LOOKAHEAD_MS = 50  # delay of the output
SEQUENCE = 3 * WINDOW  # samples of a training sequence: 1.5 s, longer than most steps
GRAVITY_M_S2 = 9.8  # converts body mass to weight; the dataset's own moments use 9.81

SENSORS = ("CHEST", "WAIST", "R_FOOT", "R_SHANK", "R_THIGH", "L_FOOT", "L_SHANK", "L_THIGH")
JOINTS = (
    *("LShoulder", "RShoulder", "MidHip", "RHip", "LHip"),
    *("RKnee", "LKnee", "RAnkle", "LAnkle", "RHeel", "LHeel"),
)
VIEWS = ("x_90", "x_180", "y_90", "y_180")  # image axis and camera: 90 at the side, 180 behind
FEET = ("R_FOOT", "L_FOOT")
SHANKS = ("R_SHANK", "L_SHANK")
THIGHS = ("R_THIGH", "L_THIGH")
UNITS = {"acc": "m/s²", "gyr": "deg/s", "video": "pixels / m"}  # of the modalities
SENSOR_SETS = {
    "feet": SensorSet(FEET),
    "feet_pelvis": SensorSet(("WAIST", *FEET)),
    "feet_pelvis_shanks": SensorSet(("WAIST", *FEET, *SHANKS)),
    "feet_pelvis_shanks_thighs": SensorSet(("WAIST", *FEET, *SHANKS, *THIGHS)),
    "all_imus": SensorSet(SENSORS),
    "all_imus_video": SensorSet(SENSORS, ("acc", "gyr", "video")),
}
TARGETS = (
    Target("KFM", "%BW·BH"),  # external knee flexion moment
    Target("KAM", "%BW·BH"),  # external knee adduction moment
    Target("GRF medio-lateral", "BW"),
    Target("GRF vertical", "BW"),
    Target("GRF antero-posterior", "BW"),
)


def column_names(sensor_set: SensorSet) -> list[str]:
    """Return the names of the columns from which the inputs of a sensor set are computed."""
    imus = [
        f"{kind}{axis}_{sensor}"
        for kind in ("Accel", "Gyro")
        for sensor in sensor_set.sensors
        for axis in "XYZ"
    ]
    video = [*(f"{joint}_{view}" for joint in JOINTS for view in VIEWS), "body height"]
    return [*imus, *(video if "video" in sensor_set.modalities else ())]


def prepare(columns: Columns) -> dict[str, np.ndarray]:
    """Return the modalities `(samples, C)` and the targets `(samples, K)`.

    Units: acc in m/s², gyr in deg/s, video in pixels per meter of body height. The video positions
    are relative to the mid-hip in the same view. The file stores the force on the plate; the ground
    reaction force, which acts on the foot, has the opposite sign.
    """
    mid_hip = columns[[f"MidHip_{view}" for view in VIEWS]]
    joints = columns[[f"{joint}_{view}" for joint in JOINTS for view in VIEWS]]
    weight_n = columns["body weight"] * GRAVITY_M_S2  # the column is a mass in kg
    force_n = columns[[f"plate_2_force_{axis}" for axis in "xzy"]]
    return {
        "acc": columns[[f"Accel{axis}_{sensor}" for sensor in SENSORS for axis in "XYZ"]],
        "gyr": columns[[f"Gyro{axis}_{sensor}" for sensor in SENSORS for axis in "XYZ"]],
        "video": (joints - np.tile(mid_hip, len(JOINTS))) / columns["body height"],
        "targets": np.hstack([columns[["EXT_KM_X", "EXT_KM_Y"]], -force_n / weight_n]),
    }


def read(path: Path) -> Recording:
    """Read the HDF5 file."""
    return read_dataset_b(path, prepare)


def select(samples: Mapping[str, Tensor], sensor_set: SensorSet) -> list[Tensor]:
    """Return one tensor `(..., C)` per modality of a sensor set, with three channels per IMU."""
    imus = [SENSORS.index(sensor) for sensor in sensor_set.sensors]
    return [
        torch.cat([samples[modality][..., 3 * i : 3 * i + 3] for i in imus], dim=-1)
        if modality in ("acc", "gyr")
        else samples[modality]
        for modality in sensor_set.modalities
    ]


# Models ----------------------------------------------------------------------------------------


class GatedDualEncoder(nn.Module):
    """Encode one modality with a BiLSTM and a BiGRU and mix their features with a learned gate.

    Source: Kinetics-MFFM-Net, gated dual encoder (GDEN). BiLSTM and BiGRU have two layers each.
    With the gate `g = sigmoid(Linear([lstm; gru]))`, the output is `g * lstm + (1 - g) * gru`.

    Needs: nothing.

    Args:
        channels: number of channels of the modality, C.
        hidden_sizes: units per direction of the first and the second recurrent layer.
        dropout: dropout probability after each recurrent layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T, 2 * hidden_sizes[1])`.

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
    """Fuse the features of several modalities in up to three branches and gate the result.

    Source: Kinetics-MFFM-Net, multi-modal feature fusion module. The branches are self-attention
    over time (MAF), features weighted by a sigmoid layer (MWFF) and a weighted sum of the
    modalities (MWFS). Their outputs are concatenated and pass a sigmoid gate (MMF). The attention
    has no mask, residual connection, normalization or positional encoding. In MWFS, all modalities
    share the Linear layer that computes their weights.

    Needs: nothing.

    Args:
        modalities: number of modalities, M.
        size: number of features of each modality.
        heads: number of attention heads.
        branches: branches to use, any of `maf`, `mwff` and `mwfs`; the ablation omits some.
        gated: whether the result passes the gate (MMF).

    Shape:
        Input: `(B, T, M * size)`: windows, samples in time, features of all modalities.
        Output: `(B, T, out_size)`: `M * size` features each from MAF and MWFF, `size` from MWFS.

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
    """The prediction of a network and its feature for distillation.

    Attributes:
        output: `(B, T, K)`, in the units of the targets.
        feature: `(B, T, 2 * hidden_sizes[1])`, the projected encoder outputs.
    """

    output: Tensor
    feature: Tensor


class KineticsMFFMNet(nn.Module):
    """Estimate joint moments and ground reaction forces at each time step of a window.

    Source: Kinetics-MFFM-Net. Each modality is normalized over batch and time (without learned
    scale and shift) and encoded by a GatedDualEncoder; MFFM fuses the encoded modalities. The
    teacher reads all modalities, a student the accelerometers and gyroscopes of a sensor set.
    For distillation, a Linear layer projects the encoded modalities to the size of one of them; the
    prediction does not depend on it. The teacher is not trained on its projection, which therefore
    keeps its random initial weights.

    Needs: GatedDualEncoder, MFFM, DistillationFeatures, typing.NamedTuple

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        hidden_sizes: units per direction of the first and the second layer of the encoders.
        dropout: dropout probability after each recurrent layer.
        heads: number of attention heads.
        projection: whether the network has the projection for distillation.

    Shape:
        Input: one `(B, T, C)` per modality: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

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
        """Return the encoded modalities, concatenated: `(B, T, M * 2 * hidden_sizes[1])`."""
        if len(modalities) != len(self.norms):
            shapes = ", ".join(f"(B, T, {norm.num_features})" for norm in self.norms)
            raise ValueError(f"{len(modalities)} modalities given, but the inputs are {shapes}")
        return torch.cat(
            [
                encoder(norm(x.transpose(1, 2)).transpose(1, 2))  # BatchNorm1d expects (B, C, T)
                for x, norm, encoder in zip(modalities, self.norms, self.encoders, strict=True)
            ],
            dim=-1,
        )

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        return self.head(self.fusion(self.encode(*modalities)))

    def features(self, *modalities: Tensor) -> DistillationFeatures:
        """Return the prediction and the projected encoder outputs for distillation."""
        encoded = self.encode(*modalities)
        return DistillationFeatures(self.head(self.fusion(encoded)), self.projection(encoded))


class StreamingEncoder(nn.Module):
    """Encode one modality sample by sample with an LSTM and a GRU, mixed by a learned gate.

    Source: GatedDualEncoder in one direction, so that no feature depends on later samples; not in
    the paper. LSTM and GRU have two layers each.

    Needs: nothing.

    Args:
        channels: number of channels of the modality, C.
        hidden_sizes: units of the first and the second recurrent layer.
        dropout: dropout probability after each recurrent layer.

    Shape:
        Input: `(B, T, C)`: sequences, samples in time, channels; and the state after the sample
            before, six tensors `(1, B, units)`, or None at the start.
        Output: `(B, T, hidden_sizes[1])`, and the state after the last sample.

    Example:
        >>> features, state = StreamingEncoder(12)(torch.zeros(2, 100, 12))
        >>> features.shape
        torch.Size([2, 100, 128])
    """

    def __init__(
        self, channels: int, hidden_sizes: tuple[int, int] = (192, 128), dropout: float = 0.25
    ) -> None:
        super().__init__()
        first, second = hidden_sizes
        self.lstm = nn.ModuleList(
            nn.LSTM(size, hidden, batch_first=True)
            for size, hidden in ((channels, first), (first, second))
        )
        self.gru = nn.ModuleList(
            nn.GRU(size, hidden, batch_first=True)
            for size, hidden in ((channels, first), (first, second))
        )
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(2 * second, second)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode `(B, T, C)` as `(B, T, hidden_sizes[1])`, and return the state as well."""
        lstm = gru = x
        new_state: tuple[Tensor, ...] = ()
        for i, (lstm_layer, gru_layer) in enumerate(zip(self.lstm, self.gru, strict=True)):
            hidden, cell, gru_hidden = (None, None, None) if state is None else state[3 * i :][:3]
            lstm, (hidden, cell) = lstm_layer(lstm, None if hidden is None else (hidden, cell))
            gru, gru_hidden = gru_layer(gru, gru_hidden)
            lstm, gru = self.dropout(lstm), self.dropout(gru)
            new_state += (hidden, cell, gru_hidden)
        gate = torch.sigmoid(self.gate(torch.cat([lstm, gru], dim=-1)))
        return gate * lstm + (1 - gate) * gru, new_state


class StreamedOutput(NamedTuple):
    """The prediction for some samples of a stream, and the state for the samples after them.

    Attributes:
        output: `(B, T, K)`, in the units of the targets.
        state: the recurrent states after the last sample, `(1, B, units)` each.
    """

    output: Tensor
    state: tuple[Tensor, ...]


class StreamingMFFMNet(nn.Module):
    """Estimate joint moments and ground reaction forces sample by sample, with a short delay.

    The output at sample t is the estimate for sample t - `lookahead`, computed from the samples up
    to t. `forward` reads whole sequences, for training; `stream` reads one or more samples at a
    time and carries the state, with the same result.

    Source: KineticsMFFMNet with encoders in one direction and without the attention, which reads
    later samples; not in the paper. The input normalization has fixed statistics in eval mode.

    Needs: StreamingEncoder, MFFM, DistillationFeatures, StreamedOutput, typing.NamedTuple

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        lookahead: samples by which the output is late.
        hidden_sizes: units of the first and the second layer of the encoders.
        dropout: dropout probability after each recurrent layer.
        projection: whether the network has the projection for distillation.

    Shape:
        Input: one `(B, T, C)` per modality: sequences, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> network = StreamingMFFMNet(channels=(3, 3), targets=7, lookahead=10).eval()
        >>> acc, gyr = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)
        >>> output, state = network.stream(acc, gyr)
        >>> output, state = network.stream(acc, gyr, state=state)
        >>> output.shape
        torch.Size([1, 1, 7])
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        targets: int,
        *,
        lookahead: int,
        hidden_sizes: tuple[int, int] = (192, 128),
        dropout: float = 0.25,
        projection: bool = False,
    ) -> None:
        super().__init__()
        size = hidden_sizes[1]
        self.lookahead = lookahead
        self.norms = nn.ModuleList(nn.BatchNorm1d(count, affine=False) for count in channels)
        self.encoders = nn.ModuleList(
            StreamingEncoder(count, hidden_sizes, dropout) for count in channels
        )
        self.fusion = MFFM(len(channels), size, branches=("mwff", "mwfs"))
        self.head = nn.Linear(self.fusion.out_size, targets)
        self.projection = nn.Linear(len(channels) * size, size) if projection else None

    def encode(
        self, *modalities: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the encoded modalities `(B, T, M * hidden_sizes[1])`, and the state."""
        if len(modalities) != len(self.norms):
            shapes = ", ".join(f"(B, T, {norm.num_features})" for norm in self.norms)
            raise ValueError(f"{len(modalities)} modalities given, but the inputs are {shapes}")
        encoded, new_state = [], ()
        for i, (x, norm, encoder) in enumerate(
            zip(modalities, self.norms, self.encoders, strict=True)
        ):
            x = norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
            features, after = encoder(x, None if state is None else state[6 * i : 6 * i + 6])
            encoded.append(features)
            new_state += after
        return torch.cat(encoded, dim=-1), new_state

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality, from the start of a stream."""
        return self.stream(*modalities).output

    def stream(
        self, *modalities: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> StreamedOutput:
        """Estimate the next samples of a stream.

        Args:
            modalities: one `(B, T, C)` per modality, of one or more samples.
            state: the state returned for the samples before, or None at the start.
        """
        encoded, state = self.encode(*modalities, state=state)
        return StreamedOutput(self.head(self.fusion(encoded)), state)

    def features(self, *modalities: Tensor) -> DistillationFeatures:
        """Return the prediction and the projected encoder outputs for distillation."""
        encoded, _ = self.encode(*modalities)
        return DistillationFeatures(self.head(self.fusion(encoded)), self.projection(encoded))


# Losses ----------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the RMSE over batch, time and targets; at zero error, its gradient is 0, not NaN."""
    error = prediction - target
    norm = torch.linalg.vector_norm(error, dtype=torch.float64)  # sums millions of squares
    return norm / math.sqrt(error.numel())


def supervised_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the RMSE of the prediction against the measured targets."""
    return rmse(network(*batch.inputs), batch.targets)


def distillation_loss(alpha: float, beta: float) -> Loss:
    """Return the loss of a distilled student.

    The loss is RMSE(student, targets) + alpha * RMSE(student, teacher) + beta * RMSE(student's
    feature, teacher's feature).

    Args:
        alpha: weight of the teacher's output.
        beta: weight of the teacher's feature.
    """

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        student = network.features(*batch.inputs)
        teacher_output, teacher_feature = batch.cached
        return (
            rmse(student.output, batch.targets)
            + alpha * rmse(student.output, teacher_output)
            + beta * rmse(student.feature, teacher_feature)
        )

    return loss


def target_scale(windows: Windows, loss: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the SD, `(K,)` each, that are removed from the targets for training.

    Args:
        windows: training windows.
        loss: `pooled`, the paper's: the targets stay as they are (0 and 1); one RMSE over all of
            them lets the largest outweigh the others. `balanced`: mean and SD of the targets.
    """
    targets = windows.targets[windows.is_scored]
    if loss == "pooled":
        return torch.zeros_like(targets[0]), torch.ones_like(targets[0])
    sd = targets.std(dim=0)
    return targets.mean(dim=0), torch.where(sd > 0, sd, 1)


@contextmanager
def restoring_units(network: nn.Module, mean: Tensor, sd: Tensor) -> Iterator[None]:
    """After a training on standardized targets, put their mean and SD into the last layer."""

    def restore(weights: Mapping[str, Tensor]) -> None:
        weights["head.weight"].mul_(sd[:, None])
        weights["head.bias"].mul_(sd).add_(mean)

    try:
        yield
    except DivergedError as error:
        if error.best_weights:
            restore(error.best_weights)
        raise
    restore(network.state_dict())


def late_rmse(output: Tensor, target: Tensor, is_scored: Tensor, lookahead: int) -> Tensor:
    """Return the RMSE of outputs that come late, over the scored samples and all targets.

    Args:
        output: `(B, T, K)`; the output at sample t belongs to sample t - `lookahead`.
        target: `(B, T, K)`.
        is_scored: `(B, T)`, False where a sample only fills up its sequence.
        lookahead: number of samples.
    """
    error = output[:, lookahead:] - target[:, : target.shape[1] - lookahead]
    is_scored = is_scored[:, lookahead:]
    norm = torch.linalg.vector_norm(error * is_scored[..., None], dtype=torch.float64)
    return norm / (is_scored.sum() * error.shape[-1]).clamp(min=1).sqrt()


def streaming_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the RMSE of a streaming network's prediction against the measured targets."""
    (is_scored,) = batch.cached
    return late_rmse(network(*batch.inputs), batch.targets, is_scored, network.lookahead)


def distilled_streaming_loss(alpha: float, beta: float) -> Loss:
    """Return `distillation_loss` for a streaming student.

    The teacher, which reads whole windows, is compared with the student at the sample that the
    student's output belongs to: it has seen what comes later.
    """

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        student = network.features(*batch.inputs)
        is_scored, teacher_output, teacher_feature = batch.cached
        return (
            late_rmse(student.output, batch.targets, is_scored, network.lookahead)
            + alpha * late_rmse(student.output, teacher_output, is_scored, network.lookahead)
            + beta * late_rmse(student.feature, teacher_feature, is_scored, network.lookahead)
        )

    return loss


# Rows of the table -----------------------------------------------------------------------------

TEACHER_SET = "all_imus_video"
STUDENT_SETS = (
    *("feet", "feet_pelvis", "feet_pelvis_shanks", "feet_pelvis_shanks_thighs"),
    "all_imus",
)


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the inputs of a network: one tensor `(..., C)` per modality."""
    return select(samples, SENSOR_SETS[sensor_set])


def table_row(
    name: str,
    sensor_set: str,
    projection: bool,
    needs: tuple[str, ...] = (),
    is_streaming: bool = False,
) -> Row:
    """Return a row of the table.

    Args:
        name: name of the row.
        sensor_set: name of the sensor set that the network reads.
        projection: whether the network has the projection for distillation.
        needs: rows that have to be trained first, with the same subject held out.
        is_streaming: whether the network is a StreamingMFFMNet, which is not in the paper.
    """
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "video": 4 * len(JOINTS)}
    network_class = (
        partial(StreamingMFFMNet, lookahead=round(LOOKAHEAD_MS * RATE_HZ / 1000))
        if is_streaming
        else KineticsMFFMNet
    )
    network = partial(
        network_class,
        channels=tuple(channels[modality] for modality in modalities),
        targets=len(TARGETS),
        projection=projection,
    )
    return Row(name, sensor_set, network, needs, is_beyond_paper=is_streaming)


ROWS = [table_row("teacher", TEACHER_SET, projection=True)]
for student_set in STUDENT_SETS:
    ROWS += [
        table_row(f"student-{student_set}", student_set, projection=False),
        table_row(f"distilled-{student_set}", student_set, projection=True, needs=("teacher",)),
    ]
for student_set in STUDENT_SETS:
    ROWS += [
        table_row(f"streaming-{student_set}", student_set, projection=False, is_streaming=True),
        table_row(
            f"distilled_streaming-{student_set}",
            student_set,
            projection=True,
            needs=("teacher",),
            is_streaming=True,
        ),
    ]

# Training --------------------------------------------------------------------------------------


def train(
    network: nn.Module,
    windows: Windows,
    validation: Windows,
    loss: Loss,
    criterion: Criterion,
    epochs: int,
    args: argparse.Namespace,
    progress: Progress,
) -> list[Epoch]:
    """Train with Adam and early stopping; leave the weights of the best epoch in `network`.

    Args:
        network: network to train, on its device.
        windows: training windows.
        validation: validation windows.
        loss: loss of the network on a batch, minimized by Adam.
        criterion: validation loss, of the predictions and targets of all validation windows.
        epochs: maximum number of epochs.
        args: flags `seed`, `learning_rate`, `batch_size`, `patience` (in epochs) and `faster`.
        progress: progress of the training, which is saved regularly and resumed if it exists.

    Returns:
        The finished epochs.

    Raises:
        DivergedError: The validation loss is not finite.
    """
    torch.manual_seed(args.seed)  # for dropout; shuffling has its own generator
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)
    progress.start(network, optimizer, epochs, args.seed)
    loss = accelerate(loss, args.faster)  # no change without --faster
    while len(progress.history) < epochs and progress.epochs_since_best < args.patience:
        network.train()
        for indices in progress.shuffled_batches(len(windows), args.batch_size):
            optimizer.zero_grad(set_to_none=True)
            batch_loss = loss(network, windows[indices])
            batch_loss.backward()
            optimizer.step()
            progress.add(batch_loss, len(indices))
        prediction = predict(network, validation, args.batch_size)
        progress.end_epoch(criterion(prediction, validation.targets))
    return progress.restore_best()


# Running ---------------------------------------------------------------------------------------


def train_and_test(row: Row, test_subject: str, run: Run) -> None:
    """Train one row of the table with one subject held out, and test it on that subject.

    The teacher and the plain students minimize `supervised_loss`; a distilled student minimizes
    `distillation_loss` against the outputs of the trained teacher.
    """
    if row.is_beyond_paper:
        train_and_test_streaming(row, test_subject, run)
        return
    args, samples = run.args, run.recording.samples
    signals = inputs(samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, WINDOW, args.protocol, args.seed)
    mean, sd = target_scale(fold.train, args.loss)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    windows, validation = fold.train.standardized(mean, sd), fold.validation.standardized(mean, sd)
    if row.needs:  # distilled student: the teacher's outputs are computed once per fold
        teacher = run.load_network("teacher", test_subject)
        teacher_windows = windows.with_signals(inputs(samples, TEACHER_SET))
        output, feature = precompute(teacher.features, teacher_windows)
        windows.cached = ((output - mean) / sd, feature)
        loss = distillation_loss(args.alpha, args.beta)
    else:
        loss = supervised_loss
    progress = run.progress(row, test_subject)
    epochs = args.epochs or EPOCHS
    with restoring_units(network, mean, sd):
        history = train(network, windows, validation, loss, rmse, epochs, args, progress)
    run.record(row, fold, network, history)


def train_and_test_streaming(row: Row, test_subject: str, run: Run) -> None:
    """Train and test a streaming student (beyond the paper) on sequences instead of windows.

    It is tested as it is used: every trial or step of the test subject is streamed from a cold
    start, and the last samples, whose estimate would come after its end, are not scored.
    """
    args, samples = run.args, run.recording.samples
    signals = inputs(samples, row.sensor_set)
    late = round(args.lookahead * RATE_HZ / 1000)  # samples
    row = replace(row, network=partial(row.network, lookahead=late))
    fold = make_fold(
        run.recording, signals, test_subject, SEQUENCE, args.protocol, args.seed, cut_sequences
    )
    mean, sd = target_scale(fold.train, args.loss)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    windows, validation = fold.train.standardized(mean, sd), fold.validation.standardized(mean, sd)
    windows.cached = (fold.train.is_scored,)
    length = int(fold.train.is_scored.sum()) / len(windows)  # samples per sequence, on average
    loss = streaming_loss
    if row.needs:
        teacher = run.load_network("teacher", test_subject)
        teacher_windows = windows.with_signals(inputs(samples, TEACHER_SET)).split(WINDOW)
        outputs = precompute(teacher.features, teacher_windows)  # (windows, WINDOW, ...)
        output, feature = (values.reshape(len(windows), SEQUENCE, -1) for values in outputs)
        windows.cached += ((output - mean) / sd, feature)
        loss = distilled_streaming_loss(args.alpha, args.beta)

    def criterion(prediction: Tensor, target: Tensor) -> Tensor:
        return late_rmse(prediction, target, fold.validation.is_scored, late)

    progress = run.progress(row, test_subject)
    epochs = args.epochs or EPOCHS
    # As many samples per batch as with windows; some sequences are shorter.
    batch_size = max(1, round(args.batch_size * WINDOW / length))
    args = argparse.Namespace(**{**vars(args), "batch_size": batch_size})
    with restoring_units(network, mean, sd):
        history = train(network, windows, validation, loss, criterion, epochs, args, progress)
    prediction, is_estimated = predict_stream(network, fold.test, run.recording.stretch)
    fold.test.is_scored = is_estimated
    run.record(row, fold, network, history, prediction=prediction)


def lookahead(text: str) -> float:
    """Parse a delay of up to a window in ms; return it rounded up to whole samples."""
    samples = math.ceil(cli.finite_number(text) * RATE_HZ / 1000)
    if samples > WINDOW:
        raise argparse.ArgumentTypeError(
            f"must be at most a window, {1000 * WINDOW / RATE_HZ:g} ms, not {text}"
        )
    return 1000 * samples / RATE_HZ


# Defaults of a run on synthetic data
QUICK_LOOK = QuickLook(
    subjects=10,
    minutes=0.45,
    epochs=6,
    rows=("teacher", "student-feet_pelvis", "distilled-feet_pelvis"),
    batch_size=16,
)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and test the selected rows on the selected folds; return the metrics."""
    script = sys.modules[__name__]
    parser = cli.script_parser(script)
    cli.add_weight(parser, "--alpha", ALPHA, "the RMSE to the teacher's output")
    cli.add_weight(parser, "--beta", BETA, "the RMSE to the teacher's feature")
    parser.add_argument(
        "--loss",
        choices=("pooled", "balanced"),
        default="pooled",
        help="pooled: RMSE over all targets in their units, as in the paper; balanced: every "
        "target is standardized for training, so that all count alike (default: pooled)",
    )
    parser.add_argument(
        "--lookahead",
        type=lookahead,
        default=LOOKAHEAD_MS,
        metavar="MS",
        help="delay of the streaming rows, in which they see what comes next; rounded up to whole "
        f"samples (default: {LOOKAHEAD_MS})",
    )
    args = cli.parse(script, parser, argv)
    run = Run(script, args)
    run.settings |= {"alpha": args.alpha, "beta": args.beta}
    if args.loss != "pooled":
        run.settings["loss"] = args.loss
    if args.lookahead != LOOKAHEAD_MS:
        run.settings["lookahead_ms"] = args.lookahead
    with run:
        run.each(train_and_test)
        return run.report(plots.distillation_figures)


if __name__ == "__main__":
    cli.run_main(main)
