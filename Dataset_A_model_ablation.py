"""Ablation of Kinetics-MFFM-Net on Dataset A (Camargo et al. 2021): four IMUs and EMG, 200 Hz.

The networks estimate four joint moments and the ground reaction force of the right leg in
windows of 0.5 s.

Rows of the results table (the first seven are the paper's Table I):
    early_lstm, early_gru      early fusion: a single BiLSTM or BiGRU encoder reads all channels
    concat_lstm, concat_gru    one encoder per modality, features concatenated
    mffm_lstm, mffm_gru        one encoder per modality, features fused by MFFM
    mffm_gated                 the full network, with gated dual encoders
    <branches>_lstm            some branches of MFFM (maf, mwff, mwfs), without its gate
    <branches>_gate_lstm       some branches of MFFM, with its gate
All rows read all IMUs and EMG.

Models: AblationNet, built from RecurrentEncoder or GatedDualEncoder, and MFFM.
Training: `train_and_test` minimizes the RMSE against the measured targets (`supervised_loss`).
Output: outputs/Dataset_A_model_ablation/<run>/ with config.json, history.csv,
metrics.csv, stances.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_a.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_A_model_ablation.py
    python Dataset_A_model_ablation.py --data data/dataset_a.h5 --test-subjects all

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
from torch import Tensor, nn

from common.data import SensorSet, Target, read_dataset_a
from common.runs import Row, Run
from common.training import Progress, predict
from common.windows import Batch, Fold, make_fold

# Data and hyperparameters of the paper ---------------------------------------------------------

DATASET = "a"
RATE_HZ = 200
WINDOW = 100  # samples: 0.5 s
EPOCHS = 40  # at most
BATCH_SIZE = 64  # windows
PATIENCE = 10  # epochs without a lower validation loss
LEARNING_RATE = 1e-3

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


class RecurrentEncoder(nn.Module):
    """Encode one modality with a BiLSTM or a BiGRU.

    Source: Kinetics-MFFM-Net, ablation (Table I): one of the two encoders in GatedDualEncoder.

    Needs: nothing.

    Args:
        channels: number of channels of the modality, C.
        kind: `lstm` or `gru`.
        hidden_sizes: units per direction of the first and the second recurrent layer.
        dropout: dropout probability after each recurrent layer.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T, 2 * hidden_sizes[1])`.

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


class AblationNet(nn.Module):
    """Estimate the targets with Kinetics-MFFM-Net or a variant that lacks some of its blocks.

    Source: Kinetics-MFFM-Net, ablation (Table I). The default is the network of the
    sensor-distillation scripts without its projection for distillation. The published ablation
    rows also differ in dropout and number of epochs; here, they differ only in their blocks.

    Needs: RecurrentEncoder, GatedDualEncoder, MFFM

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        encoder: `lstm`, `gru` or `gated` (both, mixed by a gate).
        early_fusion: whether one encoder reads all channels; otherwise each modality has its own.
        branches: branches of MFFM, any of `maf`, `mwff` and `mwfs`; empty for plain concatenation.
        gated: whether MFFM has its gate.
        hidden_sizes: units per direction of the first and the second layer of the encoders.
        dropout: dropout probability after each recurrent layer.
        heads: number of attention heads.

    Shape:
        Input: one `(B, T, C)` per modality: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

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
        self.channels, self.early_fusion = channels, early_fusion
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
        if len(modalities) != len(self.channels):
            shapes = ", ".join(f"(B, T, {count})" for count in self.channels)
            raise ValueError(f"{len(modalities)} modalities given, but the inputs are {shapes}")
        groups = (torch.cat(modalities, dim=-1),) if self.early_fusion else modalities
        encoded = [
            encoder(norm(x.transpose(1, 2)).transpose(1, 2))  # BatchNorm1d expects (B, C, T)
            for x, norm, encoder in zip(groups, self.norms, self.encoders, strict=True)
        ]
        return self.head(self.fusion(torch.cat(encoded, dim=-1)))


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

FULL_SET = "all_imus_emg"
EARLY = {"early_fusion": True, "branches": ()}
CONCAT = {"branches": ()}
TABLE_I = {  # the rows of the paper's Table I, in its order
    "early_lstm": {"encoder": "lstm", **EARLY},
    "early_gru": {"encoder": "gru", **EARLY},
    "concat_lstm": {"encoder": "lstm", **CONCAT},
    "concat_gru": {"encoder": "gru", **CONCAT},
    "mffm_lstm": {"encoder": "lstm"},
    "mffm_gru": {"encoder": "gru"},
    "mffm_gated": {},  # the full Kinetics-MFFM-Net
}
SUBSETS = {  # other subsets of MFFM's branches, without and with its gate
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
    """Return the row of the table for a network of `NETWORKS`."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    sizes = tuple(channels[modality] for modality in modalities)
    network = partial(AblationNet, sizes, len(TARGETS), **NETWORKS[name])
    return Row(name, sensor_set, network)


ROWS = [table_row(name, FULL_SET) for name in NETWORKS]

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
    progress = run.progress(row, test_subject)
    train(network, fold, supervised_loss, rmse, args.epochs, args, progress)
    run.record(row, fold, network, progress.history)


# Defaults on synthetic data; minutes of walking per subject
QUICK_LOOK = {
    "subjects": 6,
    "minutes": 0.35,
    "epochs": 8,
    "rows": tuple(TABLE_I),
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
