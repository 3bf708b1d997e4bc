"""Kinetics-FM networks on Dataset B (Tan et al. 2022): eight IMUs, 100 Hz.

The networks estimate the knee flexion and adduction moments and the ground reaction force of
the right leg in windows of 0.5 s.

Rows of the results table (baselines in the paper's Table IV):
    dlr_rmse-<set>           Kinetics-FM-Net trained for RMSE
    dlr_correlation-<set>    Kinetics-FM-Net trained for correlation
    dlr-<set>                Kinetics-FM-DLR-Net, a regression between these two networks
    dl-<set>                 DL-Kinetics-FM-Net, two networks and the layers that combine them
<set> is a sensor set, from both feet (`feet`) to all eight IMUs (`all_imus`).
Rows `dlr` and `dl` have about 77 million parameters each.

Models: KineticsFMNet, built from BiGRUTrunk, Conv1DEncoder and Conv2DEncoder;
KineticsFMDLRNet and DLKineticsFMNet, each built from two KineticsFMNets.
Training: `train_and_test` minimizes the RMSE or the correlation loss of all outputs of a network
(`branch_loss`), or both losses together for `dl` (`dual_loss`). `dlr` is not trained but fitted to
the predictions of its two networks (`fit_regression`).
Output: outputs/Dataset_B_kinetics_fm_models/<run>/ with config.json, history.csv,
metrics.csv, stances.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_b.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_B_kinetics_fm_models.py
    python Dataset_B_kinetics_fm_models.py --data data/dataset_b.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from common import cli  # isort: skip  (first, for Ctrl-C during the imports below)

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from warnings import warn

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.data import SensorSet, Target, read_dataset_b
from common.runs import Row, Run
from common.training import Progress, predict
from common.windows import Batch, Fold, make_fold

# Data and hyperparameters of the paper ---------------------------------------------------------

DATASET = "b"
RATE_HZ = 100
WINDOW = 50  # samples: 0.5 s
EPOCHS = 40  # at most
BATCH_SIZE = 64  # windows
PATIENCE = 10  # epochs without a lower validation loss
LEARNING_RATE = 1e-3
CORRELATION_EPOCHS = 55  # at most, for the correlation network of Kinetics-FM-DLR-Net
RMSE_DROPOUTS = (0.3, 0.3, 0.3)  # in the three recurrent trunks of the RMSE networks
DLR_CORRELATION_DROPOUTS = (0.25, 0.3, 0.3)  # in the trunks of Kinetics-FM-DLR-Net
DL_CORRELATION_DROPOUTS = (0.5, 0.5, 0.5)  # in the trunks of DL-Kinetics-FM-Net
CORRELATION_GATE_DROPOUT = 0.4
BIAS_PENALTY = 0.001  # weight of the sum of squared biases of the heads in the loss
# Windows to fit the regression of Kinetics-FM-DLR-Net to; it uses predictions, no measurements
FITTED_ON = {"paper": "test", "strict": "validation"}
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
COLUMNS = {  # of the file, by modality
    "acc": [f"Accel{axis}_{sensor}" for sensor in SENSORS for axis in "XYZ"],
    "gyr": [f"Gyro{axis}_{sensor}" for sensor in SENSORS for axis in "XYZ"],
    "video": [f"{joint}_{view}" for joint in JOINTS for view in VIEWS],
    "targets": ["EXT_KM_X", "EXT_KM_Y", "plate_2_force_x", "plate_2_force_z", "plate_2_force_y"],
    "body": ["body weight", "body height"],  # mass in kg (despite its name), height in m
}
UNITS = {"acc": "m/s²", "gyr": "deg/s", "video": "pixels / m"}  # after `convert`
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


def convert(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the modalities `(samples, C)` and the targets `(samples, K)` in their units.

    Video positions are relative to the mid-hip in the same view, in pixels per meter of body
    height. The file stores the force on the plate; the ground reaction force, which acts on the
    foot, has the opposite sign.

    Args:
        columns: `(samples, ...)` per entry of `COLUMNS`.
    """
    mass_kg, height_m = columns["body"][:, :1], columns["body"][:, 1:]
    first = COLUMNS["video"].index("MidHip_x_90")
    mid_hip = columns["video"][:, first : first + len(VIEWS)]
    moments, force_n = columns["targets"][:, :2], columns["targets"][:, 2:]
    return {
        "acc": columns["acc"],
        "gyr": columns["gyr"],
        "video": (columns["video"] - np.tile(mid_hip, len(JOINTS))) / height_m,
        "targets": np.hstack([moments, -force_n / (mass_kg * GRAVITY_M_S2)]),
    }


read = partial(read_dataset_b, columns=COLUMNS, convert=convert)
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


class BiGRUTrunk(nn.Module):
    """Encode a window with two BiGRU layers and flatten the features of all time steps.

    Source: Kinetics-FM-Net (Hossain et al. 2023), recurrent trunk, with the sizes of the baseline
    in Kinetics-MFFM-Net.

    Needs: nothing.

    Args:
        channels: number of channels, C.
        dropout: dropout probability after each BiGRU layer.
        hidden_sizes: units per direction of the first and the second BiGRU layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T * 2 * hidden_sizes[1])`.

    Example:
        >>> BiGRUTrunk(6, dropout=0.1)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 51200])
    """

    def __init__(
        self, channels: int, dropout: float, hidden_sizes: tuple[int, int] = (512, 256)
    ) -> None:
        super().__init__()
        first, second = hidden_sizes
        self.layers = nn.ModuleList(
            nn.GRU(size, hidden, batch_first=True, bidirectional=True)
            for size, hidden in ((channels, first), (2 * first, second))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, C)` as `(B, T * 2 * hidden_sizes[1])`."""
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return x.flatten(1)


class Conv1DEncoder(nn.Module):
    """Encode a window with 1D convolutions over time.

    Source: Kinetics-FM-Net (Hossain et al. 2023), 1D branch. Four blocks of convolution, ReLU,
    BatchNorm and max pooling are followed by two Linear layers with ReLU and dropout, applied to
    each of the remaining time steps.

    Needs: nothing.

    Args:
        channels: number of channels, C.
        maps: feature maps of each convolution; the pooling after it halves the time steps.
        hidden_sizes: units of the Linear layers.
        dropout: dropout probability after each Linear layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, steps * hidden_sizes[-1])`; four poolings leave `T // 16` time steps.

    Example:
        >>> Conv1DEncoder(6)(torch.zeros(2, 100, 6)).shape
        torch.Size([2, 192])
    """

    def __init__(
        self,
        channels: int,
        *,
        maps: tuple[int, ...] = (256, 256, 512, 512),
        hidden_sizes: tuple[int, ...] = (64, 32),
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, after, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.BatchNorm1d(after),
                nn.MaxPool1d(2),
            )
            for before, after in zip((channels, *maps[:-1]), maps, strict=True)
        )
        sizes = (maps[-1], *hidden_sizes)
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, C)` as `(B, steps * hidden_sizes[-1])`."""
        x = x.transpose(1, 2)  # (B, C, T)
        for block in self.blocks:
            x = block(x)
        x = x.transpose(1, 2)  # (B, steps, maps)
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x.flatten(1)


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


class KineticsFMOutputs(NamedTuple):
    """The outputs of a Kinetics-FM-Net, `(B, T, K)` each.

    Attributes:
        output: the gated sum of the branches.
        recurrent: the branch with a recurrent trunk only.
        conv1d: the branch with a recurrent trunk and 1D convolutions.
        conv2d: the branch with a recurrent trunk and 2D convolutions.
    """

    output: Tensor
    recurrent: Tensor
    conv1d: Tensor
    conv2d: Tensor


class KineticsFMNet(nn.Module):
    """Estimate the targets of a window as the gated sum of three branches.

    Source: Kinetics-FM-Net (Hossain et al. 2023). Each channel is normalized over batch and time
    (without learned scale and shift). Each branch has its own recurrent trunk; the second branch
    adds 1D convolutions, the third 2D convolutions. All branches share the gate
    `g(y) = sigmoid(Linear(ReLU(Linear(y))))`; the output is the sum of `g(y) * y` over the branch
    outputs y. Most parameters are in the heads of the branches, Linear layers from the features of
    all time steps to the targets of all time steps.

    Needs: BiGRUTrunk, Conv1DEncoder, Conv2DEncoder, KineticsFMOutputs, typing.NamedTuple

    Args:
        sensors: number of IMUs, S.
        targets: number of targets, K.
        window: samples per window, T, at least 16.
        trunk_dropouts: dropout probability in the recurrent trunk of each branch.
        gate_dropout: dropout probability inside the gate.
        hidden_sizes: units per direction of the first and the second layer of the trunks.

    Shape:
        Input: `(B, T, 6 * S)`: windows, samples in time, channels (acc xyz of all IMUs, then gyr
            xyz of all IMUs).
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> with torch.device("meta"):  # shapes only: 127 million parameters at window=100
        ...     model = KineticsFMNet(1, targets=7, window=20, trunk_dropouts=(0.1, 0.1, 0.1))
        ...     model(torch.zeros(2, 20, 6)).shape
        torch.Size([2, 20, 7])
    """

    def __init__(
        self,
        sensors: int,
        targets: int,
        window: int,
        *,
        trunk_dropouts: tuple[float, float, float],
        gate_dropout: float = 0.0,
        hidden_sizes: tuple[int, int] = (512, 256),
    ) -> None:
        super().__init__()
        channels = 6 * sensors
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.trunks = nn.ModuleList(
            BiGRUTrunk(channels, dropout, hidden_sizes) for dropout in trunk_dropouts
        )
        self.conv1d = Conv1DEncoder(channels)
        self.conv2d = Conv2DEncoder(sensors)
        trunk_size = window * 2 * hidden_sizes[1]
        conv_size = window // 16 * 32
        self.heads = nn.ModuleList(
            nn.Linear(size, window * targets)
            for size in (trunk_size, trunk_size + conv_size, trunk_size + conv_size)
        )
        self.gate = nn.Sequential(
            nn.Linear(targets, 128),
            nn.ReLU(),
            nn.Dropout(gate_dropout),
            nn.Linear(128, targets),
            nn.Sigmoid(),
        )
        self.window = window

    def branches(self, x: Tensor) -> KineticsFMOutputs:
        """Return the gated sum and the outputs of the three branches."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
        features = [trunk(x) for trunk in self.trunks]  # (B, T * 512) each
        features[1] = torch.cat([features[1], self.conv1d(x)], dim=1)
        features[2] = torch.cat([features[2], self.conv2d(x)], dim=1)
        outputs = [
            head(flat).unflatten(-1, (self.window, -1))  # (B, T, K)
            for head, flat in zip(self.heads, features, strict=True)
        ]
        return KineticsFMOutputs(sum(self.gate(y) * y for y in outputs), *outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, 6 * S)`."""
        return self.branches(x).output


class KineticsFMDLRNet(nn.Module):
    """Estimate the targets with a correlation network, rescaled to match an RMSE network.

    Source: Kinetics-FM-DLR-Net (Hossain et al. 2023). Two Kinetics-FM-Nets are trained separately:
    one with the RMSE loss, one with the correlation loss, which leaves the scale and offset of its
    output arbitrary. For each target, `fit` regresses the predictions of the RMSE network on those
    of the correlation network (ordinary least squares, no measured targets needed); the output is
    that line, applied to the prediction of the correlation network. If the correlation network
    predicts a constant for a target, the output is the mean of the RMSE network's predictions.

    Needs: BiGRUTrunk, Conv1DEncoder, Conv2DEncoder, KineticsFMOutputs, KineticsFMNet,
        typing.NamedTuple, warnings.warn

    Args:
        sensors: number of IMUs, S.
        targets: number of targets, K.
        window: samples per window, T, at least 16.
        rmse_dropouts: dropout probabilities in the three trunks of the RMSE network.
        correlation_dropouts: dropout probabilities in the three trunks of the correlation network.
        correlation_gate_dropout: dropout probability inside the gate of the correlation network.

    Shape:
        Input: `(B, T, 6 * S)`: windows, samples in time, channels (acc xyz of all IMUs, then gyr
            xyz of all IMUs).
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> with torch.device("meta"):  # shapes only: 254 million parameters at window=100
        ...     dropouts = {"rmse_dropouts": (0.1, 0.1, 0.1), "correlation_dropouts": (0.5,) * 3}
        ...     model = KineticsFMDLRNet(1, targets=7, window=20, **dropouts)
        ...     model(torch.zeros(2, 20, 6)).shape
        torch.Size([2, 20, 7])
    """

    def __init__(
        self,
        sensors: int,
        targets: int,
        window: int,
        *,
        rmse_dropouts: tuple[float, float, float],
        correlation_dropouts: tuple[float, float, float],
        correlation_gate_dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.rmse_net = KineticsFMNet(sensors, targets, window, trunk_dropouts=rmse_dropouts)
        self.correlation_net = KineticsFMNet(
            sensors,
            targets,
            window,
            trunk_dropouts=correlation_dropouts,
            gate_dropout=correlation_gate_dropout,
        )
        self.register_buffer("slope", torch.ones(targets, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(targets, dtype=torch.float64))

    def fit(self, rmse_prediction: Tensor, correlation_prediction: Tensor) -> None:
        """Fit the line of each target to the predictions of both networks.

        Warns of targets for which the correlation network predicts a constant.

        Args:
            rmse_prediction: predictions of the RMSE network, `(samples, K)`.
            correlation_prediction: predictions of the correlation network for the same samples,
                `(samples, K)`.
        """
        x, y = correlation_prediction.double(), rmse_prediction.double()
        constant = x.amax(dim=0) == x.amin(dim=0)
        if constant.any():
            numbers = ", ".join(str(k + 1) for k in constant.nonzero().flatten().tolist())
            warn(
                f"the correlation network predicts a constant for target {numbers}: "
                "its output is the mean of the RMSE network's predictions",
                RuntimeWarning,
                stacklevel=2,
            )
        deviation = x - x.mean(dim=0)  # two-pass: avoids cancellation
        slope = (deviation * (y - y.mean(dim=0))).sum(dim=0) / deviation.square().sum(dim=0)
        self.slope = slope.masked_fill(constant, 0.0)
        self.offset = y.mean(dim=0) - self.slope * x.mean(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, 6 * S)`."""
        prediction = self.correlation_net(x)
        return (self.slope * prediction + self.offset).to(prediction.dtype)


class DualGRU(nn.Module):
    """Compute one coefficient per time step and target from two predictions.

    Source: DL-Kinetics-FM-Net (Hossain et al. 2022), layers that compute its gain and its offset:
    one GRU per prediction, a GRU over the features of both, and a Linear layer. The GRUs have a
    single layer and run forward in time.

    Needs: nothing.

    Args:
        targets: number of targets, K.
        hidden_size: units of each GRU.

    Shape:
        Input: two predictions, `(B, T, K)` each: windows, samples in time, targets.
        Output: `(B, T, K)`, before the activation.

    Example:
        >>> rmse, correlation = torch.zeros(2, 100, 7), torch.zeros(2, 100, 7)
        >>> DualGRU(targets=7)(rmse, correlation).shape
        torch.Size([2, 100, 7])
    """

    def __init__(self, targets: int, hidden_size: int = 128) -> None:
        super().__init__()
        self.rmse_gru = nn.GRU(targets, hidden_size, batch_first=True)
        self.correlation_gru = nn.GRU(targets, hidden_size, batch_first=True)
        self.gru = nn.GRU(2 * hidden_size, hidden_size, batch_first=True)
        self.linear = nn.Linear(hidden_size, targets)

    def forward(self, rmse_prediction: Tensor, correlation_prediction: Tensor) -> Tensor:
        """Compute coefficients `(B, T, K)` from two predictions `(B, T, K)`."""
        rmse, _ = self.rmse_gru(rmse_prediction)
        correlation, _ = self.correlation_gru(correlation_prediction)
        return self.linear(self.gru(torch.cat([rmse, correlation], dim=-1))[0])


class DLKineticsFMOutputs(NamedTuple):
    """The outputs of a DL-Kinetics-FM-Net.

    Attributes:
        output: the final output, `(B, T, K)`.
        rmse: the outputs of the RMSE network.
        correlation: the outputs of the correlation network.
    """

    output: Tensor
    rmse: KineticsFMOutputs
    correlation: KineticsFMOutputs


class DLKineticsFMNet(nn.Module):
    """Estimate the targets with two Kinetics-FM-Nets and a learned combination of both.

    Source: DL-Kinetics-FM-Net (Hossain et al. 2022). An RMSE network, a correlation network and the
    layers that combine them are trained together. The output is that of the correlation network
    times a gain, `sigmoid(DualGRU)`, plus an offset, `relu(DualGRU)`; gain and offset are computed
    for each time step and target.

    Needs: BiGRUTrunk, Conv1DEncoder, Conv2DEncoder, KineticsFMOutputs, KineticsFMNet, DualGRU,
        DLKineticsFMOutputs, typing.NamedTuple

    Args:
        sensors: number of IMUs, S.
        targets: number of targets, K.
        window: samples per window, T, at least 16.
        rmse_dropouts: dropout probabilities in the three trunks of the RMSE network.
        correlation_dropouts: dropout probabilities in the three trunks of the correlation network.
        correlation_gate_dropout: dropout probability inside the gate of the correlation network.

    Shape:
        Input: `(B, T, 6 * S)`: windows, samples in time, channels (acc xyz of all IMUs, then gyr
            xyz of all IMUs).
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> with torch.device("meta"):  # shapes only: 254 million parameters at window=100
        ...     dropouts = {"rmse_dropouts": (0.1, 0.1, 0.1), "correlation_dropouts": (0.5,) * 3}
        ...     model = DLKineticsFMNet(1, targets=7, window=20, **dropouts)
        ...     model(torch.zeros(2, 20, 6)).shape
        torch.Size([2, 20, 7])
    """

    def __init__(
        self,
        sensors: int,
        targets: int,
        window: int,
        *,
        rmse_dropouts: tuple[float, float, float],
        correlation_dropouts: tuple[float, float, float],
        correlation_gate_dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.rmse_net = KineticsFMNet(sensors, targets, window, trunk_dropouts=rmse_dropouts)
        self.correlation_net = KineticsFMNet(
            sensors,
            targets,
            window,
            trunk_dropouts=correlation_dropouts,
            gate_dropout=correlation_gate_dropout,
        )
        self.gain = DualGRU(targets)
        self.offset = DualGRU(targets)

    def branches(self, x: Tensor) -> DLKineticsFMOutputs:
        """Return the final output and the outputs of both networks."""
        rmse, correlation = self.rmse_net.branches(x), self.correlation_net.branches(x)
        gain = torch.sigmoid(self.gain(rmse.output, correlation.output))
        offset = torch.relu(self.offset(rmse.output, correlation.output))
        return DLKineticsFMOutputs(correlation.output * gain + offset, rmse, correlation)

    def forward(self, x: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from `(B, T, 6 * S)`."""
        return self.branches(x).output


# Losses ----------------------------------------------------------------------------------------


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the RMSE over batch, time and targets; at zero error, its gradient is 0, not NaN."""
    error = prediction - target
    norm = torch.linalg.vector_norm(error, dtype=torch.float64)  # sums millions of squares
    return norm / math.sqrt(error.numel())


def correlation_loss(prediction: Tensor, target: Tensor, epsilon: float = 1e-10) -> Tensor:
    """Return 1 - Pearson's r of each target over batch and time, averaged over targets.

    Args:
        prediction: `(B, T, K)`.
        target: `(B, T, K)`.
        epsilon: added to the variances; keeps the gradient finite and the loss at 1 for a target
            whose prediction or measurement is constant.
    """
    x, y = (values.flatten(0, 1).double() for values in (prediction, target))  # (B * T, K)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    variances = [values.square().mean(dim=0) + epsilon for values in (x, y)]
    r = (x * y).mean(dim=0) / (variances[0] * variances[1]).sqrt()
    return (1 - r).mean()


def bias_penalty(network: nn.Module) -> Tensor:
    """Return the penalty on the biases of the three heads of a Kinetics-FM-Net."""
    return BIAS_PENALTY * sum(head.bias.square().sum() for head in network.heads)


def branch_loss(
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss of a Kinetics-FM-Net: `criterion` summed over its four outputs."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        outputs = network.branches(*batch.inputs)
        return sum(criterion(y, batch.targets) for y in outputs) + bias_penalty(network)

    return loss


def dual_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of a DL-Kinetics-FM-Net.

    It sums the RMSE of the final output, the RMSE of the four outputs of the RMSE network, the
    correlation loss of the four outputs of the correlation network, and the bias penalties.
    """
    outputs = network.branches(*batch.inputs)
    return (
        rmse(outputs.output, batch.targets)
        + sum(rmse(y, batch.targets) for y in outputs.rmse)
        + sum(correlation_loss(y, batch.targets) for y in outputs.correlation)
        + bias_penalty(network.rmse_net)
        + bias_penalty(network.correlation_net)
    )


# Rows of the table -----------------------------------------------------------------------------

IMU_SETS = (
    *("feet", "feet_pelvis", "feet_pelvis_shanks", "feet_pelvis_shanks_thighs"),
    "all_imus",
)


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the input of a network: all modalities concatenated in one tensor `(..., C)`."""
    return [torch.cat(select(samples, SENSOR_SETS[sensor_set]), dim=-1)]


def dlr_rows(sensor_set: str) -> list[Row]:
    """Return the rows of Kinetics-FM-DLR-Net: its two networks, then their regression."""
    sizes = len(SENSOR_SETS[sensor_set].sensors), len(TARGETS), WINDOW
    rmse_net = partial(KineticsFMNet, *sizes, trunk_dropouts=RMSE_DROPOUTS)
    correlation_net = partial(
        KineticsFMNet,
        *sizes,
        trunk_dropouts=DLR_CORRELATION_DROPOUTS,
        gate_dropout=CORRELATION_GATE_DROPOUT,
    )
    regression = partial(
        KineticsFMDLRNet,
        *sizes,
        rmse_dropouts=RMSE_DROPOUTS,
        correlation_dropouts=DLR_CORRELATION_DROPOUTS,
        correlation_gate_dropout=CORRELATION_GATE_DROPOUT,
    )
    networks = (f"dlr_rmse-{sensor_set}", f"dlr_correlation-{sensor_set}")
    return [
        Row(networks[0], sensor_set, rmse_net),
        Row(networks[1], sensor_set, correlation_net),
        Row(f"dlr-{sensor_set}", sensor_set, regression, needs=networks),
    ]


def dl_row(sensor_set: str) -> Row:
    """Return the row of DL-Kinetics-FM-Net."""
    network = partial(
        DLKineticsFMNet,
        *(len(SENSOR_SETS[sensor_set].sensors), len(TARGETS), WINDOW),
        rmse_dropouts=RMSE_DROPOUTS,
        correlation_dropouts=DL_CORRELATION_DROPOUTS,
        correlation_gate_dropout=CORRELATION_GATE_DROPOUT,
    )
    return Row(f"dl-{sensor_set}", sensor_set, network)


ROWS = [*(row for name in IMU_SETS for row in dlr_rows(name)), *map(dl_row, IMU_SETS)]

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

    Rows `dlr_rmse` and `dlr_correlation` minimize `branch_loss`, rows `dl` minimize `dual_loss`. A
    row `dlr` is not trained: `fit_regression` builds it from the two networks that it needs.
    """
    args = run.args
    signals = inputs(run.recording.samples, row.sensor_set)
    fold = make_fold(run.recording, signals, test_subject, WINDOW, args.protocol, args.seed)
    if row.name.startswith("dlr-"):
        fit_regression(row, fold, run)
        return
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    epochs, criterion, loss = args.epochs, rmse, dual_loss
    if row.name.startswith("dlr_rmse"):
        loss = branch_loss(rmse)
    elif row.name.startswith("dlr_correlation"):
        epochs, criterion = args.correlation_epochs, correlation_loss
        loss = branch_loss(correlation_loss)
    progress = run.progress(row, test_subject)
    train(network, fold, loss, criterion, epochs, args, progress)
    run.record(row, fold, network, progress.history)


def fit_regression(row: Row, fold: Fold, run: Run) -> None:
    """Assemble a Kinetics-FM-DLR-Net from its trained networks, fit its regression and test it."""
    network = row.network()
    for name, part in zip(row.needs, (network.rmse_net, network.correlation_net), strict=True):
        run.load_weights(name, fold.test_subject, part)
    network.to(run.device)
    fitted_on = FITTED_ON[run.args.protocol]
    windows = fold.test if fitted_on == "test" else fold.validation
    predictions = [
        predict(part, windows, run.args.batch_size)[windows.is_scored]
        for part in (network.rmse_net, network.correlation_net)
    ]
    network.fit(*predictions)
    run.record(
        row,
        fold,
        network,
        history=[],
        parameters=sum(run.used_parameters(name, fold.test_subject) for name in row.needs),
        summary=f"fitted to the {fitted_on} predictions of {' and '.join(row.needs)}",
    )


# Defaults on synthetic data; minutes of walking per subject
QUICK_LOOK = {
    "subjects": 6,
    "minutes": 0.4,
    "epochs": 3,
    "rows": ("dlr-feet", "dl-feet"),
}


def add_correlation_epochs(parser: argparse.ArgumentParser) -> None:
    """Add the flag of this script."""
    parser.add_argument(
        "--correlation-epochs",
        type=cli.positive_int,
        metavar="N",
        help="maximum number of epochs of the dlr_correlation rows (default: --epochs if given, "
        f"else {CORRELATION_EPOCHS})",
    )


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and test the selected rows on the selected folds; return the metrics."""
    args = cli.parse(
        __file__,
        __doc__,
        argv,
        dataset=DATASET,
        rows=[row.name for row in ROWS],
        epochs=None,
        batch_size=BATCH_SIZE,
        patience=PATIENCE,
        learning_rate=LEARNING_RATE,
        quick_look=QUICK_LOOK,
        add_flags=add_correlation_epochs,
    )
    args.correlation_epochs = args.correlation_epochs or args.epochs or CORRELATION_EPOCHS
    args.epochs = args.epochs or EPOCHS
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
