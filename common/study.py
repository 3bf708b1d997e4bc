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
from common.sample import write_sample


def run(study: Study, options: argparse.Namespace) -> pd.DataFrame:
    """Train and test the chosen rows on the chosen folds; return the run's metrics in long form.

    Raises:
        InputError: Flags or data that cannot be used; no result has been written then.
    """
    rows = flags.choose_rows(options.rows, [experiment.row for experiment in study.experiments])
    rows = _with_teachers(study, rows)
    device = flags.choose_device(options.device)
    folder = runs.run_folder(options.output_dir, study.script, options.run_name)
    path, is_sample = _data_file(study, options)
    epochs = options.epochs or (study.sample.epochs if is_sample else study.epochs)
    settings = training.Settings(
        epochs, options.patience, options.batch_size, options.learning_rate, options.seed
    )
    recording = study.read(path)
    folds.check(recording, study.window, options.protocol)
    test_subjects = folds.find_subjects(recording, options.test_subjects)
    results = runs.Run(
        folder,
        about.settings(study, options, recording, settings, device),
        about.circumstances(study, options, device),
    )
    print(about.introduction(study, options, recording, settings, device, is_sample))
    print(f"Run: {folder}\n", flush=True)
    torch.backends.cudnn.allow_tf32 = False  # it rounds the recurrent layers' products to 10 bits
    trainer = _Trainer(study, options, settings, recording.to(device), device, results)
    for i, subject in enumerate(test_subjects):
        fold = folds.make_fold(recording, subject, study.window, options.protocol, options.seed)
        for j, row in enumerate(rows):
            place = f"[{i * len(rows) + j + 1}/{len(test_subjects) * len(rows)}]"
            trainer.run(study.experiment(row), fold, f"{place} {row}, subject {subject}")
        print(f"\n{tables.fold_table(results.metrics, rows, subject)}\n", flush=True)
    study.figures(study, results, rows, test_subjects)
    print(tables.final_table(results.metrics, rows, test_subjects))
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


def _with_teachers(study: Study, rows: list[str]) -> list[str]:
    """Add the rows whose trained models other rows need, in the table's order; say so."""
    teachers = {study.experiment(row).teacher for row in rows} - {None, *rows}
    for teacher in sorted(teachers):
        print(f"The distilled rows need the {teacher} of their fold: it comes first.")
    return [e.row for e in study.experiments if e.row in rows or e.row in teachers]


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
    settings: training.Settings
    recording: Recording
    device: torch.device
    results: runs.Run

    def run(self, experiment: Experiment, fold: folds.Fold, name: str) -> None:
        """Train and test a row and write its results, unless the run has them."""
        row, subject = experiment.row, fold.test_subject
        if self.results.has(row, subject):
            print(f"{name}: taken from the run", flush=True)
            return
        predict, samples = self.study.predict(row), self.recording.samples
        torch.manual_seed(self.settings.seed)
        model = experiment.model()
        one_window = training.batch_of(samples, fold.test[:1].to(self.device))
        one_window = {modality: values.cpu() for modality, values in one_window.items()}
        parameters = training.used_parameters(model, predict, one_window)
        history = training.train(
            model.to(self.device),
            samples,
            fold,
            loss=experiment.loss(Setup(self.options, self._teacher(experiment, subject))),
            predict=predict,
            criterion=self.study.criterion,
            settings=self.settings,
            name=name,
            features=experiment.features,
        )
        prediction = training.predict_windows(
            model, samples, fold.test, predict, self.settings.batch_size, experiment.features
        )
        outcome = self._outcome(fold, prediction)
        self.results.add(
            row,
            subject,
            model,
            outcome,
            pd.DataFrame([{"row": row, "fold": subject, **epoch._asdict()} for epoch in history]),
            self._metrics(experiment, fold, parameters, outcome),
        )
        best = min(history, key=lambda epoch: epoch.validation_loss)
        print(
            f"{name}: best of {len(history)} epochs: {best.epoch}, validation loss "
            f"{best.validation_loss:.4f}, {sum(epoch.seconds for epoch in history):.0f} s",
            flush=True,
        )

    def _teacher(self, experiment: Experiment, subject: str) -> nn.Module | None:
        if experiment.teacher is None:
            return None
        model = self.study.experiment(experiment.teacher).model()
        return self.results.load(experiment.teacher, subject, model).to(self.device)

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
