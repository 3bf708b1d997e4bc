"""Fusion models on Dataset B (Tan et al. 2022): eight IMUs and two videos at 100 Hz.

Estimates the knee flexion and adduction moments and the ground reaction force of the right leg
from windows of 0.5 s.
Rows of the table: low-rank fusion (LMFN) and tensor fusion (TFN) of accelerometers and gyroscopes,
each for every set of IMUs, and of these with video.

Models: LMFN, of NormedBiLSTM and LowRankFusion; TFN, of NormedBiLSTM and TensorFusion.
Time and memory of a fold: see the README.
Writes outputs/Dataset_B_lmfn_tfn_fusion_models/<run>/: config.json, history.csv,
metrics.csv, predictions/, checkpoints/, figures/.

    python Dataset_B_lmfn_tfn_fusion_models.py
    python Dataset_B_lmfn_tfn_fusion_models.py --data data/dataset_b.h5 --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common import flags, plots, study
from common.data import read_dataset_b
from common.experiments import Experiment, Sample, SensorSet, Study, Target
from common.hdf5 import Columns
from common.training import Batch, Loss

# What the paper fixes --------------------------------------------------------------------------

RATE_HZ = 100
WINDOW = 50  # samples, 0.5 s
EPOCHS = 40
LEARNING_RATE = 1e-3
GRAVITY_MS2 = 9.8  # makes a body weight of a mass; the dataset's moments were made with 9.81

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


def prepare(columns: Columns) -> dict[str, np.ndarray]:
    """Make the modalities, `(rows, C)`: acc in m/s², gyr in deg/s, video; and targets.

    Video is relative to the middle of the hips in the same view, in pixels per metre of height.
    The plate's force is the one on the plate: the one on the foot has the other sign.
    """
    middle = columns[[f"MidHip_{view}" for view in VIEWS]]
    joints = columns[[f"{joint}_{view}" for joint in JOINTS for view in VIEWS]]
    weight_n = columns["body weight"] * GRAVITY_MS2  # "body weight" is a mass in kg
    force_n = columns[[f"plate_2_force_{axis}" for axis in "xzy"]]
    return {
        "acc": columns[[f"Accel{axis}_{s}" for s in SENSORS for axis in "XYZ"]],
        "gyr": columns[[f"Gyro{axis}_{s}" for s in SENSORS for axis in "XYZ"]],
        "video": (joints - np.tile(middle, len(JOINTS))) / columns["body height"],
        "targets": np.hstack([columns[["EXT_KM_X", "EXT_KM_Y"]], -force_n / weight_n]),
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


class NormedBiLSTM(nn.Module):
    """Norm one modality over batch and time (no learned scale), and encode it by a BiLSTM.

    Source: Kinetics-MFFM-Net, encoder of the fusion baselines.

    Needs: nothing.

    Args:
        channels: Of the modality.
        hidden_size: Units per direction.
        dropout: After the recurrent layer.

    Shape:
        `(B, T, channels)` to `(B, T, 2 * hidden_size)`.

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
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d takes (B, C, T)
        return self.dropout(self.lstm(x)[0])


class LowRankFusion(nn.Module):
    """Fuse modalities by their outer product, with a weight tensor that is a sum of R factors.

    Source: Liu et al. 2018, Efficient low-rank multimodal fusion, as used in Kinetics-MFFM-Net.
    With `z_m = [1; h_m]` the output is `sum_r v_r * prod_m (z_m W_mr) + c`. Factors are born
    normal with the deviation of Xavier over a fan of `(size + 1) * out_size` in and R times that
    out; `v` is Xavier-normal, `c` is 0.

    Needs: nothing.

    Args:
        modalities: Their number, M. size: Features of each. out_size: Features of the output.
        rank: R. gain: Of the factors' deviation; 10 makes it 0.0664 in the paper's sizes.

    Shape:
        One `(B, T, size)` per modality to `(B, T, out_size)`.

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
    """Estimate the targets at each time step by low-rank fusion of encoded modalities.

    Source: Liu et al. 2018, Efficient low-rank multimodal fusion, as used in Kinetics-MFFM-Net.
    Each modality has an encoder; they are fused at each time step; a Linear with ReLU and the
    head follow.

    Needs: NormedBiLSTM, LowRankFusion

    Args:
        channels: Of each modality. targets: K.
        hidden_size: Units per direction of the encoders. fused_size: Features after the fusion.
        rank: Of the fusion. dropout: After each encoder.

    Shape:
        One `(B, T, C)` per modality to `(B, T, K)`.

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
        encoded = [encoder(x) for encoder, x in zip(self.encoders, modalities, strict=True)]
        return self.head(torch.relu(self.layer(self.fusion(*encoded))))


class TensorFusion(nn.Module):
    """Apply dropout and a Linear to the outer product of modalities, at each time step.

    Source: Zadeh et al. 2017, Tensor fusion network, as used in Kinetics-MFFM-Net. With
    `z_m = [1; g_m]` the product of M modalities has `(size + 1) ** M` entries, those of the first
    modality slowest. It never stands in memory for all time steps at once. In training it is built
    for a chunk of them, and once more in the backward pass; of a chunk, only the dropout mask is
    kept, at one byte per entry. In eval mode the product of all modalities but the last meets the
    Linear's weights, and the last modality what comes of that.

    Needs: torch.utils.checkpoint.checkpoint

    Args:
        modalities: Their number, M. size: Features of each. out_size: Features of the output.
        dropout: On the product. chunk: Time steps that are worked on at once.

    Shape:
        One `(B, T, size)` per modality to `(B, T, out_size)`.

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
        chunks = zip(*(rows.split(self.chunk) for rows in z), strict=True)
        if self.training:
            fused = [
                checkpoint(
                    self.build,
                    self.mask(rows[0]),
                    *rows,
                    use_reentrant=False,
                    preserve_rng_state=False,  # the mask is all that is random
                )
                for rows in chunks
            ]
        else:
            fused = [self.contract(*rows) for rows in chunks]
        return torch.cat(fused).unflatten(0, modalities[0].shape[:2])

    def mask(self, rows: Tensor) -> Tensor:
        """Draw which entries of the product of some `rows` are kept."""
        kept = torch.empty(len(rows), self.linear.in_features, dtype=torch.bool, device=rows.device)
        return kept.bernoulli_(1 - self.dropout)

    def build(self, kept: Tensor, *z: Tensor) -> Tensor:
        """Build the product of `(rows, size + 1)` each, with dropout: `(rows, out_size)`."""
        scaled = z[0] / (1 - self.dropout)  # as good as scaling the product, and small
        return self.linear(self.product(scaled, *z[1:]) * kept)

    def contract(self, *z: Tensor) -> Tensor:
        """Give what `build` gives without dropout, the product short of the last modality."""
        product, last = self.product(*z[:-1]), z[-1]
        weight = self.linear.weight.unflatten(1, (-1, last.shape[1]))  # (out, product, last)
        partial = torch.einsum("np,opl->nol", product, weight)
        return torch.einsum("nol,nl->no", partial, last) + self.linear.bias

    @staticmethod
    def product(*z: Tensor) -> Tensor:
        """Give the outer product of each row, flat, the first modality slowest."""
        product = z[0]
        for rows in z[1:]:
            product = (product.unsqueeze(2) * rows.unsqueeze(1)).flatten(1)
        return product


class TFN(nn.Module):
    """Estimate the targets at each time step by the outer product of encoded modalities.

    Source: Zadeh et al. 2017, Tensor fusion network, as used in Kinetics-MFFM-Net. Each modality
    has an encoder and a Linear to a size whose outer product can be afforded; they are fused at
    each time step; a Linear with ReLU and the head follow.

    Needs: NormedBiLSTM, TensorFusion, torch.utils.checkpoint.checkpoint

    Args:
        channels: Of each modality. targets: K.
        hidden_size: Units per direction of the encoders. size: Features of each modality in the
            product. fused_size: Features after the fusion.
        dropout: After each encoder, and on the product. chunk: Time steps that the fusion works on
            at once.

    Shape:
        One `(B, T, C)` per modality to `(B, T, K)`.

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
        projected = [
            projection(encoder(x))
            for x, encoder, projection in zip(
                modalities, self.encoders, self.projections, strict=True
            )
        ]
        return self.head(torch.relu(self.layer(torch.relu(self.fusion(*projected)))))


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


# Rows of the table -----------------------------------------------------------------------------

IMU_SETS = (
    *("feet", "feet_pelvis", "feet_pelvis_shanks", "feet_pelvis_shanks_thighs"),
    "all_imus",
)
FULL_SET = "all_imus_video"
NETWORKS = {"lmfn": LMFN, "tfn": TFN}


def network(model: str, sensor_set: str) -> partial[LMFN | TFN]:
    """Return the network of a row, to be built."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    channels = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "video": 4 * len(JOINTS)}
    sizes = tuple(channels[modality] for modality in modalities)
    return partial(NETWORKS[model], sizes, len(TARGETS))


def model_row(model: str, sensor_set: str) -> Experiment:
    """Return the row of a model and a sensor set."""
    return Experiment(
        f"{model}-{sensor_set}",
        sensor_set,
        model=network(model, sensor_set),
        loss=lambda options: supervised_loss(sensor_set),
    )


EXPERIMENTS = [model_row(model, name) for model in NETWORKS for name in (*IMU_SETS, FULL_SET)]

STUDY = Study(
    script=Path(__file__),
    dataset="b",
    read=partial(read_dataset_b, prepare=prepare),
    window=WINDOW,
    rate_hz=RATE_HZ,
    epochs=EPOCHS,
    sensor_sets=SENSOR_SETS,
    targets=TARGETS,
    inputs=inputs,
    criterion=rmse,
    experiments=EXPERIMENTS,
    figures=plots.comparison_figures,
    sample=Sample(subjects=10, minutes=0.45, epochs=7),
)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Run the rows on the folds that `argv` asks for; return the metrics in long form."""
    parser = flags.parser(
        __doc__,
        dataset="b",
        rows=[experiment.row for experiment in EXPERIMENTS],
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
    )
    return study.run(STUDY, parser.parse_args(argv))


if __name__ == "__main__":
    study.start(main)
