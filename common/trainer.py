"""Train, test and save one row on one fold."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import about, folds, runs, tables, training
from common.checkpoints import Checkpoint
from common.data import Recording
from common.experiments import Experiment, Study
from common.interruption import Keeper
from common.plan import Plan


class Trained(NamedTuple):
    """A model in its best epoch, the parameters it uses, its epochs, and a line about it."""

    model: nn.Module
    parameters: int
    history: list[training.Epoch]
    summary: str


@dataclass(frozen=True)
class Trainer:
    """Trains, tests and saves a row on a fold."""

    study: Study
    options: argparse.Namespace
    plan: Plan
    recording: Recording
    device: torch.device
    results: runs.Run
    show_progress: bool = True

    def run(self, row: str, subject: str, name: str) -> str:
        """Train and test a row on a fold and write its results; say in a line how it went.

        Raises:
            DivergedError: The training did not stay finite; its best epoch before is kept.
            InterruptedTrainingError: It was asked to stop; its state is kept.
        """
        experiment = self.study.experiment(row)
        fold = self._fold(subject)
        keeper = Keeper(self.results.unfinished(row, subject), self.options.save_every)
        if experiment.fit is None:
            trained = self._train(experiment, fold, name, keeper)
        else:
            trained = self._fit(experiment, fold)
        outcome = self._outcome(fold, self._predict(trained.model, experiment, fold.test))
        self.results.add(
            row,
            subject,
            self._checkpoint(experiment, subject, trained.model),
            outcome,
            pd.DataFrame(
                [{"row": row, "fold": subject, **epoch._asdict()} for epoch in trained.history]
            ),
            self._metrics(experiment, fold, trained.parameters, outcome),
            trained.summary,
        )
        keeper.forget()
        return trained.summary

    def _fold(self, subject: str) -> folds.Fold:
        options = self.options
        return folds.make_fold(
            self.recording, subject, self.study.window, options.protocol, options.seed
        )

    def _train(
        self, experiment: Experiment, fold: folds.Fold, name: str, keeper: Keeper
    ) -> Trained:
        predict, samples = self.study.predict(experiment.row), self.recording.samples
        torch.manual_seed(self.plan.settings.seed)
        model = experiment.model()
        one_window = training.batch_of(samples, fold.test[:1].to(self.device))
        one_window = {modality: values.cpu() for modality, values in one_window.items()}
        parameters = training.used_parameters(model, predict, one_window)
        model = model.to(self.device)
        try:
            history = training.train(
                model,
                samples,
                fold,
                loss=experiment.loss(self.options),
                predict=predict,
                criterion=experiment.criterion or self.study.criterion,
                settings=self.plan.settings_of(experiment.row),
                name=name,
                features=experiment.features,
                teaching=self._teaching(experiment, fold),
                keeper=keeper,
                show_progress=self.show_progress,
            )
        except training.DivergedError as error:
            if error.best_epoch:
                best = self._checkpoint(experiment, fold.test_subject, model)
                self.results.keep_diverged(experiment.row, fold.test_subject, best)
            keeper.forget()
            raise
        best = min(history, key=lambda epoch: epoch.validation_loss)
        summary = (
            f"best of {len(history)} epochs: {best.epoch}, validation loss "
            f"{best.validation_loss:.4f}, {sum(epoch.seconds for epoch in history):.0f} s"
        )
        return Trained(model, parameters, history, summary)

    def _fit(self, experiment: Experiment, fold: folds.Fold) -> Trained:
        """Make a row of the trained networks of others, whose parameters count together."""
        model, parameters = experiment.model(), 0
        for child, row in experiment.networks.items():
            self.results.load(row, fold.test_subject, model.get_submodule(child))
            parameters += self.results.parameters(row, fold.test_subject)
        model = model.to(self.device)
        part = experiment.fit.windows[self.options.protocol]
        windows = getattr(fold, part)
        scored = fold.scored if part == "test" else torch.ones_like(windows, dtype=torch.bool)

        def estimate(network: nn.Module) -> Tensor:
            return self._predict(network, experiment, windows)[scored.to(self.device)]

        experiment.fit.method(model, estimate)
        networks = " and ".join(experiment.networks.values())
        summary = f"fitted to the {part} predictions of {networks}"
        return Trained(model, parameters, [], summary)

    def _predict(self, model: nn.Module, experiment: Experiment, windows: Tensor) -> Tensor:
        return training.predict_windows(
            model,
            self.recording.samples,
            windows,
            self.study.predict(experiment.row),
            self.plan.settings.batch_size,
            experiment.features,
        )

    def _teaching(self, experiment: Experiment, fold: folds.Fold) -> training.Maker | None:
        if experiment.teacher is None:
            return None
        teacher = self.study.experiment(experiment.teacher).model()
        self.results.load(experiment.teacher, fold.test_subject, teacher)
        return experiment.teaching(teacher.to(self.device))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return about.settings(self.study, self.options, self.recording, self.plan, self.device)

    def _checkpoint(self, experiment: Experiment, subject: str, model: nn.Module) -> Checkpoint:
        described = about.checkpoint(self.study, experiment, subject, self._settings)
        return Checkpoint(model.state_dict(), described)

    def _outcome(self, fold: folds.Fold, prediction: Tensor) -> dict[str, np.ndarray]:
        """Return what `predictions/` holds: every scored row of the test subject, in order."""
        rows = fold.test[fold.scored]
        names = np.array([*self.recording.activities])
        return {
            "truth": self.recording.samples["targets"][rows.to(self.device)].cpu().numpy(),
            "prediction": prediction[fold.scored.to(self.device)].cpu().numpy(),
            "activity": names[self.recording.activity[rows]],
            "stretch": self.recording.stretch[rows],
            "target": np.array([target.name for target in self.study.targets]),
            "unit": np.array([target.unit for target in self.study.targets]),
        }

    def _metrics(
        self,
        experiment: Experiment,
        fold: folds.Fold,
        parameters: int,
        outcome: dict[str, np.ndarray],
    ) -> pd.DataFrame:
        shared = {
            "row": experiment.row,
            "sensor_set": experiment.sensor_set,
            "modalities": "+".join(self.study.sensor_sets[experiment.sensor_set].modalities),
            "parameters": parameters,
            "test_subject": fold.test_subject,
        }
        measured = [outcome[name] for name in ("truth", "prediction", "activity")]
        return tables.long_form(*measured, self.study.targets, shared)
