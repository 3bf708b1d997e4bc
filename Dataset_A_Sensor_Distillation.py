"""Sensor distillation on Dataset A (Camargo et al. 2021): four IMUs and EMG, 200 Hz.

The networks estimate four joint moments and the ground reaction force of the right leg in
windows of 0.5 s.

Rows of the results table (Kinetics-MFFM-Net in the paper's Tables II and III):
    teacher            reads all IMUs and EMG
    student-<set>      reads the IMUs of one sensor set only
    distilled-<set>    the same network, distilled from the teacher
<set> is a sensor set, from the foot alone (`foot`) to all four IMUs (`all_imus`).

Models: KineticsMFFMNet, built from GatedDualEncoder and MFFM.
Training: `train_and_test` minimizes the RMSE against the measured targets (`supervised_loss`).
For distilled students, `distillation_loss` adds the RMSE against the output and the feature of the
trained teacher.
Output: outputs/Dataset_A_Sensor_Distillation/<run>/ with config.json, history.csv,
metrics.csv, stances.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_a.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_A_Sensor_Distillation.py
    python Dataset_A_Sensor_Distillation.py --data data/dataset_a.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from common import cli  # isort: skip  (first, for Ctrl-C during the imports below)

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from common.data import SensorSet, Target, read_dataset_a
from common.runs import Row, Run
from common.training import Progress, predict
from common.windows import Batch, Fold, make_fold, precompute

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
        name: name of the row.
        sensor_set: name of the sensor set that the network reads.
        projection: whether the network has the projection for distillation.
        needs: rows that have to be trained first, with the same subject held out.
    """
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    network = partial(
        KineticsMFFMNet,
        channels=tuple(channels[modality] for modality in modalities),
        targets=len(TARGETS),
        projection=projection,
    )
    return Row(name, sensor_set, network, needs)


def student_rows(sensor_set: str) -> list[Row]:
    """Return the rows of a student, without and with distillation."""
    return [
        table_row(f"student-{sensor_set}", sensor_set),
        table_row(f"distilled-{sensor_set}", sensor_set, projection=True, needs=("teacher",)),
    ]


ROWS = [
    table_row("teacher", TEACHER_SET, projection=True),
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


# Running ---------------------------------------------------------------------------------------


def train_and_test(row: Row, test_subject: str, run: Run) -> None:
    """Train one row of the table with one subject held out, and test it on that subject.

    The teacher and the students without distillation minimize `supervised_loss`; a distilled
    student minimizes `distillation_loss` against the outputs of the trained teacher.
    """
    args, samples = run.args, run.recording.samples
    signals = inputs(samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, WINDOW, args.protocol, args.seed)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    loss = supervised_loss
    if row.needs:  # distilled student: the teacher's outputs are computed once per fold
        teacher = run.load_network("teacher", test_subject)
        teacher_windows = fold.train.with_signals(inputs(samples, TEACHER_SET))
        fold.train.cached = precompute(teacher.features, teacher_windows)
        loss = distillation_loss(args.alpha, args.beta)
    progress = run.progress(row, test_subject)
    train(network, fold, loss, rmse, args.epochs, args, progress)
    run.record(row, fold, network, progress.history)


# Defaults on synthetic data; minutes of walking per subject
QUICK_LOOK = {
    "subjects": 8,
    "minutes": 0.35,
    "epochs": 4,
    "rows": ("student-foot", "student-foot_trunk"),
    "batch_size": 4,
}


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this script."""
    cli.add_weight(parser, "--alpha", ALPHA, "the RMSE against the teacher's output")
    cli.add_weight(parser, "--beta", BETA, "the RMSE against the teacher's feature")


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
        add_flags=add_weights,
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
