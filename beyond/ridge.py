"""Ridge regression on lagged samples: how far a linear filter gets, as a baseline for networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from common.files import InputError

PENALTIES = tuple(10.0**exponent for exponent in range(0, 7))


class LaggedRegression(nn.Module):
    """Estimate targets as weighted sums of samples before and after, with the same weights always.

    Source: linear regression on lagged samples; not in the paper. At the ends of a window, its
    first or last sample is repeated.

    Needs: nothing.

    Args:
        channels: number of channels of each modality.
        targets: number of targets, K.
        lags: number of samples that each estimate reads, an odd number.
        step: distance between these samples, in samples.

    Shape:
        Input: one `(B, T, C)` per modality: windows of any length, samples in time, channels.
        Output: `(B, T, K)`, in the units of the targets.

    Example:
        >>> network = LaggedRegression(channels=(3, 3), targets=7, lags=11, step=4)
        >>> acc, gyr = torch.zeros(2, 100, 3), torch.zeros(2, 100, 3)
        >>> network(acc, gyr).shape
        torch.Size([2, 100, 7])
    """

    def __init__(self, channels: tuple[int, ...], targets: int, *, lags: int, step: int) -> None:
        super().__init__()
        self.margin = lags // 2 * step
        self.filter = nn.Conv1d(sum(channels), targets, lags, dilation=step)

    def forward(self, *modalities: Tensor) -> Tensor:
        """Estimate `(B, T, K)` from one `(B, T, C)` per modality."""
        x = torch.cat(modalities, dim=-1).transpose(1, 2)
        x = nn.functional.pad(x, (self.margin, self.margin), mode="replicate")
        return self.filter(x).transpose(1, 2)


def fit_ridge(
    network: LaggedRegression,
    signals: Sequence[Tensor],
    targets: Tensor,
    stretch: np.ndarray,
    subject: np.ndarray,
) -> float:
    """Fit the weights of `network`; return the penalty, chosen by leaving one subject out.

    Args:
        network: the regression.
        signals: `(n, C)` per modality, of the training subjects.
        targets: `(n, K)`.
        stretch: `(n,)` number of the stretch of each sample; the samples of one are adjacent.
        subject: `(n,)` subject of each sample.

    Raises:
        InputError: There is only one training subject.
    """
    if len(np.unique(subject)) < 2:
        raise InputError("ridge regression needs three subjects: one to test, two to train")
    lags, step = network.filter.kernel_size[0], network.filter.dilation[0]
    _, first, counts = np.unique(stretch, return_index=True, return_counts=True)
    start, stop = np.repeat(first, counts)[:, None], np.repeat(first + counts, counts)[:, None]
    lagged = np.arange(len(stretch))[:, None] + step * (np.arange(lags) - lags // 2)
    lagged = lagged.clip(start, stop - 1)
    x = torch.cat([*signals], dim=-1).cpu().double().numpy()[lagged].reshape(len(stretch), -1)
    y = targets.cpu().double().numpy()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": PENALTIES},
        cv=LeaveOneGroupOut(),
        scoring="neg_root_mean_squared_error",
    )
    sd = y.std(axis=0)
    scaler, ridge = search.fit(x, y / sd, groups=subject).best_estimator_
    weight = ridge.coef_ * sd[:, None] / scaler.scale_
    bias = ridge.intercept_ * sd - weight @ scaler.mean_
    with torch.no_grad():
        weight = torch.from_numpy(weight).unflatten(1, (lags, -1)).transpose(1, 2)
        network.filter.weight.copy_(weight)
        network.filter.bias.copy_(torch.from_numpy(bias))
    return search.best_params_["ridge__alpha"]
