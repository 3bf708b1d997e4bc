"""Filters and resampling on signals of known spectrum, and units; against measured files."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import InputError
from tests.conftest import MEASURED
from tools.raw import UnusableError, matlab, plates, signals, units

FAST_HZ = 1000.0
TIME_S = np.arange(4000) / FAST_HZ
MIDDLE = slice(1000, 3000)  # away from the ends


def tone(frequency_hz: float) -> np.ndarray:
    """Return a sine of amplitude 1, (4000, 1)."""
    return np.sin(2 * np.pi * frequency_hz * TIME_S)[:, None]


def amplitude(values: np.ndarray) -> float:
    """Return the amplitude of a sine from its RMS."""
    return float(np.sqrt(2 * np.mean(values[MIDDLE] ** 2)))


@pytest.mark.parametrize(
    ("frequency_hz", "left"), [(2.0, 1.0), (10.0, 1.0), (20.0, 0.5), (60.0, 0.0)]
)
def test_force_filter_passes_walking_and_stops_the_rest(frequency_hz: float, left: float) -> None:
    """Else peaks of the ground reaction are cut, or the plate's ringing stays."""
    filtered = signals.zero_phase(tone(frequency_hz), FAST_HZ, signals.FORCE_CUTOFF_HZ)
    assert amplitude(filtered) == pytest.approx(left, abs=0.005)


def test_filters_do_not_shift_in_time() -> None:
    """Else forces lag behind the sensors that should predict them."""
    filtered = signals.zero_phase(tone(10.0), FAST_HZ, signals.FORCE_CUTOFF_HZ)
    cosine = np.cos(2 * np.pi * 10.0 * TIME_S)[:, None]
    assert abs(np.mean(filtered[MIDDLE] * cosine[MIDDLE])) < 1e-3


@pytest.mark.parametrize("frequency_hz", [130.0, 170.0, 195.0, 390.0])
def test_resampling_folds_nothing_back(frequency_hz: float) -> None:
    """Else EMG above 100 Hz turns up as a slow wave that no muscle made."""
    thin = signals.anti_aliased(tone(frequency_hz), FAST_HZ)[MIDDLE][::5]
    assert np.abs(tone(frequency_hz)[MIDDLE][::5]).max() > 0.5  # without the filter
    assert np.abs(thin).max() < 0.01


def test_resampling_keeps_what_200_hz_can_hold() -> None:
    """Else the goniometers and the raw EMG lose what they could have kept."""
    kept = signals.anti_aliased(tone(60.0), FAST_HZ)
    np.testing.assert_allclose(kept[MIDDLE], tone(60.0)[MIDDLE], atol=0.02)


def test_envelope_is_that_of_the_band() -> None:
    """Else drift, or the hum of a cable that moves, counts as muscle activity."""
    slow = 1.0 + 0.5 * tone(1.0)
    movement = 5.0 * tone(3.0)
    envelope = signals.emg_envelope(slow * tone(120.0) + movement, FAST_HZ)
    np.testing.assert_allclose(envelope[MIDDLE], 2 / np.pi * slow[MIDDLE], rtol=0.02)
    assert amplitude(signals.emg_envelope(movement, FAST_HZ)) < 0.01
    assert envelope.min() >= 0


def test_nan_stays_where_it_is() -> None:
    """Else one missing sample takes a second of its neighbours with it."""
    values = np.hstack([tone(2.0), tone(3.0)])
    values[1500:1510, 0] = np.nan
    filtered = signals.zero_phase(values, FAST_HZ, signals.FORCE_CUTOFF_HZ)
    np.testing.assert_array_equal(np.isnan(filtered), np.isnan(values))
    np.testing.assert_allclose(filtered[:1500, 0], tone(2.0)[:1500, 0], atol=0.01)
    np.testing.assert_allclose(filtered[1510:, 0], tone(2.0)[1510:, 0], atol=0.01)
    np.testing.assert_array_equal(
        filtered[:, 1:], signals.zero_phase(tone(3.0), FAST_HZ, signals.FORCE_CUTOFF_HZ)
    )


def test_shortest_stretches_survive_a_filter() -> None:
    """Else a single valid sample between NaN ends the conversion."""
    values = np.full((50, 1), np.nan)
    values[[3, 10, 11]] = 1.0
    filtered = signals.zero_phase(values, FAST_HZ, signals.FORCE_CUTOFF_HZ)
    np.testing.assert_allclose(filtered, values, atol=1e-6)


def test_rounded_times_give_the_samples_themselves() -> None:
    """Else a `Header` of four decimals mixes neighbours, and NaN spreads."""
    values = np.arange(4000.0)[:, None]
    values[2000] = np.nan
    grid_s = np.arange(100, 700) / 200.0
    thin = signals.on_grid(values, np.round(TIME_S + 0.0003, 4), grid_s)
    np.testing.assert_array_equal(thin, values[500:3500:5])


def test_times_between_samples_are_interpolated() -> None:
    """Else a sensor whose samples lie between the others is moved by up to half a sample."""
    header_s = np.arange(200) / 200.0
    thin = signals.on_grid(header_s[:, None], header_s, header_s[5:100] + 0.002)
    np.testing.assert_allclose(thin[:, 0], header_s[5:100] + 0.002)


@pytest.mark.parametrize(
    ("size", "unit"), [(1.0, "g"), (9.8, "m/s²"), (12.0, "m/s²"), (4.0, None), (np.nan, None)]
)
def test_accelerometer_unit_is_told_by_gravity(size: float, unit: str | None) -> None:
    """Else a file in g goes through as m/s², and its networks see a tenth of every acceleration."""
    values = np.full((10, 3), size / np.sqrt(3.0))
    if unit is None:
        with pytest.raises(UnusableError, match=r"unit cannot be told.*expected 0\.7 to 1\.6 g"):
            units.accelerometer_unit(values, "here")
    else:
        assert units.accelerometer_unit(values, "here") == unit


def measured(name: str) -> Path:
    """Return a measured file of Dataset A, or skip."""
    path = MEASURED / "dataset_a" / name
    if not path.exists():
        pytest.skip(f"measured data not here: {path}")
    return path


def test_the_datasets_own_subject_table_is_read() -> None:
    """Else forces are divided by the weight of somebody else."""
    people = matlab.read_people(measured("SubjectInfo.mat"), "SubjectInfo.mat")
    assert len(people) == 22
    assert people[6] == (74.84, 1.80)
    assert people[30] == (77.03, 1.77)
    for number, person in people.items():
        assert matlab.check_person(person, str(number)) == person


def measured_plates(name: str, plate_names: dict[int, str]) -> pd.DataFrame:
    """Return the plates of a measured force file as a table of the download: 1000 Hz, N, mm."""
    forces = pd.read_csv(measured(name), sep="\t", skiprows=6)
    header_s = np.arange(len(forces) * 5 - 4) / FAST_HZ + forces["time"].iloc[0]
    table = {"Header": header_s}
    for number, plate in plate_names.items():
        for kind, stored, scale in (("v", "v", 1.0), ("p", "p", 1000.0), ("moment_", "m", 1.0)):
            for axis in "xyz":
                column = forces[f"ground_force_{number}_{stored}{axis}"].to_numpy() * scale
                table[f"{plate}_{kind}{axis}"] = np.interp(header_s, forces["time"], column)
    return pd.DataFrame(table)


def test_measured_treadmill_force_is_one_body_weight() -> None:
    """Else units, plates or normalisation are wrong: whoever walks is carried on the mean."""
    people = matlab.read_people(measured("SubjectInfo.mat"), "SubjectInfo.mat")
    belts = {1: "Treadmill_R", 2: "Treadmill_L"}
    table = measured_plates("treadmill_01_01_grf.mot", belts)
    header_s = table["Header"].to_numpy()
    both, unit, used = plates.right_ground_reaction(table, tuple(belts.values()), FAST_HZ, "here")
    thin = signals.on_grid(both, header_s, header_s[::5])
    assert unit == "mm"
    assert used == ["Treadmill_R", "Treadmill_L"]
    assert np.mean(thin[:, 1] / (9.8 * people[6].mass_kg)) == pytest.approx(1.0, abs=0.05)


def test_measured_free_moment_is_that_of_walking() -> None:
    """Else the column holds the moment about a corner of the laboratory, ten times as large."""
    table = measured_plates("levelground_ccw_fast_01_01_grf.mot", {1: "FP1", 2: "Combined"})
    for plate in ("FP1", "Combined"):
        ground, _, used = plates.right_ground_reaction(table, (plate,), FAST_HZ, "here")
        assert used == [plate]
        assert np.abs(table[f"{plate}_moment_x"]).max() > 100.0
        assert 2.0 < np.percentile(np.abs(ground[:, 4]), 99) < 40.0  # Nm


def test_mat_io_has_no_way_to_run_what_it_reads() -> None:
    """Else a file from a stranger could run code here; an update of mat-io is checked by this."""
    matio = pytest.importorskip("matio")
    dangerous = {"pickle", "marshal", "shelve", "subprocess", "ctypes", "importlib", "runpy"}
    for path in Path(matio.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not dangerous & {name.name.split(".")[0] for name in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in dangerous, path
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, path


def test_a_missing_mat_io_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every trial counts as damaged."""
    monkeypatch.setitem(sys.modules, "matio", None)
    with pytest.raises(InputError, match="pip install mat-io"):
        matlab.read_table(Path("a.mat"), "a.mat")
