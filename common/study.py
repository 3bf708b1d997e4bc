"""Run a script's study: every chosen row on every chosen fold, into one run's folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common import about, flags, folds, runs, tables, training
from common.data import Recording
from common.experiments import Experiment, Setup, Study
from common.files import InputError
from common.plan import Plan, make_plan
from common.sample import write_sample


def run(study: Study, options: argparse.Namespace) -> pd.DataFrame:
    """Train and test the chosen rows on the chosen folds; return the run's metrics in long form.

    Raises:
        InputError: Flags or data that cannot be used; no result has been written then.
    """
    flags.choose_rows(options.rows, study.rows)  # complains before any work
    device = flags.choose_device(options.device)
    folder = runs.run_folder(options.output_dir, study.script, options.run_name)
    path, is_sample = _data_file(study, options)
    plan = make_plan(study, options, is_sample)
    recording = study.read(path)
    folds.check(recording, study.window, options.protocol)
    test_subjects = folds.find_subjects(recording, options.test_subjects)
    results = runs.Run(
        folder,
        about.settings(study, options, recording, plan, device),
        about.circumstances(study, options, device),
    )
    print(about.introduction(study, options, recording, plan, device))
    print(f"Run: {folder}\n", flush=True)
    torch.backends.cudnn.allow_tf32 = False  # it rounds the recurrent layers' products to 10 bits
    trainer = _Trainer(study, options, plan, recording.to(device), device, results)
    for i, subject in enumerate(test_subjects):
        fold = folds.make_fold(recording, subject, study.window, options.protocol, options.seed)
        for j, row in enumerate(plan.rows):
            place = f"[{i * len(plan.rows) + j + 1}/{len(test_subjects) * len(plan.rows)}]"
            trainer.run(study.experiment(row), fold, f"{place} {row}, subject {subject}")
        print(f"\n{tables.fold_table(results.metrics, plan.rows, subject)}\n", flush=True)
    study.figures(study, results, plan.rows, test_subjects)
    print(tables.final_table(results.metrics, plan.rows, test_subjects))
    if is_sample:
        print("\nSYNTHETIC DATA: these figures are not the paper's.")
    print(f"\nResults: {folder}")
    return results.metrics


def start(main: Callable[[], Any]) -> None:
    """Run a script's `main`; what the user can mend ends with one line and exit status 2."""
    try:
        main()
    except InputError as error:
        sys.exit(_complain(error, status=2))
    except training.DivergedError as error:
        sys.exit(_complain(error, status=1))
    except KeyboardInterrupt:
        remedy = "finished rows stay in the run's folder, and its --run-name goes on from there"
        sys.exit(_complain(f"interrupted; {remedy}", status=130))


def _complain(problem: object, status: int) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return status


def _data_file(study: Study, options: argparse.Namespace) -> tuple[Path, bool]:
    """Return the file to read and whether it is the sample, which is made afresh."""
    if options.data and options.sample:
        raise InputError("--data and --sample: give one of them")
    if options.data:
        return options.data, False
    default = flags.default_file(study.dataset)
    if default.is_file() and not options.sample:
        return default, False
    path = default.with_name(f"sample_{default.name}")
    sample = study.sample
    print(f"Making the synthetic sample dataset, {path} ...", flush=True)
    try:
        write_sample(path, study.dataset, sample.subjects, sample.minutes, sample.seed)
    except OSError as error:
        raise InputError(f"{path}: cannot write the sample ({error}); free the place") from error
    return path, True


@dataclass(frozen=True)
class _Trainer:
    """Trains, tests and saves a row on a fold."""

    study: Study
    options: argparse.Namespace
    plan: Plan
    recording: Recording
    device: torch.device
    results: runs.Run

    def run(self, experiment: Experiment, fold: folds.Fold, name: str) -> None:
        """Train and test a row and write its results, unless the run has them."""
        row, subject = experiment.row, fold.test_subject
        if self.results.has(row, subject):
            print(f"{name}: taken from the run", flush=True)
            return
        make = self._train if experiment.fit is None else self._fit
        model, parameters, history = make(experiment, fold, name)
        prediction = self._predict(model, experiment, fold.test)
        outcome = self._outcome(fold, prediction)
        state = model.state_dict()
        self.results.add(
            row,
            subject,
            {name: state[name] for name in state if name.split(".")[0] not in experiment.networks},
            outcome,
            pd.DataFrame([{"row": row, "fold": subject, **epoch._asdict()} for epoch in history]),
            self._metrics(experiment, fold, parameters, outcome),
        )

    def _train(
        self, experiment: Experiment, fold: folds.Fold, name: str
    ) -> tuple[nn.Module, int, list[training.Epoch]]:
        predict, samples = self.study.predict(experiment.row), self.recording.samples
        torch.manual_seed(self.plan.settings.seed)
        model = experiment.model()
        one_window = training.batch_of(samples, fold.test[:1].to(self.device))
        one_window = {modality: values.cpu() for modality, values in one_window.items()}
        parameters = training.used_parameters(model, predict, one_window)
        history = training.train(
            model.to(self.device),
            samples,
            fold,
            loss=experiment.loss(Setup(self.options, self._teacher(experiment, fold))),
            predict=predict,
            criterion=experiment.criterion or self.study.criterion,
            settings=self.plan.settings_of(experiment.row),
            name=name,
            features=experiment.features,
        )
        best = min(history, key=lambda epoch: epoch.validation_loss)
        print(
            f"{name}: best of {len(history)} epochs: {best.epoch}, validation loss "
            f"{best.validation_loss:.4f}, {sum(epoch.seconds for epoch in history):.0f} s",
            flush=True,
        )
        return model, parameters, history

    def _fit(
        self, experiment: Experiment, fold: folds.Fold, name: str
    ) -> tuple[nn.Module, int, list[training.Epoch]]:
        """Make a row of the trained networks of others, whose parameters count together."""
        model, parameters = experiment.model(), 0
        for child, row in experiment.networks.items():
            self.results.load(row, fold.test_subject, model.get_submodule(child))
            parameters += self.results.parameters(row)
        model = model.to(self.device)
        part = experiment.fit.windows[self.options.protocol]
        windows = getattr(fold, part)
        scored = fold.scored if part == "test" else torch.ones_like(windows, dtype=torch.bool)

        def estimate(network: nn.Module) -> Tensor:
            return self._predict(network, experiment, windows)[scored.to(self.device)]

        experiment.fit.method(model, estimate)
        networks = " and ".join(experiment.networks.values())
        print(f"{name}: fitted to the {part} predictions of {networks}", flush=True)
        return model, parameters, []

    def _predict(self, model: nn.Module, experiment: Experiment, windows: Tensor) -> Tensor:
        return training.predict_windows(
            model,
            self.recording.samples,
            windows,
            self.study.predict(experiment.row),
            self.plan.settings.batch_size,
            experiment.features,
        )

    def _teacher(self, experiment: Experiment, fold: folds.Fold) -> nn.Module | None:
        if experiment.teacher is None:
            return None
        model = self.study.experiment(experiment.teacher).model()
        return self.results.load(experiment.teacher, fold.test_subject, model).to(self.device)

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
