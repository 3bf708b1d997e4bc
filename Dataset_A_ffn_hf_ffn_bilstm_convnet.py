"""Baselines on Dataset A (Camargo et al. 2021): four IMUs and EMG, 200 Hz.

The networks estimate four joint moments and the ground reaction force of the right leg in
windows of 0.5 s.

Rows of the results table (baselines in the paper's Tables II and III):
    ffn_hf-<set>    FFN (HF), a feed-forward network on 15 handcrafted features per channel
    ffn-<set>       FFN, a feed-forward network on the signals
    bilstm-<set>    Bi-LSTM
    lstm-<set>      LSTM, the unidirectional network whose size the paper states for Bi-LSTM
    conv2d-<set>    2D convolution, for IMUs only
<set> is a sensor set, from the foot alone (`foot`) to all four IMUs (`all_imus`),
or `all_imus_emg`, which adds EMG.

Models: HandcraftedFFN, FFN, BiLSTM, and Conv2DNet with its Conv2DEncoder.
Training: `train_and_test` minimizes the RMSE against the measured targets (`supervised_loss`).
Output: outputs/Dataset_A_ffn_hf_ffn_bilstm_convnet/<run>/ with config.json, history.csv,
metrics.csv, stances.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_a.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_A_ffn_hf_ffn_bilstm_convnet.py
    python Dataset_A_ffn_hf_ffn_bilstm_convnet.py --data data/dataset_a.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from common import cli  # isort: skip  (first, for Ctrl-C during the imports below)

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
import torch.nn.functional as F
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
LEARNING_RATE = 3e-4  # as in the published baseline scripts; the paper's text says 1e-3

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


class HandcraftedFFN(nn.Module):
    """Estimate the targets of a window from 15 handcrafted features of each channel.

    Source: Kinetics-MFFM-Net, baseline FFN (HF). The features are normalized over the batch
    (without learned scale and shift) and pass three Linear layers with ReLU and dropout; a last
    Linear layer outputs all time steps at once. The source does not say how to train on a batch of
    one window, whose variance is undefined: here, the running statistics normalize it.

    Needs: nothing.

    Args:
        channels: number of channels, C.
        targets: number of targets, K.
        window: samples per window, T.
        hidden_sizes: units of the Linear layers.
        dropout: dropout probability after each Linear layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels; or the precomputed features of the
            windows, `(B, 15 * C)`.
        Output: `(B, T, K)`, in the units of the targets.

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
        if self.training and len(features) == 1:  # its variance is undefined
            x = F.batch_norm(features, self.norm.running_mean, self.norm.running_var)
        else:
            x = self.norm(features)
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return self.head(x).unflatten(-1, (self.window, -1))  # (B, T, K)

    @staticmethod
    def features(x: Tensor) -> Tensor:
        """Compute 15 features of each channel: `(B, T, C)` to `(B, 15 * C)`, channel by channel.

        With the samples x and their differences d (`d_t = x_t - x_{t-1}`, `d_0 = 0`), the features
        are: mean, RMS, minimum, maximum, mean |x|, SD, mean |d|, mean d, median d, median |d|,
        interquartile range, median, variance, median |x - median| and mean |x - mean|. SD and
        variance are those of a population (divided by T).
        """

        def quantile(ordered: Tensor, fraction: float) -> Tensor:
            position = fraction * (ordered.shape[-1] - 1)
            below, above = math.floor(position), math.ceil(position)
            return torch.lerp(ordered[..., below], ordered[..., above], position - below)

        def median_distance(ordered: Tensor, center: Tensor) -> Tensor:
            # The median of |ordered - center| without sorting the distances: the n values closest
            # to the center are consecutive in `ordered`. Of all groups of n consecutive values,
            # it is the one whose farther end is closest, at the n-th smallest distance.
            distances = []
            for n in (length // 2 + 1, (length + 1) // 2):  # both middle ranks; equal if T is odd
                first, last = ordered[..., : length - n + 1], ordered[..., n - 1 :]
                reach = torch.maximum(center - first, last - center)
                distances.append(reach.amin(dim=-1))
            return (distances[0] + distances[1]) / 2

        x = x.transpose(1, 2)  # (B, C, T)
        length = x.shape[-1]
        d = F.pad(x.diff(dim=-1), (1, 0))
        ordered, ordered_d = x.sort(dim=-1).values.double(), d.sort(dim=-1).values.double()
        x, d = x.double(), d.double()  # float64 for precision in small differences
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
    """Estimate the targets of a window with a feed-forward network.

    Source: Kinetics-MFFM-Net, baseline FFN. The input is normalized over batch and time (without
    learned scale and shift). Three Linear layers with ReLU and dropout are applied to every time
    step, with the same weights; a last Linear layer maps the features of all time steps to the
    targets of all time steps.

    Needs: nothing.

    Args:
        channels: number of channels, C.
        targets: number of targets, K.
        window: samples per window, T.
        hidden_sizes: units of the Linear layers.
        dropout: dropout probability after each Linear layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

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
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return self.head(x.flatten(1)).unflatten(-1, (self.window, -1))  # (B, T, K)


class BiLSTM(nn.Module):
    """Estimate the targets of a window with two LSTM layers.

    Source: Kinetics-MFFM-Net, baseline Bi-LSTM. The input is normalized over batch and time
    (without learned scale and shift); after the LSTM layers, a Linear layer maps the features of
    all time steps to the targets of all time steps. The paper calls the network bidirectional but
    states the size of a unidirectional one; `bidirectional` selects either.

    Needs: nothing.

    Args:
        channels: number of channels, C.
        targets: number of targets, K.
        window: samples per window, T.
        hidden_sizes: units per direction of the first and the second LSTM layer.
        dropout: dropout probability after each LSTM layer.
        bidirectional: whether the layers also read the window backward in time.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

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
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return self.head(x.flatten(1)).unflatten(-1, (self.window, -1))  # (B, T, K)


class Conv2DEncoder(nn.Module):
    """Encode a window with 2D convolutions over the signals and the time of each IMU.

    Source: Kinetics-MFFM-Net, baseline 2D convolution, and Kinetics-FM-Net (Hossain et al. 2023),
    2D branch. Each IMU is one input plane, whose height is its six signals (acc xyz, gyr xyz) and
    whose width is time. Four blocks of convolution, ReLU, BatchNorm and max pooling are followed by
    two Linear layers with ReLU and dropout, applied to each of the remaining time steps.

    Needs: nothing.

    Args:
        sensors: number of IMUs, S.
        maps: feature maps of each convolution.
        pools: height and width of each max pooling; the heights must reduce the six signals to one.
        hidden_sizes: units of the Linear layers.
        dropout: dropout probability after each Linear layer.

    Shape:
        Input: `(B, T, 6 * S)`: windows, samples in time, channels (acc xyz of all IMUs, then gyr
            xyz of all IMUs).
        Output: `(B, steps * hidden_sizes[-1])`; the default pooling leaves `T // 16` time steps.

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
        """Rearrange `(B, T, 6 * S)` to `(B, S, 6, T)`: for each IMU acc xyz, then gyr xyz."""
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
    """Estimate the targets of a window with 2D convolutions over the signals and time of each IMU.

    Source: Kinetics-MFFM-Net, baseline 2D convolution. Each channel is normalized over batch and
    time (without learned scale and shift), Conv2DEncoder encodes the window, and a Linear layer
    maps the encoded time steps to the targets of all time steps.

    Needs: Conv2DEncoder

    Args:
        sensors: number of IMUs, S.
        targets: number of targets, K.
        window: samples per window, T, at least 16.
        dropout: dropout probability after each Linear layer of the encoder.

    Shape:
        Input: `(B, T, 6 * S)`: windows, samples in time, channels (acc xyz of all IMUs, then gyr
            xyz of all IMUs).
        Output: `(B, T, K)`, in the units of the targets.

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
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
        return self.head(self.encoder(x)).unflatten(-1, (self.window, -1))  # (B, T, K)


# Losses ----------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the RMSE over batch, time and targets; at zero error, its gradient is 0, not NaN."""
    error = prediction - target
    norm = torch.linalg.vector_norm(error, dtype=torch.float64)  # sums millions of squares
    return norm / math.sqrt(error.numel())


def supervised_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the RMSE of the prediction against the measured targets."""
    return rmse(network(*batch.inputs), batch.targets)


# Rows of the table -----------------------------------------------------------------------------

IMU_SETS = ("foot", "foot_trunk", "foot_shank_trunk", "all_imus")
FULL_SET = "all_imus_emg"
NETWORKS = {
    "ffn_hf": HandcraftedFFN,
    "ffn": FFN,
    "bilstm": BiLSTM,
    "lstm": partial(BiLSTM, bidirectional=False),
}


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the input of a network: all modalities concatenated in one tensor `(..., C)`."""
    return [torch.cat(select(samples, SENSOR_SETS[sensor_set]), dim=-1)]


def table_row(model: str, sensor_set: str) -> Row:
    """Return the row of the table for a model and a sensor set."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
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

    All rows minimize `supervised_loss`.
    """
    args = run.args
    signals = inputs(run.recording.samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, WINDOW, args.protocol, args.seed)
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    if row.name.startswith("ffn_hf"):  # compute the features once, not in every epoch
        for windows in (fold.train, fold.validation, fold.test):
            windows.inputs = precompute(network.features, windows)
    progress = run.progress(row, test_subject)
    train(network, fold, supervised_loss, rmse, args.epochs, args, progress)
    run.record(row, fold, network, progress.history)


# Defaults on synthetic data; minutes of walking per subject
QUICK_LOOK = {
    "subjects": 6,
    "minutes": 0.35,
    "epochs": 4,
}


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
