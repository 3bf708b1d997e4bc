"""Baselines on Dataset B (Tan et al. 2022): eight IMUs and two videos at 100 Hz.

Estimates the knee flexion and adduction moments and the ground reaction force of the right leg
from windows of 0.5 s.
Rows of the table: features of a window and a feed-forward network (FFN HF), a feed-forward network
over the samples (FFN), Bi-LSTM, LSTM and a 2D convolution, each for every set of IMUs; all but the
last also with video.

Models: HandcraftedFFN, FFN, BiLSTM, Conv2DNet.
Time and memory of a fold: see the README.
Writes outputs/Dataset_B_ffn_hf_ffn_bilstm_convnet/<run>/: config.json, history.csv,
metrics.csv, predictions/, checkpoints/, figures/.

    python Dataset_B_ffn_hf_ffn_bilstm_convnet.py
    python Dataset_B_ffn_hf_ffn_bilstm_convnet.py --data data/dataset_b.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import cli, plots
from common.data import Columns, Recording, SensorSet, Target, read_dataset_b
from common.runs import QuickLook, Row, Run
from common.training import Criterion, Epoch, Loss, Progress, accelerate, predict
from common.windows import Batch, Windows, make_fold, precompute

# What the paper fixes --------------------------------------------------------------------------

DATASET = "b"
RATE_HZ = 100
WINDOW = 50  # samples, 0.5 s
EPOCHS = 40
LEARNING_RATE = 3e-4  # of the published baseline scripts; the paper's text says 1e-3
GRAVITY_M_S2 = 9.8  # for body weights; the moments of the dataset were computed with 9.81

SENSORS = ("CHEST", "WAIST", "R_FOOT", "R_SHANK", "R_THIGH", "L_FOOT", "L_SHANK", "L_THIGH")
JOINTS = (
    *("LShoulder", "RShoulder", "MidHip", "RHip", "LHip"),
    *("RKnee", "LKnee", "RAnkle", "LAnkle", "RHeel", "LHeel"),
)
VIEWS = ("x_90", "x_180", "y_90", "y_180")  # axis and camera: from the side and from behind
FEET = ("R_FOOT", "L_FOOT")
SHANKS = ("R_SHANK", "L_SHANK")
THIGHS = ("R_THIGH", "L_THIGH")
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
    """Return the columns of the file that the inputs of a sensor set are computed from."""
    imus = [
        f"{kind}{axis}_{sensor}"
        for kind in ("Accel", "Gyro")
        for sensor in sensor_set.sensors
        for axis in "XYZ"
    ]
    video = [*(f"{joint}_{view}" for joint in JOINTS for view in VIEWS), "body height"]
    return [*imus, *(video if "video" in sensor_set.modalities else ())]


def prepare(columns: Columns) -> dict[str, np.ndarray]:
    """Return the modalities `(samples, C)` - acc in m/s², gyr in deg/s, video - and the targets.

    Video is relative to the middle of the hips in the same view, in pixels per meter of height.
    The file holds the force on the plate; the force on the foot has the opposite sign.
    """
    mid_hip = columns[[f"MidHip_{view}" for view in VIEWS]]
    joints = columns[[f"{joint}_{view}" for joint in JOINTS for view in VIEWS]]
    weight_n = columns["body weight"] * GRAVITY_M_S2  # "body weight" is the mass in kg
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
    """Return one tensor `(..., C)` per modality of a sensor set, three channels per IMU."""
    imus = [SENSORS.index(sensor) for sensor in sensor_set.sensors]
    return [
        torch.cat([samples[modality][..., 3 * i : 3 * i + 3] for i in imus], dim=-1)
        if modality in ("acc", "gyr")
        else samples[modality]
        for modality in sensor_set.modalities
    ]


# Models ----------------------------------------------------------------------------------------


class HandcraftedFFN(nn.Module):
    """Estimate the targets of a window from 15 handcrafted features of each channel.

    Source: Kinetics-MFFM-Net, baseline FFN (HF). Features are normed over the batch (no learned
    scale), three Linear layers with ReLU and dropout follow, and one Linear gives all time steps.
    A training batch of a single window has no spread of its own, which the source leaves open: it
    is normed by the running statistics.

    Needs: nothing.

    Args:
        channels: C. targets: K. window: T, in samples.
        hidden_sizes: Units of the Linear layers.
        dropout: After each of them.

    Shape:
        `(B, T, C)`, or the features `(B, 15 * C)` made of it beforehand, to `(B, T, K)`.

    Example:
        >>> model, acc_and_gyr = HandcraftedFFN(6, targets=7, window=100), torch.zeros(2, 100, 6)
        >>> model(acc_and_gyr).shape
        torch.Size([2, 100, 7])
        >>> torch.equal(model.eval()(acc_and_gyr), model(model.features(acc_and_gyr)))
        True
    """

    def __init__(
        self,
        channels: int,
        targets: int,
        window: int,
        *,
        hidden_sizes: tuple[int, ...] = (512, 256, 128),
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(15 * channels, affine=False)
        sizes = (15 * channels, *hidden_sizes)
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sizes[-1], window * targets)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from windows `(B, T, C)` or their features `(B, 15 * C)`."""
        features = self.features(x) if x.dim() == 3 else x
        if self.training and len(features) == 1:  # no spread of its own
            x = F.batch_norm(features, self.norm.running_mean, self.norm.running_var)
        else:
            x = self.norm(features)
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return self.head(x).unflatten(-1, (self.window, -1))  # (B, T, K)

    @staticmethod
    def features(x: Tensor) -> Tensor:
        """Describe each channel of `(B, T, C)` by 15 numbers, channel by channel: `(B, 15 * C)`.

        Of the samples `x` and the steps between them `d`, with `d_0 = 0`: mean, RMS, minimum,
        maximum, mean |x|, SD, mean |d|, mean d, median d, median |d|, interquartile range, median,
        variance, median |x - median|, mean |x - mean|. SD and variance divide by T.
        """

        def quantile(ordered: Tensor, fraction: float) -> Tensor:
            position = fraction * (ordered.shape[-1] - 1)
            below, above = math.floor(position), math.ceil(position)
            return torch.lerp(ordered[..., below], ordered[..., above], position - below)

        def median_distance(ordered: Tensor, centre: Tensor) -> Tensor:
            # The nearest n of sorted values are neighbours: of all n neighbours, those whose
            # farther end is nearest. That spares sorting the distances.
            distances = []
            for n in (length // 2 + 1, (length + 1) // 2):  # the middle two, or the middle twice
                first, last = ordered[..., : length - n + 1], ordered[..., n - 1 :]
                reach = torch.maximum(centre - first, last - centre)
                distances.append(reach.amin(dim=-1))
            return (distances[0] + distances[1]) / 2

        x = x.transpose(1, 2)  # (B, C, T)
        length = x.shape[-1]
        d = F.pad(x.diff(dim=-1), (1, 0))
        ordered, ordered_d = x.sort(dim=-1).values.double(), d.sort(dim=-1).values.double()
        x, d = x.double(), d.double()  # keeps the digits of small differences
        mean, median = x.mean(dim=-1, keepdim=True), quantile(ordered, 0.5)
        deviation = x - mean
        variance = deviation.square().mean(dim=-1)
        features = [
            mean.squeeze(-1),
            x.square().mean(dim=-1).sqrt(),
            ordered[..., 0],
            ordered[..., -1],
            x.abs().mean(dim=-1),
            variance.sqrt(),
            d.abs().mean(dim=-1),
            d.mean(dim=-1),
            quantile(ordered_d, 0.5),
            median_distance(ordered_d, torch.zeros_like(mean)),
            quantile(ordered, 0.75) - quantile(ordered, 0.25),
            median,
            variance,
            median_distance(ordered, median.unsqueeze(-1)),
            deviation.abs().mean(dim=-1),
        ]
        return torch.stack(features, dim=-1).flatten(1).float()


class FFN(nn.Module):
    """Estimate the targets of a window by a feed-forward network over its time steps.

    Source: Kinetics-MFFM-Net, baseline FFN. The input is normed over batch and time (no learned
    scale); the same three Linear layers with ReLU and dropout serve every time step; one Linear
    over all of them gives all time steps.

    Needs: nothing.

    Args:
        channels: C. targets: K. window: T, in samples.
        hidden_sizes: Units of the Linear layers.
        dropout: After each of them.

    Shape:
        `(B, T, C)` to `(B, T, K)`.

    Example:
        >>> FFN(6, targets=7, window=100)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: int,
        targets: int,
        window: int,
        *,
        hidden_sizes: tuple[int, ...] = (512, 256, 128),
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        sizes = (channels, *hidden_sizes)
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(window * sizes[-1], window * targets)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, C)`."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d takes (B, C, T)
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return self.head(x.flatten(1)).unflatten(-1, (self.window, -1))  # (B, T, K)


class BiLSTM(nn.Module):
    """Estimate the targets of a window by two recurrent layers over time.

    Source: Kinetics-MFFM-Net, baseline Bi-LSTM. The input is normed over batch and time (no
    learned scale); one Linear over all time steps of the second layer gives all time steps. The
    paper names the network bidirectional and gives the size of the one that is not: both are here.

    Needs: nothing.

    Args:
        channels: C. targets: K. window: T, in samples.
        hidden_sizes: Units per direction of the first and the second recurrent layer.
        dropout: After each recurrent layer.
        bidirectional: Whether to read the window backwards as well.

    Shape:
        `(B, T, C)` to `(B, T, K)`.

    Example:
        >>> BiLSTM(6, targets=7, window=100)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: int,
        targets: int,
        window: int,
        *,
        hidden_sizes: tuple[int, int] = (512, 256),
        dropout: float = 0.4,
        bidirectional: bool = True,
    ) -> None:
        super().__init__()
        first, second = hidden_sizes
        directions = 2 if bidirectional else 1
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.layers = nn.ModuleList(
            nn.LSTM(size, hidden, batch_first=True, bidirectional=bidirectional)
            for size, hidden in ((channels, first), (directions * first, second))
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(window * directions * second, window * targets)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, C)`."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d takes (B, C, T)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return self.head(x.flatten(1)).unflatten(-1, (self.window, -1))  # (B, T, K)


class Conv2DEncoder(nn.Module):
    """Encode a window by convolutions over the signals and the time of each IMU.

    Source: Kinetics-MFFM-Net, baseline 2D convolution, and Kinetics-FM-Net (Hossain et al. 2023),
    2D branch. A plane is one IMU: its six signals, acc xyz and gyr xyz, are the height, time is
    the width. Four blocks of convolution, ReLU, BatchNorm and max pooling, then two Linear layers
    with ReLU and dropout at each time step that is left.

    Needs: nothing.

    Args:
        sensors: IMUs, S.
        maps: Feature maps of the convolutions.
        pools: Heights and widths of the pooling; heights reduce the six signals to one.
        hidden_sizes: Units of the Linear layers. dropout: After each of them.

    Shape:
        `(B, T, 6 * S)`, acc xyz of all IMUs and then gyr xyz of all IMUs, to
        `(B, steps * hidden_sizes[-1])`, with `T // 16` steps left of `T`.

    Example:
        >>> Conv2DEncoder(sensors=1)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 192])
    """

    def __init__(
        self,
        sensors: int,
        *,
        maps: tuple[int, ...] = (256, 256, 512, 512),
        pools: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (1, 2), (1, 2)),
        hidden_sizes: tuple[int, ...] = (64, 32),
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=(3, 5), padding=(1, 2)),
                nn.ReLU(),
                nn.BatchNorm2d(after),
                nn.MaxPool2d(pool),
            )
            for before, after, pool in zip((sensors, *maps[:-1]), maps, pools, strict=True)
        )
        sizes = (maps[-1], *hidden_sizes)
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)

    def planes(self, x: Tensor) -> Tensor:
        """Lay `(B, T, 6 * S)` out as `(B, S, 6, T)`: per IMU its acc xyz and then its gyr xyz."""
        x = x.unflatten(-1, (2, -1, 3))  # (B, T, kind, S, axis)
        return x.permute(0, 3, 2, 4, 1).flatten(2, 3)  # (B, S, 6, T)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, 6 * S)` as `(B, steps * hidden_sizes[-1])`."""
        x = self.planes(x)
        for block in self.blocks:
            x = block(x)
        x = x.squeeze(2).transpose(1, 2)  # (B, steps, maps): the height is 1
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x.flatten(1)


class Conv2DNet(nn.Module):
    """Estimate the targets of a window by convolutions over the signals and the time of each IMU.

    Source: Kinetics-MFFM-Net, baseline 2D convolution. The input is normed per channel over batch
    and time (no learned scale) and encoded by Conv2DEncoder; one Linear over the time steps that
    it leaves gives all time steps.

    Needs: Conv2DEncoder

    Args:
        sensors: IMUs, S. targets: K. window: T, in samples, at least 16.
        dropout: Of the encoder.

    Shape:
        `(B, T, 6 * S)`, acc xyz of all IMUs and then gyr xyz of all IMUs, to `(B, T, K)`.

    Example:
        >>> Conv2DNet(sensors=1, targets=7, window=100)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 100, 7])
    """

    def __init__(self, sensors: int, targets: int, window: int, *, dropout: float = 0.05) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6 * sensors, affine=False)
        self.encoder = Conv2DEncoder(sensors, dropout=dropout)
        self.head = nn.Linear(window // 16 * 32, window * targets)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, 6 * S)`."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d takes (B, C, T)
        return self.head(self.encoder(x)).unflatten(-1, (self.window, -1))  # (B, T, K)


# Losses ----------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error over batch, time and targets; its gradient at 0 is 0."""
    error = prediction - target
    norm = torch.linalg.vector_norm(error, dtype=torch.float64)  # of millions of values, too
    return norm / math.sqrt(error.numel())


def supervised_loss(network: nn.Module, batch: Batch) -> Tensor:
    """RMSE between the prediction and the measured targets."""
    return rmse(network(*batch.inputs), batch.targets)


# Rows of the table -----------------------------------------------------------------------------

IMU_SETS = (
    *("feet", "feet_pelvis", "feet_pelvis_shanks", "feet_pelvis_shanks_thighs"),
    "all_imus",
)
FULL_SET = "all_imus_video"
NETWORKS = {
    "ffn_hf": HandcraftedFFN,
    "ffn": FFN,
    "bilstm": BiLSTM,
    "lstm": partial(BiLSTM, bidirectional=False),
}


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the input of a network: the modalities side by side, one tensor `(..., C)`."""
    return [torch.cat(select(samples, SENSOR_SETS[sensor_set]), dim=-1)]


def table_row(model: str, sensor_set: str) -> Row:
    """Return the row of a model and a sensor set."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "video": 4 * len(JOINTS)}
    if model == "conv2d":
        network = partial(Conv2DNet, len(sensors), len(TARGETS), WINDOW)
    else:
        total = sum(channels[modality] for modality in modalities)
        network = partial(NETWORKS[model], total, len(TARGETS), WINDOW)
    return Row(f"{model}-{sensor_set}", sensor_set, network)


ROWS = [
    *(table_row(model, name) for model in NETWORKS for name in (*IMU_SETS, FULL_SET)),
    *(table_row("conv2d", name) for name in IMU_SETS),
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
        network: the network, on its device.
        windows: training windows.
        validation: validation windows.
        loss: minimized over batches.
        criterion: of all validation predictions and targets; early stopping watches it.
        epochs: maximum number of epochs.
        args: `seed`, `learning_rate`, `batch_size`, `patience` (in epochs) and `faster`.
        progress: counts epochs, saves the state of the training and resumes from it.

    Raises:
        DivergedError: The validation loss is not finite.
    """
    torch.manual_seed(args.seed)  # dropout; the shuffling has a generator of its own
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
    """Train and test one row of the table with one subject held out."""
    args = run.args
    signals = inputs(run.recording.samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, WINDOW, args.protocol, args.seed)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    if row.name.startswith("ffn_hf"):  # its features are computed once per window
        for windows in (fold.train, fold.validation, fold.test):
            windows.inputs = precompute(network.features, windows)
    progress = run.progress(row, test_subject)
    epochs = args.epochs or EPOCHS
    history = train(
        network, fold.train, fold.validation, supervised_loss, rmse, epochs, args, progress
    )
    run.record(row, fold, network, history)


# Stands in for a missing data file
QUICK_LOOK = QuickLook(subjects=8, minutes=0.4, epochs=5)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and test the rows on the folds that the flags choose; return the metrics."""
    script = sys.modules[__name__]
    args = cli.parse(script, cli.script_parser(script), argv)
    with Run(script, args) as run:
        run.each(train_and_test)
        return run.report(plots.comparison_figures)


if __name__ == "__main__":
    cli.run_main(main)
