"""c3d files and virtual IMUs, against known motion and recorded walking."""

from __future__ import annotations

from pathlib import Path

import ezc3d
import numpy as np
import pytest
from scipy import constants
from scipy.spatial.transform import Rotation

from common.files import InputError
from tests.conftest import MEASURED
from tools.c3d_file import read_c3d
from tools.virtual_imus import Placement, virtual_imu

RATE_HZ = 100
FRAME = Placement(("O", "A", "L", "P"), "marker")
INNER = slice(8, -8)  # without the 0.08 s at both ends, which have no signals


def move_body(
    orientation: Rotation, origin: np.ndarray, marker: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the points of a segment frame and of a marker on the segment, `(n, 3)` each."""
    points = {"O": origin, "marker": origin + orientation.apply(marker)}
    axes = zip("ALP", np.eye(3), strict=True)
    return points | {label: origin + orientation.apply(axis) for label, axis in axes}


def write_c3d(path: Path, labels: list[str], values: np.ndarray, **outputs: list[str]) -> Path:
    """Write the points `(frames, labels, 3)`; `outputs` are groups such as MOMENTS."""
    file = ezc3d.c3d()
    file["parameters"]["POINT"]["RATE"]["value"] = [RATE_HZ]
    file["parameters"]["POINT"]["UNITS"]["value"] = ["mm"]
    file["parameters"]["POINT"]["LABELS"]["value"] = labels
    file["parameters"]["ANALOG"]["RATE"]["value"] = [10 * RATE_HZ]
    file["parameters"]["ANALOG"]["LABELS"]["value"] = ["EMG"]
    for group, names in outputs.items():
        file.add_parameter("POINT", group, names)
    file.add_parameter("PROCESSING", "Bodymass", [30.0])
    file.add_parameter("PROCESSING", "Height", [1400.0])
    points = np.ones((4, len(labels), len(values)))
    points[:3] = values.transpose(2, 1, 0)
    file["data"]["points"] = points
    file["data"]["analogs"] = np.zeros((1, 1, 10 * len(values)))
    file["header"]["points"]["first_frame"] = 50
    file.write(str(path))
    return path


def test_rotation_about_a_fixed_axis() -> None:
    """Else angular velocity or centripetal and tangential acceleration are wrong."""
    time_s = np.arange(300) / RATE_HZ
    angle, rate, change = np.sin(6 * time_s), 6 * np.cos(6 * time_s), -36 * np.sin(6 * time_s)
    orientation = Rotation.from_euler("z", angle[:, None])
    origin = np.array([0.2, 0.0, 1.0]) + 0 * time_s[:, None]
    points = move_body(orientation, origin, np.array([0.3, 0.0, 0.0]))
    imu = virtual_imu(points, FRAME, RATE_HZ, 1.0, cutoff_hz=None)
    still = np.zeros_like(time_s)
    gravity = np.full_like(time_s, constants.g)
    acc = np.column_stack([-0.3 * rate**2, 0.3 * change, gravity])
    gyr = np.column_stack([still, still, rate])
    np.testing.assert_allclose(imu.gyr[INNER], gyr[INNER], atol=0.01)
    np.testing.assert_allclose(imu.acc[INNER], acc[INNER], atol=0.01)


def test_a_tumbling_body_is_recorded_in_the_axes_of_the_sensor() -> None:
    """Else the signals are in the axes of the laboratory."""
    rate = np.array([0.5, -1.0, 2.0])  # rad/s, constant in the body
    turn = Rotation.from_rotvec(np.outer(np.arange(300) / RATE_HZ, rate))
    orientation = Rotation.from_euler("xyz", [0.4, -0.3, 1.0]) * turn
    points = move_body(orientation, np.zeros((300, 3)), np.array([0.1, 0.2, -0.1]))
    imu = virtual_imu(points, FRAME, RATE_HZ, 1.0, cutoff_hz=None)
    centripetal = np.cross(rate, np.cross(rate, [0.1, 0.2, -0.1]))
    acc = centripetal + orientation.inv().apply([0.0, 0.0, constants.g])
    np.testing.assert_allclose(imu.gyr[INNER], np.broadcast_to(rate, (284, 3)), atol=1e-3)
    np.testing.assert_allclose(imu.acc[INNER], acc[INNER], atol=1e-3)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_a_body_at_rest_measures_gravity(up: tuple[float, float, float]) -> None:
    """Else gravity has the wrong sign, size or direction."""
    orientation = Rotation.from_euler("xyz", np.tile([0.5, 0.2, -1.0], (60, 1)))
    points = move_body(orientation, np.ones((60, 3)), np.zeros(3))
    millimeters = {label: 1000 * values for label, values in points.items()}
    imu = virtual_imu(millimeters, FRAME, RATE_HZ, 0.001, up)
    expected = orientation.inv().apply(constants.g * np.array(up))
    np.testing.assert_allclose(imu.acc[INNER], expected[INNER], atol=1e-6)
    np.testing.assert_allclose(imu.gyr[INNER], 0, atol=1e-6)


def test_three_markers_give_the_same_motion_as_a_frame() -> None:
    """Else segments without a frame cannot have a sensor."""
    orientation = Rotation.from_euler("zyx", np.random.default_rng(0).normal(size=(1, 3)))
    turns = orientation * Rotation.from_euler("x", np.sin(np.arange(200)[:, None] / 20))
    points = move_body(turns, np.zeros((200, 3)), np.array([0.1, 0.1, 0.0]))
    placement = Placement(("O", "A", "marker"), "marker")
    frame, markers = (virtual_imu(points, one, RATE_HZ, 1.0) for one in (FRAME, placement))
    np.testing.assert_allclose(markers.gyr[INNER], frame.gyr[INNER], atol=1e-6)
    np.testing.assert_allclose(markers.acc[INNER], frame.acc[INNER], atol=1e-6)


def swing(frames: int = 200) -> dict[str, np.ndarray]:
    """Return the points of a body that swings about X."""
    orientation = Rotation.from_euler("x", np.sin(np.arange(frames)[:, None] / 20))
    return move_body(orientation, np.zeros((frames, 3)), np.array([0.1, 0.4, 0.0]))


@pytest.mark.parametrize(("label", "frames"), [("L", 10), ("L", 2), ("marker", 2), ("marker", 1)])
def test_a_gap_spoils_no_other_sample(label: str, frames: int) -> None:
    """Else missing markers become signals, or those next to a gap are wrong by up to 56 m/s²."""
    points = swing()
    whole = virtual_imu(points, FRAME, RATE_HZ, 1.0)
    points[label][90 : 90 + frames] = np.nan
    imu = virtual_imu(points, FRAME, RATE_HZ, 1.0, max_gap_s=0.03)
    is_missing = np.isnan(np.hstack(imu)).any(axis=1)
    is_split = frames == 10  # two missing frames are interpolated
    gap = range(82, 108) if is_split else ()
    assert [*np.flatnonzero(is_missing)] == [*range(8), *gap, *range(192, 200)]
    np.testing.assert_allclose(
        imu.acc[~is_missing], whole.acc[~is_missing], atol=0.6 if is_split else 0.1
    )
    np.testing.assert_allclose(imu.gyr[~is_missing], whole.gyr[~is_missing], atol=0.02)


def test_swapped_markers_are_a_gap() -> None:
    """Else a few frames in which two markers were confused reject a trial, or spoil it."""
    points = swing()
    whole = virtual_imu(points, FRAME, RATE_HZ, 1.0)
    swapped = slice(90, 92)
    points["A"][swapped], points["L"][swapped] = points["L"][swapped], points["A"][swapped].copy()
    imu = virtual_imu(points, FRAME, RATE_HZ, 1.0, max_gap_s=0.03)
    np.testing.assert_allclose(imu.gyr[INNER], whole.gyr[INNER], atol=0.02)
    assert np.isnan(virtual_imu(points, FRAME, RATE_HZ, 1.0).gyr[swapped]).all()


UNUSABLE = {
    "no such point": (("TRXO", "A", "L", "P"), "no point TRXO for a virtual IMU"),
    "left-handed axes": (("O", "A", "P", "L"), "O, A, P, L: not the points of a right-handed"),
    "markers on a line": (("O", "L", "B"), "three markers that are not on a line"),
    "any four markers": (("O", "A", "L", "skewed"), "not the points of a right-handed frame"),
    "never seen": (("O", "A", "never"), "never: missing in all frames"),
}


@pytest.mark.parametrize(("frame", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_frame_that_cannot_be_used(frame: tuple[str, ...], message: str) -> None:
    """Else a mistake in the table of virtual IMUs ends in a traceback."""
    points = swing()
    noise = np.random.default_rng(0).normal(scale=1e-3, size=(200, 3))  # m
    points |= {"B": 2 * points["L"] - points["O"] + noise, "never": np.full((200, 3), np.nan)}
    points |= {"skewed": points["A"] + points["L"] - points["O"] + 0.2 * points["P"]}
    with pytest.raises(InputError, match=message):
        virtual_imu(points, Placement(frame, "marker"), RATE_HZ, 1.0)
    with pytest.raises(InputError, match="points at 20 Hz: too few for a virtual IMU"):
        virtual_imu(points, FRAME, 20.0, 1.0)


def test_trunk_of_recorded_walking() -> None:
    """Else virtual IMUs differ from those of other software (OpenSim, from the same motion)."""
    path = MEASURED / "dataset_a" / "ab06_levelground_derived_200hz.csv"
    if not path.exists():
        pytest.skip(f"measured data not here: {path}")
    table = np.genfromtxt(path, delimiter=",", names=True)
    acc, gyr = (
        np.column_stack([table[f"VIRT_trunk_{kind}_{axis}"] for axis in "XYZ"])
        for kind in ("Accel", "Gyro")
    )
    angles = [table[f"pelvis_{name}"] for name in ("tilt", "list", "rotation")]
    orientation = Rotation.from_euler("ZXY", np.column_stack(angles))
    pelvis = np.column_stack([table[f"pelvis_t{axis}"] for axis in "xyz"])
    place = np.array([-0.10, 0.08, 0.0])  # estimated from the accelerometer; m from the pelvis
    points = move_body(orientation, pelvis, place)
    imu = virtual_imu(points, FRAME, 200, 1.0, up=(0.0, 1.0, 0.0))
    error_gyr, error_acc = imu.gyr - gyr, imu.acc - constants.g * acc
    assert (np.sqrt(np.nanmean(error_gyr**2, axis=0)) < 0.2 * np.nanstd(gyr, axis=0)).all()
    assert np.sqrt(np.nanmean(error_acc**2)) < 0.25 * constants.g * np.nanstd(acc, axis=0).mean()


def test_points_of_a_c3d_file(tmp_path: Path) -> None:
    """Else labels after the first 255, missing markers or the start of the recording are lost."""
    labels = [f"P{i}" for i in range(300)]
    values = np.random.default_rng(0).normal(size=(20, 300, 3)).astype(np.float32)
    values[3, 0] = values[4, 299] = 0
    path = write_c3d(tmp_path / "Müller.c3d", labels, values, FORCES=["P299"])
    file = read_c3d(path)
    assert [*file.points] == labels
    assert file.outputs == {"P299": "FORCE"}
    assert np.isnan(file.points["P0"][3]).all()  # a marker
    assert (file.points["P299"][4] == 0).all()  # a force
    np.testing.assert_array_equal(file.points["P260"], values[:, 260])
    assert (file.frames, file.point_hz, file.analog_hz, file.start_s) == (20, 100, 1000, 0.5)
    assert len(file.analog["EMG"]) == 200
    assert (file.mass_kg, file.height_m) == (30, pytest.approx(1.4))
    assert file.units["P0"] == "mm"


def test_two_points_with_the_same_label(tmp_path: Path) -> None:
    """Else nobody notices that one of the two is not read."""
    values = np.arange(60.0).reshape(10, 2, 3) + 1
    file = read_c3d(write_c3d(tmp_path / "a.c3d", ["TOE", "TOE"], values))
    assert file.duplicates == ["TOE"]
    np.testing.assert_array_equal(file.points["TOE"], values[:, 0])


@pytest.mark.parametrize("content", [b"", b"no c3d file", b"\x02P" + bytes(600)])
def test_unusable_c3d_files(tmp_path: Path, content: bytes) -> None:
    """Else a damaged file ends in a traceback."""
    path = tmp_path / "a.c3d"
    path.write_bytes(content)
    with pytest.raises(InputError, match="c3d"):
        read_c3d(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_c3d(tmp_path / "missing.c3d")


def test_a_truncated_c3d_file(tmp_path: Path) -> None:
    """Else an interrupted copy is read as if it were complete, or ends in a traceback."""
    whole = write_c3d(tmp_path / "a.c3d", ["TOE"], np.ones((500, 1, 3)))
    part = tmp_path / "part.c3d"
    part.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(InputError, match="damaged"):
        read_c3d(part)
