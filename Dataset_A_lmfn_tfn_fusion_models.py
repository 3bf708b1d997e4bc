"""Fusion models on Dataset A (Camargo et al. 2021): four IMUs and EMG, 200 Hz.

The networks estimate four joint moments and the ground reaction force of the right leg in
windows of 0.5 s.

Rows of the results table (baselines in the paper's Table II; here also with fewer sensors):
    lmfn-<set>    LMFN, low-rank multimodal fusion
    tfn-<set>     TFN, tensor fusion
Both fuse accelerometers, gyroscopes and, in `all_imus_emg`, EMG.
<set> is a sensor set, from the foot alone (`foot`) to all four IMUs (`all_imus`),
or `all_imus_emg`, which adds EMG.

Models: LMFN, built from NormedBiLSTM and LowRankFusion; TFN, built from NormedBiLSTM and
TensorFusion.
Training: `train_and_test` minimizes the RMSE against the measured targets (`supervised_loss`).
Output: outputs/Dataset_A_lmfn_tfn_fusion_models/<run>/ with config.json, history.csv,
metrics.csv, stances.csv, predictions/, checkpoints/ and figures/. For time and memory see
docs/speed.md.

The first command reads data/dataset_a.h5 or, if there is no such file, runs briefly on
synthetic data. The second holds out each subject in turn, as in the paper:

    python Dataset_A_lmfn_tfn_fusion_models.py
    python Dataset_A_lmfn_tfn_fusion_models.py --data data/dataset_a.h5 --test-subjects all

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
from torch.utils.checkpoint import checkpoint

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


class NormedBiLSTM(nn.Module):
    """Normalize one modality and encode it with a BiLSTM.

    Source: Kinetics-MFFM-Net, encoder of the fusion baselines. The normalization is over batch and
    time, without learned scale and shift.

    Needs: nothing.

    Args:
        channels: number of channels of the modality, C.
        hidden_size: units of the BiLSTM per direction.
        dropout: dropout probability after the BiLSTM.

    Shape:
        Input: `(B, T, C)`: windows, samples in time, channels.
        Output: `(B, T, 2 * hidden_size)`.

    Example:
        >>> NormedBiLSTM(12)(torch.zeros(2, 100, 12)).shape
        torch.Size([2, 100, 128])
    """

    def __init__(self, channels: int, hidden_size: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.lstm = nn.LSTM(channels, hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Encode `(B, T, C)` as `(B, T, 2 * hidden_size)`."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d expects (B, C, T)
        return self.dropout(self.lstm(x)[0])


class LowRankFusion(nn.Module):
    """Fuse the modalities at each time step with a low-rank weight tensor.

    Source: Liu et al. 2018, Efficient low-rank multimodal fusion, as used in Kinetics-MFFM-Net.
    With `z_m = [1; h_m]`, the output is `sum_r v_r * prod_m (z_m W_mr) + c`: a linear map of the
    outer product of all `z_m`, which is never formed. The factors W are initialized from a normal
    distribution with the standard deviation of Xavier initialization, times `gain`, for a fan-in of
    `(size + 1) * out_size` and a fan-out of `rank` times as much. The weights v are initialized
    with Xavier's normal distribution, the bias c with zeros.

    Needs: nothing.

    Args:
        modalities: number of modalities, M.
        size: number of features of each modality.
        out_size: number of features of the output.
        rank: number of factors of each modality, R.
        gain: scale of the initial factors; 10 gives a standard deviation of 0.0664 for the paper's
            sizes.

    Shape:
        Input: one `(B, T, size)` per modality: windows, samples in time, features.
        Output: `(B, T, out_size)`.

    Example:
        >>> acc, gyr = torch.zeros(3, 50, 128), torch.zeros(3, 50, 128)
        >>> LowRankFusion(modalities=2, size=128, out_size=32)(acc, gyr).shape
        torch.Size([3, 50, 32])
    """

    def __init__(
        self, modalities: int, size: int, out_size: int, *, rank: int = 10, gain: float = 10.0
    ) -> None:
        super().__init__()
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(rank, size + 1, out_size)) for _ in range(modalities)
        )
        self.rank_weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(out_size))
        fan = (size + 1) * out_size
        for factor in self.factors:
            nn.init.normal_(factor, std=gain * math.sqrt(2 / (fan + rank * fan)))
        nn.init.xavier_normal_(self.rank_weights)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Fuse one `(B, T, size)` per modality into `(B, T, out_size)`."""
        product = 1.0
        for x, factor in zip(modalities, self.factors, strict=True):
            z = F.pad(x, (1, 0), value=1.0)
            product = product * torch.einsum("bti,rio->btro", z, factor)
        return torch.einsum("r,btro->bto", self.rank_weights[0], product) + self.bias


class LMFN(nn.Module):
    """Estimate the targets at each time step with low-rank multimodal fusion.

    Source: Liu et al. 2018, Efficient low-rank multimodal fusion, as used in Kinetics-MFFM-Net.
    Each modality has its own encoder. LowRankFusion fuses the encoded modalities at each time step;
    a Linear layer with ReLU and the head, another Linear layer, follow.

    Needs: NormedBiLSTM, LowRankFusion

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        hidden_size: units of the encoders per direction.
        fused_size: number of features after the fusion.
        rank: rank of the fusion.
        dropout: dropout probability after each encoder.

    Shape:
        Input: one `(B, T, C)` per modality: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> acc, gyr = torch.zeros(2, 100, 3), torch.zeros(2, 100, 3)
        >>> LMFN(channels=(3, 3), targets=7)(acc, gyr).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        targets: int,
        *,
        hidden_size: int = 64,
        fused_size: int = 32,
        rank: int = 10,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            NormedBiLSTM(count, hidden_size, dropout) for count in channels
        )
        self.fusion = LowRankFusion(len(channels), 2 * hidden_size, fused_size, rank=rank)
        self.layer = nn.Linear(fused_size, fused_size)
        self.head = nn.Linear(fused_size, targets)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        if len(modalities) != len(self.encoders):
            shapes = ", ".join(f"(B, T, {e.norm.num_features})" for e in self.encoders)
            raise ValueError(f"{len(modalities)} modalities given, but the inputs are {shapes}")
        encoded = [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]
        return self.head(torch.relu(self.layer(self.fusion(*encoded))))


class TensorFusion(nn.Module):
    """Fuse the modalities at each time step with a Linear layer on their outer product.

    Source: Zadeh et al. 2017, Tensor fusion network, as used in Kinetics-MFFM-Net. With
    `z_m = [1; g_m]`, the outer product of all M modalities has `(size + 1) ** M` entries; the index
    of the first modality varies slowest. Dropout is applied to the product. To save memory, the
    product of all time steps is never formed at once. In training, it is formed for one chunk of
    time steps at a time and again in the backward pass; only the dropout mask is stored, with one
    byte per entry. In eval mode, the product of all modalities but the last is contracted with the
    weights of the Linear layer, and the result with the last modality.

    Needs: torch.utils.checkpoint.checkpoint

    Args:
        modalities: number of modalities, M.
        size: number of features of each modality.
        out_size: number of features of the output.
        dropout: dropout probability on the product.
        chunk: number of time steps to process at once.

    Shape:
        Input: one `(B, T, size)` per modality: windows, samples in time, features.
        Output: `(B, T, out_size)`.

    Example:
        >>> acc, gyr = torch.zeros(3, 50, 32), torch.zeros(3, 50, 32)
        >>> TensorFusion(modalities=2, size=32, out_size=128)(acc, gyr).shape
        torch.Size([3, 50, 128])
    """

    def __init__(
        self, modalities: int, size: int, out_size: int, *, dropout: float = 0.1, chunk: int = 512
    ) -> None:
        super().__init__()
        self.linear = nn.Linear((size + 1) ** modalities, out_size)
        self.dropout = dropout
        self.chunk = chunk

    def forward(self, *modalities: Tensor) -> Tensor:
        """Fuse one `(B, T, size)` per modality into `(B, T, out_size)`."""
        z = [F.pad(x, (1, 0), value=1.0).flatten(0, 1) for x in modalities]  # (B * T, size + 1)
        chunks = zip(*(values.split(self.chunk) for values in z), strict=True)
        if self.training:
            fused = [
                checkpoint(
                    self.build,
                    self.mask(chunk[0]),
                    *chunk,
                    use_reentrant=False,
                    preserve_rng_state=False,  # only the mask is random, and it is drawn here
                )
                for chunk in chunks
            ]
        else:
            fused = [self.contract(*chunk) for chunk in chunks]
        return torch.cat(fused).unflatten(0, modalities[0].shape[:2])

    def mask(self, rows: Tensor) -> Tensor:
        """Draw the dropout mask of the product, `(n, in_features)`, for `rows`, `(n, size + 1)`."""
        kept = torch.empty(len(rows), self.linear.in_features, dtype=torch.bool, device=rows.device)
        return kept.bernoulli_(1 - self.dropout)

    def build(self, kept: Tensor, *z: Tensor) -> Tensor:
        """Fuse n time steps, `(n, size + 1)` per modality, with dropout: `(n, out_size)`."""
        scaled = z[0] / (1 - self.dropout)  # equivalent to scaling the product, but cheaper
        return self.linear(self.product(scaled, *z[1:]) * kept)

    def contract(self, *z: Tensor) -> Tensor:
        """Fuse n time steps without dropout and without forming the full product."""
        product, last = self.product(*z[:-1]), z[-1]
        weight = self.linear.weight.unflatten(1, (-1, last.shape[1]))  # (out, product, last)
        contracted = torch.einsum("np,opl->nol", product, weight)
        return torch.einsum("nol,nl->no", contracted, last) + self.linear.bias

    @staticmethod
    def product(*z: Tensor) -> Tensor:
        """Return the flattened outer product at each time step; the first modality is slowest."""
        product = z[0]
        for values in z[1:]:
            product = (product.unsqueeze(2) * values.unsqueeze(1)).flatten(1)
        return product


class TFN(nn.Module):
    """Estimate the targets at each time step with tensor fusion.

    Source: Zadeh et al. 2017, Tensor fusion network, as used in Kinetics-MFFM-Net. Each modality
    has its own encoder and a Linear layer that reduces its features, to keep the outer product
    small. TensorFusion with ReLU fuses the modalities at each time step; a Linear layer with ReLU
    and the head, another Linear layer, follow.

    Needs: NormedBiLSTM, TensorFusion, torch.utils.checkpoint.checkpoint

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        hidden_size: units of the encoders per direction.
        size: number of features of each modality in the product.
        fused_size: number of features after the fusion.
        dropout: dropout probability after each encoder and on the product.
        chunk: number of time steps that the fusion processes at once.

    Shape:
        Input: one `(B, T, C)` per modality: windows, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> acc, gyr = torch.zeros(2, 100, 3), torch.zeros(2, 100, 3)
        >>> TFN(channels=(3, 3), targets=7)(acc, gyr).shape
        torch.Size([2, 100, 7])
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        targets: int,
        *,
        hidden_size: int = 64,
        size: int = 32,
        fused_size: int = 128,
        dropout: float = 0.1,
        chunk: int = 512,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            NormedBiLSTM(count, hidden_size, dropout) for count in channels
        )
        self.projections = nn.ModuleList(nn.Linear(2 * hidden_size, size) for _ in channels)
        self.fusion = TensorFusion(len(channels), size, fused_size, dropout=dropout, chunk=chunk)
        self.layer = nn.Linear(fused_size, fused_size)
        self.head = nn.Linear(fused_size, targets)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        if len(modalities) != len(self.encoders):
            shapes = ", ".join(f"(B, T, {e.norm.num_features})" for e in self.encoders)
            raise ValueError(f"{len(modalities)} modalities given, but the inputs are {shapes}")
        projected = [
            projection(encoder(x))
            for x, encoder, projection in zip(
                modalities, self.encoders, self.projections, strict=True
            )
        ]
        return self.head(torch.relu(self.layer(torch.relu(self.fusion(*projected)))))


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
NETWORKS = {"lmfn": LMFN, "tfn": TFN}


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the inputs of a network: one tensor `(..., C)` per modality."""
    return select(samples, SENSOR_SETS[sensor_set])


def table_row(model: str, sensor_set: str) -> Row:
    """Return the row of the table for a model and a sensor set."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    network = partial(
        NETWORKS[model],
        tuple(channels[modality] for modality in modalities),
        len(TARGETS),
    )
    return Row(f"{model}-{sensor_set}", sensor_set, network)


ROWS = [table_row(model, name) for model in NETWORKS for name in (*IMU_SETS, FULL_SET)]

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
    "minutes": 0.4,
    "epochs": 7,
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
