"""The sample obeys mechanics: what it calls truth is checked against closed forms and laws."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from common.sample.balance import Pose, center_of_mass, pose_body
from common.sample.body import GRAVITY_M_S2, SEGMENT_NAMES, SIDES, Body, make_body
from common.sample.dataset_b import external_knee_moment
from common.sample.dynamics import (
    GroundReaction,
    ground_reaction,
    inverse_dynamics,
    newton_euler,
)
from common.sample.feet import FootPath
from common.sample.joints import coordinate_moments, joint_angles
from common.sample.rotations import rotation, rotation_zxy
from common.sample.sensors import ideal_mount, record_imu
from common.sample.style import Style, at_speed, on_ramp, on_stairs
from common.sample.trial import Trial, simulate_trial
from tests.conftest import MEASURED

RATE_HZ = 200.0
STYLES = {
    "slow": at_speed(Style(), 0.8),
    "level": Style(),
    "uphill": on_ramp(Style(), 0.15),
    "downhill": on_ramp(Style(), -0.15),
    "upstairs": on_stairs(Style(), 0.15),
    "downstairs": on_stairs(Style(), -0.15),
}


@pytest.fixture(scope="module")
def trials() -> dict[str, Trial]:
    """Six seconds of walking in every style."""
    body = make_body(70.0, 1.75)
    return {
        name: simulate_trial(np.random.default_rng(1), body, style, 6.0, RATE_HZ)
        for name, style in STYLES.items()
    }


def whole_strides(trial: Trial) -> slice:
    """The samples from the first to the last contact of the right foot."""
    contacts = np.flatnonzero(np.diff(np.floor(trial.phase)) > 0) + 1
    return slice(contacts[0], contacts[-1])


def total_force_n(trial: Trial) -> np.ndarray:
    """Force (n, 3) of the ground on both feet."""
    return trial.ground["r"].force_n + trial.ground["l"].force_n


@pytest.mark.parametrize("name", STYLES)
def test_the_ground_carries_the_body(trials: dict[str, Trial], name: str) -> None:
    """Else vertical force labels are biased, and a good model looks wrong."""
    trial = trials[name]
    mean_n = total_force_n(trial)[whole_strides(trial), 1].mean()
    assert mean_n == pytest.approx(trial.body.weight_n, rel=0.02)


@pytest.mark.parametrize("name", STYLES)
def test_force_changes_momentum(trials: dict[str, Trial], name: str) -> None:
    """Else forces do not belong to the motion that the sensors see."""
    trial = trials[name]
    body, force_n = trial.body, total_force_n(trial) - [0.0, trial.body.weight_n, 0.0]
    path_m = center_of_mass(body, trial.poses)
    # Newton's second law integrated twice by the trapezoid rule, which knows of no difference
    # stencil.
    impulse = np.cumsum((force_n[1:] + force_n[:-1]) / 2, axis=0) / RATE_HZ / body.mass_kg
    drift_m = np.cumsum(impulse, axis=0)[:-1] / RATE_HZ
    left_m = path_m[2:] - path_m[0] - drift_m  # must be a straight line: uniform motion
    time_s = trial.time_s[2:]
    line = np.polynomial.polynomial.polyfit(time_s, left_m, 1)
    straight_m = np.polynomial.polynomial.polyval(time_s, line).T
    assert np.abs(left_m - straight_m).max() < 0.002


@pytest.mark.parametrize("name", STYLES)
def test_the_chain_closes_at_the_pelvis(trials: dict[str, Trial], name: str) -> None:
    """Else centre of pressure, forces and motion contradict each other in the hip moments."""
    trial = trials[name]
    left = trial.loads["pelvis"]
    assert np.abs(left.force_n).max() < 1e-3
    assert np.abs(left.moment_nm).max() < 0.005 * trial.body.weight_n * trial.body.height_m


@pytest.mark.parametrize("name", STYLES)
def test_a_loaded_foot_stands_still(trials: dict[str, Trial], name: str) -> None:
    """Else the foot sensors show a skating foot, and zero-velocity methods fail on the sample."""
    trial = trials[name]
    part = trial.phase - np.floor(trial.phase)
    middle = (part > 0.15) & (part < 0.35)
    ankle_m = trial.poses["foot_r"].origin_m
    assert np.abs(np.diff(ankle_m, axis=0))[middle[1:]].max() * RATE_HZ < 0.03
    ball_m = trial.poses["foot_r"].point(trial.body.foot.ball_m)
    loaded = trial.ground["r"].force_n[:, 1] > 0.3 * trial.body.weight_n
    loaded &= (part > 0.15) & (part < 0.60)
    assert np.abs(np.diff(ball_m, axis=0))[loaded[1:]].max() * RATE_HZ < 0.25


@pytest.mark.parametrize("name", STYLES)
def test_angles_rebuild_the_leg(trials: dict[str, Trial], name: str) -> None:
    """Else the angle columns are not the angles of the body whose moments stand next to them."""
    trial = trials[name]
    body, poses = trial.body, trial.poses
    for side, sign in (("r", 1.0), ("l", -1.0)):
        a = {k[:-2]: v for k, v in trial.angles_rad.items() if k.endswith(f"_{side}")}
        hip = Rotation.from_euler(
            "ZXY",
            np.c_[a["hip_flexion"], sign * a["hip_adduction"], sign * a["hip_rotation"]],
        )
        knee = Rotation.from_euler("Z", a["knee_angle"][:, None])
        ankle = Rotation.from_euler("ZX", np.c_[a["ankle_angle"], sign * a["subtalar_angle"]])
        thigh = Rotation.from_matrix(poses["pelvis"].rotation) * hip
        shank = thigh * knee
        hip_m = poses["pelvis"].origin_m + Rotation.from_matrix(poses["pelvis"].rotation).apply(
            [0.0, 0.0, sign * body.hip_half_width_m]
        )
        knee_m = hip_m + thigh.apply([0.0, -body.segments["thigh"].length_m, 0.0])
        ankle_m = knee_m + shank.apply([0.0, -body.segments["shank"].length_m, 0.0])
        np.testing.assert_allclose(ankle_m, poses[f"foot_{side}"].origin_m, atol=1e-6)
        foot = (shank * ankle).as_matrix()
        np.testing.assert_allclose(foot, poses[f"foot_{side}"].rotation, atol=1e-6)


def test_joint_power_is_the_power_of_the_moment(trials: dict[str, Trial]) -> None:
    """Else moments are projected on axes that are not those of the angles next to them."""
    trial = trials["level"]
    for side in SIDES:
        thigh, pelvis = (
            Rotation.from_matrix(trial.poses[k].rotation) for k in (f"thigh_{side}", "pelvis")
        )
        rates = [
            (r[1:] * r[:-1].inv()).as_rotvec() * RATE_HZ for r in (thigh, pelvis)
        ]  # laboratory axes, between the samples
        moment = trial.loads[f"thigh_{side}"].moment_nm
        expected = np.sum((moment[1:] + moment[:-1]) / 2 * (rates[0] - rates[1]), axis=1)
        names = [f"hip_{k}_{side}" for k in ("flexion", "adduction", "rotation")]
        power = sum(trial.powers_w[k] for k in names)
        np.testing.assert_allclose(
            (power[1:] + power[:-1]) / 2, expected, atol=0.03 * np.abs(expected).max()
        )


def stand(body: Body, cop_forward_m: float, count: int = 50) -> tuple[dict, dict]:
    """Poses and feet of a body that stands upright on two feet with slightly bent knees."""
    ones = np.ones((count, 1))
    axes = np.broadcast_to(np.eye(3), (count, 3, 3))
    height_m = 0.98 * (body.segments["thigh"].length_m + body.segments["shank"].length_m)
    ankle_height_m = -body.foot.heel_m[1]
    feet = {}
    for side, sign in (("r", 1.0), ("l", -1.0)):
        across_m = sign * body.hip_half_width_m
        feet[side] = FootPath(
            ankle_m=ones * [0.0, ankle_height_m, across_m],
            rotation=axes,
            cop_m=ones * [cop_forward_m, 0.0, across_m],
            load=np.full(count, 0.5),
        )
    hips_m = ones * [0.0, ankle_height_m + height_m, 0.0]
    return pose_body(body, hips_m, axes, axes, feet), feet


def test_a_standing_body_is_statics() -> None:
    """Else gravity enters moments or accelerometers with a wrong sign or size."""
    body = make_body(80.0, 1.80)
    cop_m = 0.06
    poses, feet = stand(body, cop_m)
    ground = ground_reaction(body, poses, feet, RATE_HZ)
    loads = inverse_dynamics(body, poses, ground, RATE_HZ)
    moments = coordinate_moments(poses, loads)
    foot = body.segments["foot"]
    half_n = body.weight_n / 2
    expected_nm = -cop_m * half_n + foot.center_m[0] * foot.mass_kg * GRAVITY_M_S2
    np.testing.assert_allclose(moments["ankle_angle_r"], expected_nm, rtol=1e-6)
    shank = body.segments["shank"]
    knee_m, ankle_m = poses["shank_r"].origin_m[0], poses["foot_r"].origin_m[0]
    shank_m = knee_m + 0.433 * (ankle_m - knee_m)
    # extension is positive: the ground pushes the foot up in front of or behind the knee
    expected_nm = -(cop_m - knee_m[0]) * half_n
    expected_nm += (shank_m[0] - knee_m[0]) * shank.mass_kg * GRAVITY_M_S2
    expected_nm += (foot.center_m[0] - knee_m[0]) * foot.mass_kg * GRAVITY_M_S2
    np.testing.assert_allclose(moments["knee_angle_r"], expected_nm, rtol=1e-6)
    for name in SEGMENT_NAMES:
        imu = record_imu(None, ideal_mount(np.array([0.1, 0.2, -0.1])), poses[name], RATE_HZ)
        np.testing.assert_allclose(np.linalg.norm(imu.accel_m_s2, axis=1), 9.8, atol=0.01)
        np.testing.assert_allclose(imu.gyro_rad_s, 0.0, atol=1e-12)
    upright = record_imu(None, ideal_mount(np.zeros(3)), poses["trunk"], RATE_HZ)
    np.testing.assert_allclose(upright.accel_m_s2[:, 1], 9.8, atol=0.01)


def test_inverse_dynamics_of_a_pendulum() -> None:
    """Else inertia, lever arms or signs are wrong in every moving joint."""
    segment = make_body(70.0, 1.75).segments["shank"]
    time_s = np.arange(0.0, 3.0, 1e-3)
    pace, size = 2 * np.pi * 0.9, 0.7
    angle = size * np.sin(pace * time_s)
    pose = Pose(np.zeros((len(time_s), 3)), rotation("z", angle))
    load = newton_euler(segment, pose, 1e3, [])
    arm_m = -segment.center_m[1]
    inertia = segment.inertia_kg_m2[2] + segment.mass_kg * arm_m**2
    expected_nm = -inertia * pace**2 * angle
    expected_nm += segment.mass_kg * GRAVITY_M_S2 * arm_m * np.sin(angle)
    inside = slice(5, -5)
    np.testing.assert_allclose(load.moment_nm[inside, 2], expected_nm[inside], atol=2e-3)
    rate = size * pace * np.cos(pace * time_s)
    tension_n = segment.mass_kg * (GRAVITY_M_S2 * np.cos(angle) + rate**2 * arm_m)
    along = np.einsum("ni,ni->n", load.force_n, pose.rotation[:, :, 1])
    np.testing.assert_allclose(along[inside], tension_n[inside], atol=2e-2)


def test_inverse_dynamics_of_a_spinning_top() -> None:
    """Else the gyroscopic part of a moment, which a swinging and turning leg has, is lost."""
    segment = make_body(70.0, 1.75).segments["foot"]
    time_s = np.arange(0.0, 2.0, 1e-3)
    spin, turn, tilt = 6.0, 4.0, 0.5  # rad/s, rad/s, rad: steady precession about the vertical
    axes = rotation("y", turn * time_s) @ rotation("z", np.full(len(time_s), tilt))
    axes = axes @ rotation("y", spin * time_s)
    long_axis, across = segment.inertia_kg_m2[1], segment.inertia_kg_m2[2]
    round_segment = type(segment)(
        segment.mass_kg, segment.length_m, np.zeros(3), np.array([across, long_axis, across])
    )
    load = newton_euler(round_segment, Pose(np.zeros((len(time_s), 3)), axes), 1e3, [])
    expected_nm = (long_axis * (spin + turn * np.cos(tilt)) - across * turn * np.cos(tilt)) * (
        turn * np.sin(tilt)
    )
    size_nm = np.linalg.norm(load.moment_nm[5:-5], axis=1)
    np.testing.assert_allclose(size_nm, abs(expected_nm), rtol=1e-3)


def test_inverse_dynamics_of_a_static_leg_under_a_force() -> None:
    """Else a force under the foot reaches knee and hip with a wrong lever arm or sign."""
    body = make_body(75.0, 1.70)
    poses, _ = stand(body, 0.0)
    count = len(poses["pelvis"].origin_m)
    force_n, point_m = np.array([40.0, 300.0, -25.0]), np.array([0.12, 0.0, 0.13])
    free_nm = np.array([0.0, 5.0, 0.0])
    plate = GroundReaction(*(np.tile(v, (count, 1)) for v in (force_n, point_m, free_nm)))
    nothing = GroundReaction(*(np.zeros((count, 3)) for _ in range(3)))
    loads = inverse_dynamics(body, poses, {"r": plate, "l": nothing}, RATE_HZ)
    below = []
    for name in ("foot", "shank", "thigh"):
        below.append(name)
        joint_m = poses[f"{name}_r"].origin_m[0]
        moment_nm = -np.cross(point_m - joint_m, force_n) - free_nm
        for other in below:
            part = body.segments[other]
            center_m = poses[f"{other}_r"].point(part.center_m)[0]
            weight_n = np.array([0.0, -part.mass_kg * GRAVITY_M_S2, 0.0])
            moment_nm = moment_nm - np.cross(center_m - joint_m, weight_n)
        np.testing.assert_allclose(loads[f"{name}_r"].moment_nm[10], moment_nm, atol=1e-6)


@pytest.mark.parametrize("segment", ["foot_r", "shank_r", "thigh_r", "trunk"])
def test_an_ideal_imu_retraces_its_segment(trials: dict[str, Trial], segment: str) -> None:
    """Else accelerometer and gyroscope do not belong to the motion that made the labels."""
    trial = trials["level"]
    place_m = np.array([0.05, -0.08, 0.03])
    pose = trial.poses[segment]
    imu = record_imu(None, ideal_mount(place_m), pose, RATE_HZ)
    path_m = pose.point(place_m)
    first, count = 100, 300  # a second and a half
    turn = Rotation.from_matrix(pose.rotation[first])
    velocity_m_s = (path_m[first + 1] - path_m[first - 1]) * RATE_HZ / 2
    place = path_m[first].copy()
    for i in range(first, first + count):
        rate = (imu.gyro_rad_s[i] + imu.gyro_rad_s[i + 1]) / 2
        after = turn * Rotation.from_rotvec(rate / RATE_HZ)
        push = turn.apply(imu.accel_m_s2[i]) + after.apply(imu.accel_m_s2[i + 1])
        change = (push / 2 - [0.0, GRAVITY_M_S2, 0.0]) / RATE_HZ
        place += (velocity_m_s + change / 2) / RATE_HZ
        velocity_m_s, turn = velocity_m_s + change, after
    assert np.linalg.norm(place - path_m[first + count]) < 0.02
    error = turn.inv() * Rotation.from_matrix(pose.rotation[first + count])
    assert np.degrees(error.magnitude()) < 0.5


def test_imu_axes_turn_with_the_mount() -> None:
    """Else misalignment is not a change of axes and no calibration could undo it."""
    body = make_body(70.0, 1.75)
    poses, _ = stand(body, 0.05)
    mount = replace(ideal_mount(np.zeros(3)), alignment=rotation_zxy(0.3, 0.0, 0.0)[0])
    accel = record_imu(None, mount, poses["trunk"], RATE_HZ).accel_m_s2
    expected = GRAVITY_M_S2 * np.array([np.sin(0.3), np.cos(0.3), 0.0])
    np.testing.assert_allclose(accel, np.broadcast_to(expected, accel.shape), atol=1e-9)


@pytest.mark.parametrize("name", STYLES)
def test_peaks_are_those_of_walking(trials: dict[str, Trial], name: str) -> None:
    """Else a user who looks at a figure of the sample sees numbers that no walker produces."""
    trial = trials[name]
    vertical_bw = trial.ground["r"].force_n[:, 1] / trial.body.weight_n
    assert 0.9 < vertical_bw.max() < 1.5
    assert vertical_bw.min() > -0.01
    ankle_nm_kg = -trial.moments_nm["ankle_angle_r"].min() / trial.body.mass_kg
    assert 1.0 < ankle_nm_kg < 2.0
    knee_deg = np.degrees(trial.angles_rad["knee_angle_r"])
    assert -115.0 < knee_deg.min() < -40.0
    assert -30.0 < knee_deg.max() < 0.0  # nearly straight once a stride, never bent backwards
    abduction_nm_kg = -trial.moments_nm["hip_adduction_r"].min() / trial.body.mass_kg
    assert 0.4 < abduction_nm_kg < 1.4


def test_level_walking_brakes_then_pushes(trials: dict[str, Trial]) -> None:
    """Else the fore-aft force, a target of both datasets, has the wrong sign or no shape."""
    trial = trials["level"]
    part = trial.phase - np.floor(trial.phase)
    forward_bw = trial.ground["r"].force_n[:, 0] / trial.body.weight_n
    assert -0.35 < forward_bw[(part > 0.05) & (part < 0.2)].min() < -0.10
    assert 0.10 < forward_bw[(part > 0.4) & (part < 0.6)].max() < 0.35
    medial_bw = trial.ground["r"].force_n[:, 2] / trial.body.weight_n
    assert medial_bw[(part > 0.15) & (part < 0.45)].max() < 0.0  # towards the other foot
    vertical = trial.ground["r"].force_n[:, 1]
    dip = vertical[(part > 0.25) & (part < 0.35)].min()
    assert dip < 0.9 * vertical[(part > 0.08) & (part < 0.2)].max()
    assert dip < 0.9 * vertical[(part > 0.4) & (part < 0.55)].max()


def test_a_faster_walker_presses_harder(trials: dict[str, Trial]) -> None:
    """Else speed has no effect, and a model cannot learn what real data would teach it."""
    peaks = {
        name: np.percentile(trials[name].ground["r"].force_n[:, 1], 99)
        for name in ("slow", "level")
    }
    assert peaks["level"] > 1.02 * peaks["slow"]


def test_trunk_sway_changes_moments_and_not_the_feet() -> None:
    """Else a trunk sensor could not help: the foot alone would tell everything."""
    body = make_body(70.0, 1.75)
    knees, ankles = [], []
    for sway_deg in (0.0, 6.0):
        style = Style(trunk_deg=(0.0, sway_deg, 4.0))
        trial = simulate_trial(np.random.default_rng(3), body, style, 4.0, RATE_HZ)
        knees.append(external_knee_moment(trial)[:, 1])
        ankles.append(trial.poses["foot_r"].origin_m)
    np.testing.assert_array_equal(ankles[0], ankles[1])
    assert np.abs(knees[0] - knees[1]).max() > 0.3  # %BW·BH, of a peak of about 3


def test_masses_add_up() -> None:
    """Else body weight and the weight of the segments disagree in every force."""
    body = make_body(68.0, 1.66)
    assert sum(body.segment(name).mass_kg for name in SEGMENT_NAMES) == pytest.approx(68.0)
    centre_m = center_of_mass(body, stand(body, 0.0)[0])[0, 1]
    assert 0.52 < centre_m / body.height_m < 0.58  # 0.55-0.56 in the literature, legs bent a little
    assert set(joint_angles(stand(body, 0.0)[0])["knee_angle_r"] < 0) == {True}


def test_the_sample_is_as_large_as_measured_walking() -> None:
    """Else results on the sample say nothing about the size of results on the data."""
    path = MEASURED / "dataset_b" / "example_data.h5"
    if not path.exists():
        pytest.skip(f"measured data not here: {path}")
    with h5py.File(path) as file:
        names = json.loads(file.attrs["columns"])
        steps = [file[k][:] for k in file]
    measured = {}
    for target in ("EXT_KM_X", "EXT_KM_Y", "plate_2_force_z"):
        peaks = [np.abs(s[:, :, names.index(target)]).max(axis=1) for s in steps]
        scale = [s[0, 0, 0] * GRAVITY_M_S2 if "force" in target else 1.0 for s in steps]
        measured[target] = np.mean([p / k for p, k in zip(peaks, scale, strict=True)])
    body = make_body(64.0, 1.72)
    trial = simulate_trial(np.random.default_rng(0), body, Style(), 6.0, RATE_HZ)
    knee = external_knee_moment(trial)
    assert 0.5 < knee[:, 0].max() / measured["EXT_KM_X"] < 2.0
    assert 0.5 < knee[:, 1].max() / measured["EXT_KM_Y"] < 2.0
    vertical_bw = trial.ground["r"].force_n[:, 1].max() / body.weight_n
    assert vertical_bw == pytest.approx(measured["plate_2_force_z"], rel=0.2)


def test_moments_lie_in_the_range_of_a_measured_trial(trials: dict[str, Trial]) -> None:
    """Else joint moments have a sign or size that those of real walking do not have."""
    path = MEASURED / "dataset_a" / "ab06_levelground_derived_200hz.csv"
    if not path.exists():
        pytest.skip(f"measured data not here: {path}")
    table = np.genfromtxt(path, delimiter=",", names=True)
    mass_kg = 77.3  # mean vertical force of the same person on the treadmill / g
    for name in ("ankle_angle_r", "knee_angle_r", "hip_flexion_r", "hip_adduction_r"):
        real = table[f"{name}_moment"] / mass_kg
        low, high = np.nanpercentile(real, [1, 99])
        moment = trials["level"].moments_nm[name] / trials["level"].body.mass_kg
        main_real, main = (high, moment.max()) if high > -low else (low, moment.min())
        assert 0.4 < main / main_real < 2.0, name
