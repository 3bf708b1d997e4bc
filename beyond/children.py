"""Twelve children (public c3d files): students, losses, training, ridge regression.

The data are in the repository mcgillmotionlab/biomechzoo: healthy children, each with one trial
of straight walking and one with a 90° turn. IMUs are computed from motion capture; left legs are
mirrored to right ones. The networks estimate four joint moments and the ground reaction force of
one leg, from IMUs on the foot, shank, thigh, pelvis and trunk and the EMG of four muscles at 100
Hz.

Rows of the results table:
    teacher                       reads windows of 0.5 s of all IMUs and EMG, as in the paper
    student-<set>                 reads windows of the IMUs of one sensor set, as in the paper
    distilled-<set>               the same network, distilled from the teacher
    streaming-<set>               reads one sample at a time, with a latency of 50 ms
    distilled_streaming-<set>     the same network, distilled from the teacher
    teacher_balanced, student_balanced-<set>, ...    the same with the balanced loss
    student_augmented-<set>       the same network as student_balanced-<set>, trained longer on all
                                  training subjects, with shifted windows and rotated sensors
    streaming_augmented-<set>     the same for the streaming student
    ridge-<set>                   linear regression on samples up to 0.2 s before and after
<set> is a sensor set, from the foot alone (`foot`) to all five IMUs (`all_imus`).

Models, losses and training: those of beyond.Dataset_B_streaming, which has the same rate.
Output: outputs/children/<run>/ with config.json, history.csv, metrics.csv, stances.csv,
predictions/, checkpoints/ and figures/. See docs/measured_walking.md.

The first command reads the folder of c3d files, writes data/dataset_children.h5, and trains one row
with one child held out. The second reads that file and holds out each child in turn:

    python -m beyond.children --data "biomechzoo/data/sample_study/raw c3d files" --rows ridge-foot
    python -m beyond.children --rows student-foot streaming-foot --test-subjects all

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from beyond.augmentation import draw_shifted
from beyond.Dataset_B_streaming import (
    KineticsMFFMNet,
    StreamingMFFMNet,
    add_flags,
    delayed_rmse,
    distillation_loss,
    distilled_streaming_loss,
    fold_scale_into_head,
    rmse,
    standardize,
    streaming_loss,
    supervised_loss,
    target_scale,
    train,
    train_augmented,
    with_sequences,
)
from beyond.ridge import LaggedRegression, fit_ridge
from beyond.sequences import cut_sequences, describe_columns, predict_stream
from common import cli
from common.data import SensorSet, Target, read_trials
from common.files import InputError, write_atomically
from common.runs import Row, Run
from common.windows import Fold, Windows, cut_windows, make_fold, precompute
from tools.c3d_file import C3D_SUFFIX, C3dFile, read_c3d
from tools.output import check_writable, is_made_by
from tools.prepare_dataset_a.trial import EMG_BAND_HZ, compute_emg_envelope
from tools.signals import BODY_WEIGHT_M_S2, find_runs
from tools.virtual_imus import Placement, virtual_imu

# Data and hyperparameters ----------------------------------------------------------------------

DATASET = "children"
RATE_HZ = 100
WINDOW = 50  # samples: 0.5 s
EPOCHS = 50  # at most
BATCH_SIZE = 16  # windows
PATIENCE = 10  # epochs without a lower validation loss
LEARNING_RATE = 1e-3
LOOKAHEAD = 5  # samples: 50 ms
SEQUENCE = 3 * WINDOW  # samples of a training sequence: 1.5 s, longer than a stance
LAGS, LAG_STEP = 11, 4  # of the ridge regression: 0.2 s before to 0.2 s after

SENSORS = ("foot", "shank", "thigh", "pelvis", "trunk")
MUSCLES = {  # envelopes, relative to the person's maximum: name -> label in the c3d files
    "rectusfemoris": "Rect",
    "hamstrings": "Hams",
    "gastrocnemius": "Gast",
    "tibialisanterior": "Tib Ant",
}
COLUMNS = {  # of the file, by modality
    "acc": [f"{sensor}_Accel_{axis}" for sensor in SENSORS for axis in "XYZ"],
    "gyr": [f"{sensor}_Gyro_{axis}" for sensor in SENSORS for axis in "XYZ"],
    "emg": list(MUSCLES),
    "targets": [
        *("hip_flexion_moment", "hip_adduction_moment", "knee_flexion_moment", "ankle_moment"),
        *("force_forward", "force_lateral", "force_vertical"),
    ],
}
UNITS = {"acc": "m/s²", "gyr": "rad/s", "emg": "1"}
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
    Target("GRF medio-lateral", "BW"),
    Target("GRF vertical", "BW"),
)

read = partial(read_trials, columns=COLUMNS, rate_hz=RATE_HZ)
"""Reads the HDF5 file."""


def inputs(samples: Mapping[str, Tensor], sensor_set: str) -> list[Tensor]:
    """Return the inputs of a network: one tensor `(..., C)` per modality."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    imus = [SENSORS.index(sensor) for sensor in sensors]
    return [
        torch.cat([samples[modality][..., 3 * i : 3 * i + 3] for i in imus], dim=-1)
        if modality in ("acc", "gyr")
        else samples[modality]
        for modality in modalities
    ]


# From c3d files to one HDF5 file ---------------------------------------------------------------

CONTACT_PERCENT, PEAK_PERCENT = 5.0, 70.0  # vertical force in a stance, of body weight
SHORTEST, LONGEST = 30, 90  # samples of a stance
MARGIN = 15  # samples before and after it
EDGE_S = 0.04  # left out at both ends of a trial; with more, some stances would be shorter
MADE_BY = "beyond.children"
TURN_DEG = 30.0  # of the pelvis in a trial; straight walking below
# Axes X, Y and Z in upright standing: forward, left, up (shank, thigh, pelvis); up, left, backward
# (foot); forward, right, down (trunk). A left leg becomes a right one if left and right are swapped
# as in a mirror: accelerations along Y and rotations about X and Z change their signs.
MIRROR_ACC, MIRROR_GYR = np.array([1.0, -1.0, 1.0]), np.array([-1.0, 1.0, -1.0])


class Stance(NamedTuple):
    """A stance of one leg, mirrored to the right if it was the left one.

    Attributes:
        subject: id of the person.
        activity: `straight` or `turning`.
        side: `R` or `L`.
        values: `(samples, columns)`, in the order of `COLUMNS`.
    """

    subject: str
    activity: str
    side: str
    values: np.ndarray


def sensor_placements(side: str) -> dict[str, Placement]:
    """Return the segment frame (origin and points on X, Y and Z) and the marker per sensor."""
    segments = {
        "foot": (f"{side}FO", f"{side}TOE"),
        "shank": (f"{side}TI", f"{side}TIB"),
        "thigh": (f"{side}FE", f"{side}THI"),
        "pelvis": ("PEL", "SACR"),
        "trunk": ("TRX", "STRN"),
    }
    return {
        sensor: Placement(tuple(f"{frame}{point}" for point in "OALP"), marker)
        for sensor, (frame, marker) in segments.items()
    }


def find_stances(file: C3dFile) -> list[Stance]:
    """Return the stances of both legs on a force plate, with samples of the swing before and after.

    The moments exist only in some of the frames; they are wrong while the foot is on the ground off
    the plates. Stretches with sensors and moments that are shorter than a window are left out.

    Raises:
        InputError: The file lacks a segment, a muscle or the body height, or has other rates or
            units.
        KeyError: It lacks a point or a channel.
    """
    if not (match := re.fullmatch(r"(.+?)\d+", file.path.stem)) or not file.height_m:
        raise InputError(f"{file.path}: no height, or not named <subject><trial>, as in HC002D06")
    units = file.units["PELO"], file.units.get("RKneeMoment"), file.units.get("LKneeMoment")
    if file.point_hz != RATE_HZ or units[0] != "mm" or not {*units[1:]} <= {"Nmm", None}:
        found = f"{file.point_hz:g} Hz and units {', '.join(map(str, units))}"
        raise InputError(f"{file.path}: {found}; it must have {RATE_HZ} Hz, mm and Nmm")
    if file.analog_hz <= 2 * EMG_BAND_HZ[1]:
        raise InputError(f"{file.path}: analog channels at {file.analog_hz:g} Hz, too few for EMG")
    forward = file.points["PELA"] - file.points["PELO"]
    heading = np.arctan2(forward[:, 1], forward[:, 0])
    if not np.isfinite(heading).any():
        raise InputError(f"{file.path}: the pelvis is missing in all frames")
    known = np.unwrap(heading[np.isfinite(heading)])
    activity = "turning" if abs(np.degrees(known[-1] - known[0])) > TURN_DEG else "straight"
    stances = []
    for side in "RL":
        if f"{side}NormalisedGRF" not in file.points:  # this foot met no plate
            continue
        table = side_table(file, side, heading)
        vertical = np.nan_to_num(file.points[f"{side}NormalisedGRF"][:, 2])
        for start, stop in find_runs(vertical > CONTACT_PERCENT):
            is_long = SHORTEST <= stop - start <= LONGEST
            if not is_long or vertical[start:stop].max() < PEAK_PERCENT:
                continue
            values = table[max(start - MARGIN, 0) : stop + MARGIN]
            is_valid = np.isfinite(values).all(axis=1)
            for first, last in find_runs(is_valid):
                if last - first >= WINDOW:
                    stances.append(Stance(match[1], activity, side, values[first:last]))
    return stances


def side_table(file: C3dFile, side: str, heading: np.ndarray) -> np.ndarray:
    """Return the columns of one side, `(frames, columns)`; left legs are mirrored.

    Moments have the same signs on both sides. Forces are turned into the heading of the pelvis:
    forward and to the side of the leg. They are 0 where no plate is loaded.

    Args:
        file: the trial.
        side: `R` or `L`.
        heading: `(frames,)` direction of the pelvis in the horizontal plane, in rad.
    """
    placements = sensor_placements(side).values()
    imus = [
        virtual_imu(file.points, place, file.point_hz, unit_m=0.001, edge_s=EDGE_S)
        for place in placements
    ]
    acc, gyr = np.hstack([imu.acc for imu in imus]), np.hstack([imu.gyr for imu in imus])
    if side == "L":
        acc, gyr = acc * np.tile(MIRROR_ACC, len(imus)), gyr * np.tile(MIRROR_GYR, len(imus))
    channels = [f"Voltage.{side} {name}" for name in MUSCLES.values()]
    emg = np.column_stack([file.analog[channel] for channel in channels])
    if not (has_signal := np.ptp(emg, axis=0) > 0).all():
        raise InputError(f"{file.path}: no signal in {channels[int(has_signal.argmin())]}")
    envelope = compute_emg_envelope(emg, file.analog_hz)[:: round(file.analog_hz / file.point_hz)]
    moments = [("Hip", 0), ("Hip", 1), ("Knee", 0), ("Ankle", 0)]  # in N·mm/kg
    moment = np.column_stack([file.points[f"{side}{joint}Moment"][:, i] for joint, i in moments])
    x, y, vertical = np.nan_to_num(file.points[f"{side}GroundReactionForce"]).T  # in N/kg
    forward = x * np.cos(heading) + y * np.sin(heading)
    left = y * np.cos(heading) - x * np.sin(heading)
    force = np.column_stack([forward, left if side == "L" else -left, vertical])
    moment /= 1000 * BODY_WEIGHT_M_S2 * file.height_m
    return np.hstack([acc, gyr, envelope, moment, force / BODY_WEIGHT_M_S2])


def convert_files(folder: Path, out: Path) -> None:
    """Write the stances of all c3d files in a folder to an HDF5 file.

    Raises:
        InputError: There are no stances of at least two people, or `out` is from another command.
    """
    check_writable(out, [], lambda path: is_made_by(path, MADE_BY), "--data")
    stances: list[Stance] = []
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (path.name, path)):
        if path.suffix.lower() != C3D_SUFFIX:
            continue
        first = files.setdefault(path.name.casefold(), path)
        if path != first:
            print(f"NOTICE: {path} skipped: it has the same name as {first}")
    for path in files.values():
        try:
            found = find_stances(read_c3d(path))
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
            print(f"NOTICE: {path.name} skipped: {reason}")
        except KeyError as error:
            print(f"NOTICE: {path.name} skipped: no point or channel {error}")
        else:
            stances += found
            if not found:
                print(f"NOTICE: {path.name} skipped: no foot on a force plate")
    people = sorted({stance.subject for stance in stances})
    if len(people) < 2:
        raise InputError(
            f"{folder}: stances of fewer than two people; pass a folder of c3d files that are "
            "named <subject><trial>, as in HC002D06.c3d"
        )
    emg = slice(len(COLUMNS["acc"]) + len(COLUMNS["gyr"]), -len(COLUMNS["targets"]))
    tables: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for person in people:
        chosen = [stance for stance in stances if stance.subject == person]
        largest = np.max([stance.values[:, emg].max(axis=0) for stance in chosen], axis=0)
        for stance in chosen:
            stance.values[:, emg] /= largest
            tables[person, stance.activity].append(stance.values)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(out) as part, h5py.File(part, "w") as file:
        file.attrs["columns"] = json.dumps([name for names in COLUMNS.values() for name in names])
        file.attrs["rate_hz"] = RATE_HZ
        file.attrs["made_by"] = MADE_BY
        for (person, activity), parts in tables.items():
            values = np.concatenate(parts).astype(np.float32)
            table = file.create_dataset(f"All_subjects/Subject_{person}/{activity}", data=values)
            table.attrs["trial_starts"] = np.cumsum([0, *map(len, parts[:-1])])
    print(f"{out}: {len(stances)} stances of {len(people)} people")


# Rows of the table -----------------------------------------------------------------------------

TEACHER_SET = "all_imus_emg"
STUDENT_SETS = ("foot", "foot_trunk", "foot_shank_trunk", "all_imus")


def table_row(
    name: str, sensor_set: str, projection: bool = False, needs: tuple[str, ...] = ()
) -> Row:
    """Return a row of the table, as in beyond.Dataset_B_streaming; `ridge` means regression."""
    sensors, modalities = SENSOR_SETS[sensor_set]
    counts = {"acc": 3 * len(sensors), "gyr": 3 * len(sensors), "emg": len(MUSCLES)}
    channels = tuple(counts[modality] for modality in modalities)
    if "ridge" in name:
        network = partial(LaggedRegression, lags=LAGS, step=LAG_STEP)
    elif "streaming" in name:
        network = partial(StreamingMFFMNet, lookahead=LOOKAHEAD, projection=projection)
    else:
        network = partial(KineticsMFFMNet, projection=projection)
    return Row(name, sensor_set, partial(network, channels=channels, targets=len(TARGETS)), needs)


def student_rows(sensor_set: str) -> list[Row]:
    """Return the rows of a sensor set: students with all training methods, and the regression."""
    rows = []
    for student, distilled in (("student", "distilled"), ("streaming", "distilled_streaming")):
        for loss in ("", "_balanced"):
            teacher = (f"teacher{loss}",)
            rows.append(table_row(f"{student}{loss}-{sensor_set}", sensor_set))
            rows.append(table_row(f"{distilled}{loss}-{sensor_set}", sensor_set, True, teacher))
        rows.append(table_row(f"{student}_augmented-{sensor_set}", sensor_set))
    return [*rows, table_row(f"ridge-{sensor_set}", sensor_set)]


ROWS = [
    table_row("teacher", TEACHER_SET, projection=True),
    table_row("teacher_balanced", TEACHER_SET, projection=True),
    *(row for name in STUDENT_SETS for row in student_rows(name)),
]

# Running ---------------------------------------------------------------------------------------


def train_and_test(row: Row, test_subject: str, run: Run) -> None:
    """Train one row of the table with one person held out, and test it on that person.

    As in beyond.Dataset_B_streaming; `ridge` rows are fitted instead.
    """
    args, recording = run.args, run.recording
    is_streaming, is_augmented = "streaming" in row.name, "augmented" in row.name
    length, cut = (SEQUENCE, cut_sequences) if is_streaming else (WINDOW, cut_windows)
    signals = inputs(recording.samples, row.sensor_set)
    fold = make_fold(recording, signals, test_subject, length, args.protocol, args.seed, cut)
    about = describe_columns(COLUMNS, UNITS, partial(inputs, sensor_set=row.sensor_set))
    torch.manual_seed(args.seed)
    network = row.network().to(run.device)
    if "ridge" in row.name:
        fit_and_test_ridge(row, fold, network, run, about)
        return
    mean, sd = target_scale(fold.train, is_augmented or "balanced" in row.name)
    targets = recording.samples["targets"]
    fold = standardize(fold, targets, mean, sd)
    if row.needs:  # distilled student: the teacher's outputs are computed once per fold
        teacher = run.load_network(row.needs[0], test_subject)
        windows = fold.train.samples.reshape(-1, WINDOW)  # the teacher always reads windows
        teacher_windows = Windows(inputs(recording.samples, TEACHER_SET), targets, windows)
        outputs = precompute(teacher.features, teacher_windows)
        output, feature = (values.reshape(len(fold.train), length, -1) for values in outputs)
        fold.train.cached = (output - mean) / sd, feature
    loss, criterion = supervised_loss, rmse
    if is_streaming:
        loss = distilled_streaming_loss(args.alpha, args.beta) if row.needs else streaming_loss
        fold.train.cached = fold.train.is_scored, *fold.train.cached
        criterion = partial(
            delayed_rmse, is_scored=fold.validation.is_scored, lookahead=network.lookahead
        )
        args = with_sequences(args, fold.train)
    elif row.needs:
        loss = distillation_loss(args.alpha, args.beta)
    progress = run.progress(row, test_subject)
    prediction = summary = None
    with fold_scale_into_head(network, mean, sd):
        if is_augmented:
            epochs, targets = args.epoch_factor * args.epochs, (targets - mean) / sd
            draw = draw_shifted(fold, recording, targets, args, is_streaming)
            train_augmented(network, draw, length, loss, epochs, args, progress)
            summary = f"{epochs} epochs, training loss {progress.history[-1].training_loss:.4f}"
        else:
            train(network, fold, loss, criterion, args.epochs, args, progress)
    if is_streaming:
        prediction, fold.test.is_scored = predict_stream(network, fold.test, recording.stretch)
    run.record(
        row, fold, network, progress.history, summary=summary, prediction=prediction, about=about
    )


def fit_and_test_ridge(
    row: Row, fold: Fold, network: LaggedRegression, run: Run, about: Mapping[str, Any]
) -> None:
    """Fit the regression to all training subjects, and test it on whole stances."""
    recording = run.recording
    is_test = recording.subject == recording.subjects.index(fold.test_subject)
    signals, targets = fold.test.signals, recording.samples["targets"]
    is_train = torch.from_numpy(~is_test).to(run.device)
    parts = [signal[is_train] for signal in signals]
    labels = recording.stretch[~is_test], recording.subject[~is_test]
    penalty = fit_ridge(network, parts, targets[is_train], *labels)
    estimates = torch.zeros_like(targets)
    with torch.no_grad():
        for number in np.unique(recording.stretch[is_test]):
            chosen = torch.from_numpy(recording.stretch == number).to(run.device)
            estimates[chosen] = network(*(signal[chosen][None] for signal in signals))[0]
    prediction = estimates[fold.test.samples]
    summary = f"penalty {penalty:g}"
    run.record(row, fold, network, [], summary=summary, prediction=prediction, about=about)


# There is no run on synthetic data
QUICK_LOOK: dict[str, Any] = {}


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
        add_flags=add_flags,
    )
    if args.data.is_dir():
        folder, args.data = args.data, Path("data") / f"dataset_{DATASET}.h5"
        convert_files(folder, args.data)
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
