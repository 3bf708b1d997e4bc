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

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import cli, plots
from common.data import Columns, Recording, SensorSet, Target, read_dataset_a
from common.runs import QuickLook, Row, Run
from common.training import Criterion, Epoch, Loss, Progress, accelerate, predict
from common.windows import Batch, Windows, make_fold

# What the paper fixes --------------------------------------------------------------------------

DATASET = "a"
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
TARGET_COLUMNS = (
    *("hip_flexion_r_moment", "hip_adduction_r_moment"),
    *("knee_angle_r_moment", "ankle_angle_r_moment"),
    *("right_vx", "right_vy", "right_vz"),
)
TARGETS = (  # moments over body weight x height, forces over body weight
    Target("hip flexion moment", "BW·BH"),
    Target("hip adduction moment", "BW·BH"),
    Target("knee moment", "BW·BH"),
    Target("ankle moment", "BW·BH"),
    Target("GRF x", "BW"),
    Target("GRF y", "BW"),  # vertical
    Target("GRF z", "BW"),
)


def column_names(sensor_set: SensorSet) -> list[str]:
    """Return the columns of the file that the inputs of a sensor set are computed from."""
    imus = [
        f"{sensor}_{kind}_{axis}"
        for kind in ("Accel", "Gyro")
        for sensor in sensor_set.sensors
        for axis in "XYZ"
    ]
    return [*imus, *(MUSCLES if "emg" in sensor_set.modalities else ())]


def prepare(columns: Columns) -> dict[str, np.ndarray]:
    """Return the modalities `(samples, C)` - acc in m/s², gyr in rad/s, EMG - and the targets."""
    return {
        "acc": columns[[f"{sensor}_Accel_{axis}" for sensor in SENSORS for axis in "XYZ"]],
        "gyr": columns[[f"{sensor}_Gyro_{axis}" for sensor in SENSORS for axis in "XYZ"]],
        "emg": columns[list(MUSCLES)],
        "targets": columns[list(TARGET_COLUMNS)],
    }


def read(path: Path) -> Recording:
    """Read the HDF5 file."""
    return read_dataset_a(path, prepare)


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


def supervised_loss(network: nn.Module, batch: Batch) -> Tensor:
    """RMSE between the prediction and the measured targets."""
    return rmse(network(*batch.inputs), batch.targets)


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


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the inputs of a network: one tensor `(..., C)` per modality."""
    return select(samples, SENSOR_SETS[sensor_set])


def table_row(name: str, sensor_set: str) -> Row:
    """Return the row of a network."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    sizes = tuple(channels[modality] for modality in modalities)
    network = partial(AblationNet, sizes, len(TARGETS), **NETWORKS[name])
    return Row(name, sensor_set, network)


ROWS = [table_row(name, FULL_SET) for name in NETWORKS]

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
    progress = run.progress(row, test_subject)
    epochs = args.epochs or EPOCHS
    history = train(
        network, fold.train, fold.validation, supervised_loss, rmse, epochs, args, progress
    )
    run.record(row, fold, network, history)


# Stands in for a missing data file
QUICK_LOOK = QuickLook(subjects=6, minutes=0.35, epochs=8, rows=tuple(TABLE_I))


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and test the rows on the folds that the flags choose; return the metrics."""
    script = sys.modules[__name__]
    args = cli.parse(script, cli.script_parser(script), argv)
    with Run(script, args) as run:
        run.each(train_and_test)
        return run.report(plots.ablation_figures)


if __name__ == "__main__":
    cli.run_main(main)
