"""Train a trained network further, with the training and the loss of its script."""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from common.files import InputError
from common.metrics import score
from common.training import Progress, predict
from common.windows import Batch, Fold, Windows
from tools.benchmark.training import choose_losses
from tools.predict.prediction import blend, overlapping_windows, predict_stretches
from tools.trained import Trained

Loss = Callable[[nn.Module, Batch], Tensor]
Criterion = Callable[[Tensor, Tensor], Tensor]
NEVER_S = float("inf")  # between two saves: training takes seconds to minutes


def tune(
    trained: Trained, fold: Fold, args: argparse.Namespace, is_head_only: bool
) -> tuple[nn.Module, int]:
    """Return a network that was trained further, and its best epoch, 0 for the network as it was.

    The statistics of batch normalization stay those of the first training: a few steps of one
    person are too little to estimate them.

    Args:
        trained: the network, which is not changed.
        fold: windows or sequences for training and early stopping.
        args: the flags of the script's `train`, and `epochs`.
        is_head_only: whether only the last layer is trained.

    Raises:
        InputError: The network cannot be trained, or has no layer `head`.
    """
    network = copy.deepcopy(trained.network).requires_grad_(not is_head_only)
    if is_head_only:
        if not isinstance(getattr(network, "head", None), nn.Module):
            raise InputError(f"--head-only: {trained.row.name} has no layer `head`; omit the flag")
        network.head.requires_grad_()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"{trained.row.name} has no weights to train; use another row")
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train = lambda mode=True, module=module: module  # stays in eval mode
    loss, criterion = _losses(trained, fold)
    if not args.epochs:
        return network, 0
    before = float(
        criterion(predict(network, fold.validation, args.batch_size), fold.validation.targets)
    )
    with TemporaryDirectory() as folder:
        progress = Progress(trained.row.name, Path(folder) / "state", NEVER_S)
        trained.script.train(network, fold, loss, criterion, args.epochs, args, progress)
    best = min(epoch.validation_loss for epoch in progress.history)
    return (network, progress.best_epoch) if best < before else (trained.network, 0)


def _losses(trained: Trained, fold: Fold) -> tuple[Loss, Criterion]:
    """Return the loss and the validation loss of a row, without its teacher, if it had one."""
    script, row = trained.script, trained.row
    is_stream = trained.lookahead is not None
    if is_stream:
        fold.train.cached = (fold.train.is_scored,)
        scored = {"is_scored": fold.validation.is_scored, "lookahead": trained.lookahead}
        loss, criterion = script.streaming_loss, partial(script.delayed_rmse, **scored)
    elif "distilled" in row.name:
        loss, criterion = script.supervised_loss, script.rmse
    elif (losses := choose_losses(script, row)) is None:
        raise InputError(f"{row.name} is not trained itself; use another row")
    else:
        loss, criterion = losses
    if not re.search("balanced|augmented", row.name):
        return loss, criterion
    sd = fold.train.targets[fold.train.is_scored].std(dim=0)
    sd = torch.where(sd > 0, sd, 1)

    def balanced_loss(network: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of outputs and targets in SDs of the targets."""

        def scaled(*inputs: Tensor) -> Tensor:
            return network(*inputs) / sd

        scaled.lookahead = trained.lookahead
        return loss(scaled, batch._replace(targets=batch.targets / sd))

    return balanced_loss, lambda estimates, targets: criterion(estimates / sd, targets / sd)


def nrmse_percent(
    trained: Trained, signals: list[Tensor], targets: Tensor, stretch: np.ndarray
) -> np.ndarray | None:
    """Return the NRMSE of each target, `(K,)`; None if nothing can be estimated.

    Args:
        trained: the network.
        signals: its inputs, `(samples, C)` each.
        targets: `(samples, K)`.
        stretch: `(samples,)` number of the stretch; -1 for samples that are not tested.
    """
    if trained.lookahead is None:
        windows = overlapping_windows(stretch, trained.script.WINDOW, trained.script.WINDOW // 2)
        if not len(windows):
            return None
        prediction = blend(trained, Windows(signals, signals[0], windows))
    else:
        prediction = predict_stretches(trained, signals, stretch)
    is_estimated = np.isfinite(prediction).all(axis=1) & (stretch >= 0)
    if not is_estimated.any():
        return None
    names = [target.name for target in trained.script.TARGETS]
    truth = targets.cpu().numpy()[is_estimated]
    return score(truth, prediction[is_estimated], names)["nrmse_percent"]
