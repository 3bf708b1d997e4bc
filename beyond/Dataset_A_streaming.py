"""Streaming students and a balanced loss on Dataset A (Camargo et al. 2021); not in the paper.

The networks estimate four joint moments and the ground reaction force of the right leg, from four
IMUs and EMG at 200 Hz.

Rows of the results table:
    teacher                       reads windows of 0.5 s of all IMUs and EMG, as in the paper
    student-<set>                 reads windows of the IMUs of one sensor set, as in the paper
    distilled-<set>               the same network, distilled from the teacher
    streaming-<set>               reads one sample at a time, with a latency of 50 ms
    distilled_streaming-<set>     the same network, distilled from the teacher
    teacher_balanced, student_balanced-<set>, ...    the same with the balanced loss
    student_augmented-<set>       the same network as student_balanced-<set>, trained longer on all
                                  training subjects, with shifted windows and rotated sensors
    streaming_augmented-<set>     the same for the streaming student
<set> is a sensor set, from the foot alone (`foot`) to all four IMUs (`all_imus`).

Models: KineticsMFFMNet, built from GatedDualEncoder and MFFM, reads windows; StreamingMFFMNet,
built from StreamingEncoder and MFFM, reads a stream.
Training: as in the paper for windows (`supervised_loss`, `distillation_loss`), on sequences for
streaming students (`streaming_loss`, `distilled_streaming_loss`). The paper's loss is one RMSE over
all targets in their units; for the balanced loss, each target is standardized (`target_scale`).
Augmented rows use the balanced loss and `train_augmented`.
Output: outputs/Dataset_A_streaming/<run>/ with config.json, history.csv, metrics.csv,
stances.csv, predictions/, checkpoints/ and figures/. See docs/beyond.md and docs/real_time.md.

The first command reads data/dataset_a.h5 or, if there is no such file, runs briefly on
synthetic data. The second trains two rows and holds out each subject in turn:

    python -m beyond.Dataset_A_streaming
    python -m beyond.Dataset_A_streaming --rows student-foot streaming-foot --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from common import cli  # isort: skip  (first, for Ctrl-C during the imports below)

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from beyond import augmentation
from beyond.augmentation import draw_shifted, rotate_sensors
from beyond.sequences import cut_sequences, describe_columns, predict_stream
from common.data import SensorSet, Target, read_dataset_a
from common.runs import Row, Run
from common.training import DivergedError, Progress, predict
from common.windows import Batch, Fold, Windows, cut_windows, make_fold, precompute

# Data and hyperparameters of the paper ---------------------------------------------------------

DATASET = "a"
RATE_HZ = 200
WINDOW = 100  # samples: 0.5 s
EPOCHS = 40  # at most
BATCH_SIZE = 64  # windows
PATIENCE = 10  # epochs without a lower validation loss
LEARNING_RATE = 1e-3
# Weights of the teacher's output and feature in the loss; the script published for Dataset B has
# 0.1 and 5.0
ALPHA, BETA = 0.5, 1.0
# Not in the paper, for the streaming students
LOOKAHEAD = 10  # samples: 50 ms
SEQUENCE = 2 * WINDOW  # samples of a training sequence: 1 s

SENSORS = ("foot", "shank", "thigh", "trunk")  # right leg and trunk, in the order of the columns
MUSCLES = (  # processed EMG
    *("gastrocmed", "tibialisanterior", "soleus", "vastusmedialis", "vastuslateralis"),
    *("rectusfemoris", "bicepsfemoris", "semitendinosus", "gracilis", "gluteusmedius"),
    "rightexternaloblique",
)
COLUMNS = {  # of the file, by modality
    "acc": [f"{sensor}_Accel_{axis}" for sensor in SENSORS for axis in "XYZ"],
    "gyr": [f"{sensor}_Gyro_{axis}" for sensor in SENSORS for axis in "XYZ"],
    "emg": list(MUSCLES),
    "targets": [
        *("hip_flexion_r_moment", "hip_adduction_r_moment"),
        *("knee_angle_r_moment", "ankle_angle_r_moment"),
        *("right_vx", "right_vy", "right_vz"),
    ],
}
UNITS = {"acc": "m/s²", "gyr": "rad/s", "emg": "1"}  # EMG is relative to its maximum
SENSOR_SETS = {
    "foot": SensorSet(("foot",)),
    "foot_trunk": SensorSet(("foot", "trunk")),
    "foot_shank_trunk": SensorSet(("foot", "shank", "trunk")),
    "all_imus": SensorSet(SENSORS),
    "all_imus_emg": SensorSet(SENSORS, ("acc", "gyr", "emg")),
}
TARGETS = (  # moments divided by body weight times height, forces by body weight
    Target("hip flexion moment", "BW·BH"),
    Target("hip adduction moment", "BW·BH"),
    Target("knee moment", "BW·BH"),
    Target("ankle moment", "BW·BH"),
    Target("GRF antero-posterior", "BW"),
    Target("GRF vertical", "BW"),
    Target("GRF medio-lateral", "BW"),
)

read = partial(read_dataset_a, columns=COLUMNS)
"""Reads the HDF5 file."""


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

    Source: the unidirectional version of GatedDualEncoder, in which no feature depends on later
    samples; not in the paper. LSTM and GRU have two layers each.

    Needs: nothing.

    Args:
        channels: number of channels of the modality, C.
        hidden_sizes: units of the first and the second recurrent layer.
        dropout: dropout probability after each recurrent layer.

    Shape:
        Input: `(B, T, C)`: sequences, samples in time, channels; and the state after the previous
            sample, six tensors `(1, B, units)`, or None at the start.
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
        """Encode `(B, T, C)` as `(B, T, hidden_sizes[1])`; also return the new state."""
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
    """The output for one or more samples of a stream, and the state to continue from.

    Attributes:
        output: `(B, T, K)`, in the units of the targets.
        state: the recurrent states after the last sample, `(1, B, units)` each.
    """

    output: Tensor
    state: tuple[Tensor, ...]


class StreamingMFFMNet(nn.Module):
    """Estimate joint moments and ground reaction forces sample by sample, with a short latency.

    The output at sample t is the estimate for sample t - `lookahead`, computed from the samples up
    to t. `forward` reads whole sequences, for training; `stream` reads one or more samples at a
    time and carries the state, with the same result.

    Source: KineticsMFFMNet with unidirectional encoders and without the attention branch, which
    would need later samples; not in the paper. In eval mode, the input normalization uses fixed
    statistics.

    Needs: StreamingEncoder, MFFM, DistillationFeatures, StreamedOutput, typing.NamedTuple

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        lookahead: samples by which the output lags.
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
            state: the state returned for the previous samples, or None at the start.
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


def distillation_loss(alpha: float, beta: float) -> Callable[[nn.Module, Batch], Tensor]:
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


def target_scale(windows: Windows, is_balanced: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and SD with which the targets are standardized for training, `(K,)` each.

    Args:
        windows: training windows.
        is_balanced: False for the paper's loss, one RMSE over all targets in their units, in which
            the largest targets outweigh the others: mean 0 and SD 1 leave the targets unchanged.
            True for the balanced loss, to which all targets contribute equally: mean and SD of
            each target over the training windows.
    """
    targets = windows.targets[windows.is_scored]
    if not is_balanced:
        return torch.zeros_like(targets[0]), torch.ones_like(targets[0])
    sd = targets.std(dim=0)
    return targets.mean(dim=0), torch.where(sd > 0, sd, 1)


def standardize(fold: Fold, targets: Tensor, mean: Tensor, sd: Tensor) -> Fold:
    """Return a fold whose training and validation targets are `(targets - mean) / sd`.

    Args:
        fold: the fold; its test keeps the units of the targets.
        targets: the targets of the recording, `(samples, K)`.
        mean: `(K,)`.
        sd: `(K,)`.
    """
    scaled = (targets - mean) / sd
    train, validation = (
        Windows(windows.signals, scaled, windows.samples, windows.is_scored)
        for windows in (fold.train, fold.validation)
    )
    return fold._replace(train=train, validation=validation)


@contextmanager
def fold_scale_into_head(network: nn.Module, mean: Tensor, sd: Tensor) -> Iterator[None]:
    """After training on standardized targets, fold their mean and SD into the last layer."""

    def restore(weights: Mapping[str, Tensor]) -> None:
        weights["head.weight"].mul_(sd[:, None])
        weights["head.bias"].mul_(sd).add_(mean)

    try:
        yield
    except DivergedError as error:  # the weights of its best epoch are saved
        if error.best_weights:
            restore(error.best_weights)
        raise
    restore(network.state_dict())


def delayed_rmse(output: Tensor, target: Tensor, is_scored: Tensor, lookahead: int) -> Tensor:
    """Return the RMSE of outputs that lag by `lookahead` samples, over scored samples and targets.

    Args:
        output: `(B, T, K)`; the output at sample t is the estimate for sample t - `lookahead`.
        target: `(B, T, K)`.
        is_scored: `(B, T)`, False where a sample is repeated to fill its sequence.
        lookahead: number of samples.
    """
    error = output[:, lookahead:] - target[:, : target.shape[1] - lookahead]
    is_scored = is_scored[:, lookahead:]
    norm = torch.linalg.vector_norm(error * is_scored[..., None], dtype=torch.float64)
    return norm / (is_scored.sum() * error.shape[-1]).clamp(min=1).sqrt()


def streaming_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the RMSE of a streaming network's output against the measured targets."""
    (is_scored,) = batch.cached
    return delayed_rmse(network(*batch.inputs), batch.targets, is_scored, network.lookahead)


def distilled_streaming_loss(alpha: float, beta: float) -> Callable[[nn.Module, Batch], Tensor]:
    """Return `distillation_loss` for a streaming student.

    The student is compared with the teacher at the same sample; the teacher, which reads whole
    windows, has access to later samples.
    """

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        student = network.features(*batch.inputs)
        is_scored, teacher_output, teacher_feature = batch.cached
        return (
            delayed_rmse(student.output, batch.targets, is_scored, network.lookahead)
            + alpha * delayed_rmse(student.output, teacher_output, is_scored, network.lookahead)
            + beta * delayed_rmse(student.feature, teacher_feature, is_scored, network.lookahead)
        )

    return loss


# Rows of the table -----------------------------------------------------------------------------

TEACHER_SET = "all_imus_emg"
STUDENT_SETS = ("foot", "foot_trunk", "foot_shank_trunk", "all_imus")


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the inputs of a network: one tensor `(..., C)` per modality."""
    return select(samples, SENSOR_SETS[sensor_set])


def table_row(
    name: str, sensor_set: str, projection: bool = False, needs: tuple[str, ...] = ()
) -> Row:
    """Return a row of the table.

    Args:
        name: name of the row; `streaming` in it means StreamingMFFMNet, `balanced` that loss,
            `augmented` the balanced loss and `train_augmented`.
        sensor_set: name of the sensor set that the network reads.
        projection: whether the network has the projection for distillation.
        needs: rows that have to be trained first, with the same subject held out.
    """
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    network_class = (
        partial(StreamingMFFMNet, lookahead=LOOKAHEAD) if "streaming" in name else KineticsMFFMNet
    )
    network = partial(
        network_class,
        channels=tuple(channels[modality] for modality in modalities),
        targets=len(TARGETS),
        projection=projection,
    )
    return Row(name, sensor_set, network, needs)


def student_rows(sensor_set: str) -> list[Row]:
    """Return the rows of a sensor set: windowed and streaming students with all ways to train."""
    rows = []
    for student, distilled in (("student", "distilled"), ("streaming", "distilled_streaming")):
        for loss in ("", "_balanced"):
            teacher = (f"teacher{loss}",)
            rows.append(table_row(f"{student}{loss}-{sensor_set}", sensor_set))
            rows.append(table_row(f"{distilled}{loss}-{sensor_set}", sensor_set, True, teacher))
        rows.append(table_row(f"{student}_augmented-{sensor_set}", sensor_set))
    return rows


ROWS = [
    table_row("teacher", TEACHER_SET, projection=True),
    table_row("teacher_balanced", TEACHER_SET, projection=True),
    *(row for name in STUDENT_SETS for row in student_rows(name)),
]

# Training --------------------------------------------------------------------------------------


def train(
    network: nn.Module,
    fold: Fold,
    loss: Callable[[nn.Module, Batch], Tensor],
    criterion: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    args: argparse.Namespace,
    progress: Progress,
) -> None:
    """Train with Adam and early stopping; leave the weights of the best epoch in `network`.

    Args:
        network: network to train, on its device.
        fold: training and validation windows.
        loss: loss of the network on a batch, minimized by Adam.
        criterion: validation loss, of the estimates and targets of all validation windows.
        epochs: maximum number of epochs.
        args: flags `seed`, `learning_rate`, `batch_size` and `patience` (in epochs).
        progress: collects the epochs; saves the state regularly, and resumes from it if it exists.

    Raises:
        DivergedError: The validation loss is not finite.
    """
    torch.manual_seed(args.seed)  # for dropout; shuffling has its own generator
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)
    progress.start(network, optimizer, epochs, args.seed)
    while len(progress.history) < epochs and progress.epochs_since_best < args.patience:
        network.train()
        for indices in progress.shuffled_batches(len(fold.train), args.batch_size):
            optimizer.zero_grad(set_to_none=True)
            batch_loss = loss(network, fold.train[indices])
            batch_loss.backward()
            optimizer.step()
            progress.add(batch_loss, len(indices))
        estimates = predict(network, fold.validation, args.batch_size)
        progress.end_epoch(criterion(estimates, fold.validation.targets))
    progress.restore_best()


def train_augmented(
    network: nn.Module,
    draw: Callable[[int], Windows],
    length: int,
    loss: Callable[[nn.Module, Batch], Tensor],
    epochs: int,
    args: argparse.Namespace,
    progress: Progress,
) -> None:
    """Train with Adam on augmented windows; leave the weights of the last epoch in `network`.

    The learning rate follows half a cosine from its initial value to 0. Nothing is held out for
    validation; in the history, the training loss takes the place of the validation loss.

    Args:
        network: network to train, on its device.
        draw: returns the training windows of an epoch, from a random offset in samples.
        length: samples per window; the offset is smaller.
        loss: loss of the network on a batch, minimized by Adam.
        epochs: number of epochs.
        args: flags `seed`, `learning_rate`, `batch_size` and `max_rotation` (in degrees).
        progress: collects the epochs; saves the state regularly, and resumes from it if it exists.

    Raises:
        DivergedError: The loss is not finite.
    """
    torch.manual_seed(args.seed)  # for dropout; everything else has the generator of `progress`
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate)
    progress.start(network, optimizer, epochs, args.seed)
    while len(progress.history) < epochs:
        done = len(progress.history) / epochs
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 + math.cos(math.pi * done)) / 2
        windows = draw(int(torch.randint(length, (), generator=progress.shuffling)))
        network.train()
        for indices in progress.shuffled_batches(len(windows), args.batch_size):
            optimizer.zero_grad(set_to_none=True)
            batch = rotate_sensors(windows[indices], args.max_rotation, progress.shuffling)
            batch_loss = loss(network, batch)
            batch_loss.backward()
            optimizer.step()
            progress.add(batch_loss, len(indices))
        progress.best_loss = math.inf  # keep the last epoch, not the best one
        progress.end_epoch(progress.total_loss / progress.windows)
    progress.restore_best()


# Running ---------------------------------------------------------------------------------------


def train_and_test(row: Row, test_subject: str, run: Run) -> None:
    """Train one row of the table with one subject held out, and test it on that subject.

    The teacher and the windowed students are trained as in the paper, streaming students on
    sequences instead of windows. With the balanced loss, the targets and the teacher's outputs are
    standardized for training. A streaming student is tested the way it is used: each trial or step
    is streamed from a zero state, and its last samples, whose estimates would come after its end,
    are not scored.
    """
    args, samples = run.args, run.recording.samples
    is_streaming, is_augmented = "streaming" in row.name, "augmented" in row.name
    length, cut = (SEQUENCE, cut_sequences) if is_streaming else (WINDOW, cut_windows)
    signals = inputs(samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, length, args.protocol, args.seed, cut)
    mean, sd = target_scale(fold.train, is_augmented or "balanced" in row.name)
    fold = standardize(fold, samples["targets"], mean, sd)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    if row.needs:  # distilled student: the teacher's outputs are computed once per fold
        teacher = run.load_network(row.needs[0], test_subject)
        windows = fold.train.samples.reshape(-1, WINDOW)  # the teacher always reads windows
        teacher_windows = Windows(inputs(samples, TEACHER_SET), samples["targets"], windows)
        outputs = precompute(teacher.features, teacher_windows)
        output, feature = (values.reshape(len(fold.train), length, -1) for values in outputs)
        fold.train.cached = (output - mean) / sd, feature
    if is_streaming:
        loss = distilled_streaming_loss(args.alpha, args.beta) if row.needs else streaming_loss
        fold.train.cached = fold.train.is_scored, *fold.train.cached
        criterion = partial(
            delayed_rmse, is_scored=fold.validation.is_scored, lookahead=network.lookahead
        )
        args = with_sequences(args, fold.train)
    else:
        loss = distillation_loss(args.alpha, args.beta) if row.needs else supervised_loss
        criterion = rmse
    progress = run.progress(row, test_subject)
    prediction = summary = None
    with fold_scale_into_head(network, mean, sd):
        if is_augmented:
            targets, epochs = (samples["targets"] - mean) / sd, args.epoch_factor * args.epochs
            draw = draw_shifted(fold, run.recording, targets, args, is_streaming)
            train_augmented(network, draw, length, loss, epochs, args, progress)
            summary = f"{epochs} epochs, training loss {progress.history[-1].training_loss:.4f}"
        else:
            train(network, fold, loss, criterion, args.epochs, args, progress)
    if is_streaming:
        prediction, fold.test.is_scored = predict_stream(network, fold.test, run.recording.stretch)
    about = describe_columns(COLUMNS, UNITS, partial(inputs, sensor_set=row.sensor_set))
    run.record(
        row, fold, network, progress.history, summary=summary, prediction=prediction, about=about
    )


def with_sequences(args: argparse.Namespace, sequences: Windows) -> argparse.Namespace:
    """Return flags with as many samples per batch as with windows; not all sequences are full."""
    samples_per_sequence = int(sequences.is_scored.sum()) / len(sequences)
    batch_size = max(1, round(args.batch_size * WINDOW / samples_per_sequence))
    return argparse.Namespace(**{**vars(args), "batch_size": batch_size})


# Defaults on synthetic data; minutes of walking per subject
QUICK_LOOK = {
    "subjects": 8,
    "minutes": 0.35,
    "epochs": 4,
    "rows": ("student-foot_trunk", "streaming-foot_trunk", "streaming_balanced-foot_trunk"),
    "batch_size": 8,
}


def add_flags(parser: cli.ArgumentParser) -> None:
    """Add the flags of this script."""
    cli.add_weight(parser, "--alpha", ALPHA, "the RMSE against the teacher's output")
    cli.add_weight(parser, "--beta", BETA, "the RMSE against the teacher's feature")
    augmentation.add_flags(parser)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and test the selected rows on the selected folds; return the metrics."""
    args = cli.parse(
        __file__,
        __doc__,
        argv,
        dataset=DATASET,
        rows=[row.name for row in ROWS],
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        patience=PATIENCE,
        learning_rate=LEARNING_RATE,
        quick_look=QUICK_LOOK,
        add_flags=add_flags,
    )
    with Run(
        __file__,
        args,
        read,
        rows=ROWS,
        sensor_sets=SENSOR_SETS,
        targets=TARGETS,
        window=WINDOW,
        rate_hz=RATE_HZ,
    ) as run:
        run.each(train_and_test)
        return run.report()


if __name__ == "__main__":
    cli.run_main(main)
