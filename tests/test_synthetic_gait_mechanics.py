"""Synthetic gait obeys mechanics: forces, moments and signals against laws and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from synthetic_gait.dataset_b import external_knee_moment
from synthetic_gait.kinematics import Pose, Poses, rotation, rotation_zxy
from synthetic_gait.motion import FootPath, center_of_mass, pose_body
from synthetic_gait.sensors import ideal_mount, record_imu
from synthetic_gait.subject import (
    GRAVITY_M_S2,
    SEGMENT_NAMES,
    SIDE_SIGN,
    SIDES,
    Body,
    Segment,
    Style,
    at_speed,
    make_body,
    on_ramp,
    on_stairs,
)
from synthetic_gait.trial import (
    Trial,
    coordinate_moments,
    ground_reaction,
    inverse_dynamics,
    joint_angles,
    newton_euler,
    simulate_trial,
)
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
    """Return six seconds of walking in every style."""
    body = make_body(70.0, 1.75)
    return {
        name: simulate_trial(np.random.default_rng(1), body, style, 6.0, RATE_HZ)
        for name, style in STYLES.items()
    }


@pytest.fixture(params=STYLES)
def trial(request: pytest.FixtureRequest, trials: dict[str, Trial]) -> Trial:
    """Return the trial of each style in turn."""
    return trials[request.param]


@pytest.fixture
def level(trials: dict[str, Trial]) -> Trial:
    """Return the trial of level walking at normal speed."""
    return trials["level"]


def total_force_n(trial: Trial) -> np.ndarray:
    """Return the force (n, 3) of the ground on both feet."""
    return trial.ground["r"].force_n + trial.ground["l"].force_n


def test_the_ground_carries_the_body(trial: Trial) -> None:
    """Else vertical force targets are biased, and a good model looks bad."""
    contacts = np.flatnonzero(np.diff(np.floor(trial.phase)) > 0) + 1
    mean_n = total_force_n(trial)[contacts[0] : contacts[-1], 1].mean()  # whole strides
    assert mean_n == pytest.approx(trial.body.weight_n, rel=0.02)


def test_force_changes_momentum(trial: Trial) -> None:
    """Else forces do not belong to the motion that the sensors measure."""
    body, force_n = trial.body, total_force_n(trial) - [0.0, trial.body.weight_n, 0.0]
    path_m = center_of_mass(body, trial.poses)
    # Newton's second law integrated twice by the trapezoidal rule, independently of the stencil
    # with which the simulator differentiates.
    velocity_m_s = np.cumsum((force_n[1:] + force_n[:-1]) / 2, axis=0) / RATE_HZ / body.mass_kg
    displacement_m = np.cumsum(velocity_m_s, axis=0)[:-1] / RATE_HZ
    uniform_m = path_m[2:] - path_m[0] - displacement_m  # uniform motion: a straight line
    time_s = trial.time_s[2:]
    line = np.polynomial.polynomial.polyfit(time_s, uniform_m, 1)
    fitted_m = np.polynomial.polynomial.polyval(time_s, line).T
    assert np.abs(uniform_m - fitted_m).max() < 0.002


def test_the_pelvis_has_no_residual_load(trial: Trial) -> None:
    """Else center of pressure, forces and motion contradict each other in the hip moments."""
    residual = trial.loads["pelvis"]
    assert np.abs(residual.force_n).max() < 1e-3
    assert np.abs(residual.moment_nm).max() < 0.005 * trial.body.weight_n * trial.body.height_m


def test_a_loaded_foot_does_not_slide(trial: Trial) -> None:
    """Else the foot sensors measure a sliding foot, and zero-velocity methods fail."""
    part = trial.phase - np.floor(trial.phase)
    foot = trial.poses["foot_r"]

    def max_speed_m_s(path_m: np.ndarray, samples: np.ndarray) -> float:
        return np.abs(np.diff(path_m, axis=0))[samples[1:]].max() * RATE_HZ

    assert max_speed_m_s(foot.origin_m, (part > 0.15) & (part < 0.35)) < 0.03
    loaded = trial.ground["r"].force_n[:, 1] > 0.3 * trial.body.weight_n
    loaded &= (part > 0.15) & (part < 0.60)
    assert max_speed_m_s(foot.point(trial.body.foot.ball_m), loaded) < 0.25


def test_angles_rebuild_the_leg(trial: Trial) -> None:
    """Else the joint angles are not those of the body that has the joint moments."""
    body, poses = trial.body, trial.poses
    for side, sign in SIDE_SIGN.items():
        a = {k[:-2]: v for k, v in trial.angles_rad.items() if k.endswith(f"_{side}")}
        hip = Rotation.from_euler(
            "ZXY", np.c_[a["hip_flexion"], sign * a["hip_adduction"], sign * a["hip_rotation"]]
        )
        knee = Rotation.from_euler("Z", a["knee_angle"][:, None])
        ankle = Rotation.from_euler("ZX", np.c_[a["ankle_angle"], sign * a["subtalar_angle"]])
        pelvis = Rotation.from_matrix(poses["pelvis"].rotation)
        thigh = pelvis * hip
        shank = thigh * knee
        hip_m = poses["pelvis"].origin_m + pelvis.apply([0.0, 0.0, sign * body.hip_half_width_m])
        knee_m = hip_m + thigh.apply([0.0, -body.segments["thigh"].length_m, 0.0])
        ankle_m = knee_m + shank.apply([0.0, -body.segments["shank"].length_m, 0.0])
        np.testing.assert_allclose(ankle_m, poses[f"foot_{side}"].origin_m, atol=1e-6)
        foot = (shank * ankle).as_matrix()
        np.testing.assert_allclose(foot, poses[f"foot_{side}"].rotation, atol=1e-6)


def test_peaks_are_those_of_walking(trial: Trial) -> None:
    """Else figures of synthetic data show values that no walker produces."""
    vertical_bw = trial.ground["r"].force_n[:, 1] / trial.body.weight_n
    assert 0.9 < vertical_bw.max() < 1.5
    assert vertical_bw.min() > -0.01
    plantarflexion_nm_kg = -trial.moments_nm["ankle_angle_r"].min() / trial.body.mass_kg
    assert 1.0 < plantarflexion_nm_kg < 2.0
    knee_deg = np.degrees(trial.angles_rad["knee_angle_r"])
    assert -115.0 < knee_deg.min() < -40.0
    assert -30.0 < knee_deg.max() < 0.0  # nearly straight once per stride, never hyperextended
    abduction_nm_kg = -trial.moments_nm["hip_adduction_r"].min() / trial.body.mass_kg
    assert 0.4 < abduction_nm_kg < 1.4


def test_level_walking_brakes_then_pushes(level: Trial) -> None:
    """Else the anteroposterior force, a target of both datasets, has a wrong sign or shape."""
    part = level.phase - np.floor(level.phase)
    forward, vertical, right = level.ground["r"].force_n.T / level.body.weight_n
    assert -0.35 < forward[(part > 0.05) & (part < 0.2)].min() < -0.10
    assert 0.10 < forward[(part > 0.4) & (part < 0.6)].max() < 0.35
    assert right[(part > 0.15) & (part < 0.45)].max() < 0.0  # medial
    dip = vertical[(part > 0.25) & (part < 0.35)].min()
    assert dip < 0.9 * vertical[(part > 0.08) & (part < 0.2)].max()
    assert dip < 0.9 * vertical[(part > 0.4) & (part < 0.55)].max()


def test_speed_raises_the_vertical_force(trials: dict[str, Trial]) -> None:
    """Else a model cannot learn the effect of speed that real data have."""
    slow, level = (
        np.percentile(trials[name].ground["r"].force_n[:, 1], 99) for name in ("slow", "level")
    )
    assert level > 1.02 * slow


def test_trunk_sway_changes_moments_but_not_the_feet() -> None:
    """Else a trunk sensor has no information that the foot sensor lacks."""
    body = make_body(70.0, 1.75)
    knees, ankles = [], []
    for sway_deg in (0.0, 6.0):
        style = Style(trunk_deg=(0.0, sway_deg, 4.0))
        trial = simulate_trial(np.random.default_rng(3), body, style, 4.0, RATE_HZ)
        knees.append(external_knee_moment(trial)[:, 1])
        ankles.append(trial.poses["foot_r"].origin_m)
    np.testing.assert_array_equal(ankles[0], ankles[1])
    assert np.abs(knees[0] - knees[1]).max() > 0.3  # %BW·BH, with a peak of about 3


def test_joint_power_is_moment_times_angular_velocity(level: Trial) -> None:
    """Else moments are projected on axes other than those of the joint angles."""
    for side in SIDES:
        thigh_rad_s, pelvis_rad_s = (
            (r[1:] * r[:-1].inv()).as_rotvec() * RATE_HZ  # between samples
            for name in (f"thigh_{side}", "pelvis")
            for r in [Rotation.from_matrix(level.poses[name].rotation)]
        )
        moment_nm = level.loads[f"thigh_{side}"].moment_nm
        expected_w = np.sum(
            (moment_nm[1:] + moment_nm[:-1]) / 2 * (thigh_rad_s - pelvis_rad_s), axis=1
        )
        names = [f"hip_{name}_{side}" for name in ("flexion", "adduction", "rotation")]
        power_w = sum(level.powers_w[name] for name in names)
        np.testing.assert_allclose(
            (power_w[1:] + power_w[:-1]) / 2, expected_w, atol=0.03 * np.abs(expected_w).max()
        )


def stand(body: Body, cop_forward_m: float) -> tuple[Poses, dict[str, FootPath]]:
    """Return poses and feet of a body that stands upright with slightly bent knees."""
    ones = np.ones((50, 1))
    axes = np.broadcast_to(np.eye(3), (50, 3, 3))
    leg_m = 0.98 * (body.segments["thigh"].length_m + body.segments["shank"].length_m)
    ankle_height_m = -body.foot.heel_m[1]
    feet = {}
    for side, sign in SIDE_SIGN.items():
        right_m = sign * body.hip_half_width_m
        feet[side] = FootPath(
            ankle_m=ones * [0.0, ankle_height_m, right_m],
            rotation=axes,
            cop_m=ones * [cop_forward_m, 0.0, right_m],
            load=np.full(50, 0.5),
        )
    hips_m = ones * [0.0, ankle_height_m + leg_m, 0.0]
    return pose_body(body, hips_m, axes, axes, feet), feet


def test_a_standing_body_obeys_statics() -> None:
    """Else gravity enters moments or accelerometers with a wrong sign or size."""
    body = make_body(80.0, 1.80)
    cop_m = 0.06
    poses, feet = stand(body, cop_m)
    ground = ground_reaction(body, poses, feet, RATE_HZ)
    moments_nm = coordinate_moments(poses, inverse_dynamics(body, poses, ground, RATE_HZ))
    half_n = body.weight_n / 2
    foot, shank = body.segments["foot"], body.segments["shank"]
    foot_n, shank_n = foot.mass_kg * GRAVITY_M_S2, shank.mass_kg * GRAVITY_M_S2
    expected_nm = -cop_m * half_n + foot.center_m[0] * foot_n
    np.testing.assert_allclose(moments_nm["ankle_angle_r"], expected_nm, rtol=1e-6)
    knee_m, ankle_m = poses["shank_r"].origin_m[0, 0], poses["foot_r"].origin_m[0, 0]
    shank_m = knee_m + 0.433 * (ankle_m - knee_m)
    expected_nm = -(cop_m - knee_m) * half_n  # extension is positive
    expected_nm += (shank_m - knee_m) * shank_n + (foot.center_m[0] - knee_m) * foot_n
    np.testing.assert_allclose(moments_nm["knee_angle_r"], expected_nm, rtol=1e-6)
    for name in SEGMENT_NAMES:
        imu = record_imu(None, ideal_mount([0.1, 0.2, -0.1]), poses[name], RATE_HZ)
        np.testing.assert_allclose(np.linalg.norm(imu.accel_m_s2, axis=1), 9.8, atol=0.01)
        np.testing.assert_allclose(imu.gyro_rad_s, 0.0, atol=1e-12)
    upright = record_imu(None, ideal_mount(np.zeros(3)), poses["trunk"], RATE_HZ)
    np.testing.assert_allclose(upright.accel_m_s2[:, 1], 9.8, atol=0.01)


def test_inverse_dynamics_of_a_pendulum() -> None:
    """Else inertia, lever arms or signs are wrong in every moving joint."""
    segment = make_body(70.0, 1.75).segments["shank"]
    time_s = np.arange(0.0, 3.0, 1e-3)
    frequency_rad_s, amplitude_rad = 2 * np.pi * 0.9, 0.7
    angle = amplitude_rad * np.sin(frequency_rad_s * time_s)
    pose = Pose(np.zeros((len(time_s), 3)), rotation("z", angle))
    load = newton_euler(segment, pose, 1e3, [])
    arm_m = -segment.center_m[1]
    inertia = segment.inertia_kg_m2[2] + segment.mass_kg * arm_m**2
    expected_nm = -inertia * frequency_rad_s**2 * angle
    expected_nm += segment.mass_kg * GRAVITY_M_S2 * arm_m * np.sin(angle)
    inside = slice(5, -5)
    np.testing.assert_allclose(load.moment_nm[inside, 2], expected_nm[inside], atol=2e-3)
    rate_rad_s = amplitude_rad * frequency_rad_s * np.cos(frequency_rad_s * time_s)
    tension_n = segment.mass_kg * (GRAVITY_M_S2 * np.cos(angle) + rate_rad_s**2 * arm_m)
    along_n = np.einsum("ni,ni->n", load.force_n, pose.rotation[:, :, 1])
    np.testing.assert_allclose(along_n[inside], tension_n[inside], atol=2e-2)


def test_inverse_dynamics_of_a_spinning_top() -> None:
    """Else the gyroscopic moment of a leg that swings and turns is lost."""
    mass_kg, axial, transverse = 1.0, 0.004, 0.001  # kg m²
    time_s = np.arange(0.0, 2.0, 1e-3)
    spin, precession, tilt = 6.0, 4.0, 0.5  # rad/s, rad/s, rad: steady precession
    axes = rotation("y", precession * time_s) @ rotation("z", np.full(len(time_s), tilt))
    axes = axes @ rotation("y", spin * time_s)
    top = Segment(mass_kg, 0.1, np.zeros(3), np.array([transverse, axial, transverse]))
    load = newton_euler(top, Pose(np.zeros((len(time_s), 3)), axes), 1e3, [])
    along = spin + precession * np.cos(tilt)
    expected_nm = (axial * along - transverse * precession * np.cos(tilt)) * (
        precession * np.sin(tilt)
    )
    size_nm = np.linalg.norm(load.moment_nm[5:-5], axis=1)
    np.testing.assert_allclose(size_nm, abs(expected_nm), rtol=1e-3)


@pytest.mark.parametrize("segment", ["foot_r", "shank_r", "thigh_r", "trunk"])
def test_an_ideal_imu_retraces_its_segment(level: Trial, segment: str) -> None:
    """Else accelerometer and gyroscope do not belong to the motion behind the targets."""
    pose, place_m = level.poses[segment], np.array([0.05, -0.08, 0.03])
    imu = record_imu(None, ideal_mount(place_m), pose, RATE_HZ)
    path_m = pose.point(place_m)
    first, last = 100, 400  # a second and a half
    orientation = Rotation.from_matrix(pose.rotation[first])
    velocity_m_s = (path_m[first + 1] - path_m[first - 1]) * RATE_HZ / 2
    position_m = path_m[first].copy()
    for i in range(first, last):
        rate_rad_s = (imu.gyro_rad_s[i] + imu.gyro_rad_s[i + 1]) / 2
        after = orientation * Rotation.from_rotvec(rate_rad_s / RATE_HZ)
        force = orientation.apply(imu.accel_m_s2[i]) + after.apply(imu.accel_m_s2[i + 1])
        change_m_s = (force / 2 - [0.0, GRAVITY_M_S2, 0.0]) / RATE_HZ
        position_m += (velocity_m_s + change_m_s / 2) / RATE_HZ
        velocity_m_s, orientation = velocity_m_s + change_m_s, after
    assert np.linalg.norm(position_m - path_m[last]) < 0.02
    error = orientation.inv() * Rotation.from_matrix(pose.rotation[last])
    assert np.degrees(error.magnitude()) < 0.5


def test_a_misaligned_imu_measures_in_its_own_axes() -> None:
    """Else misalignment is not a rotation, and no calibration could remove it."""
    poses, _ = stand(make_body(70.0, 1.75), 0.05)
    mount = replace(ideal_mount(np.zeros(3)), alignment=rotation_zxy(0.3, 0.0, 0.0)[0])
    accel = record_imu(None, mount, poses["trunk"], RATE_HZ).accel_m_s2
    expected = GRAVITY_M_S2 * np.array([np.sin(0.3), np.cos(0.3), 0.0])
    np.testing.assert_allclose(accel, np.broadcast_to(expected, accel.shape), atol=1e-9)


def test_masses_add_up() -> None:
    """Else body weight and the weight of the segments disagree in every force."""
    body = make_body(68.0, 1.66)
    poses, _ = stand(body, 0.0)
    assert sum(body.segment(name).mass_kg for name in SEGMENT_NAMES) == pytest.approx(68.0)
    center_m = center_of_mass(body, poses)[0, 1]
    assert 0.52 < center_m / body.height_m < 0.58  # 0.55-0.56 in the literature, with straight legs
    assert (joint_angles(poses)["knee_angle_r"] < 0).all()


def test_moments_are_as_large_as_measured_in_a(level: Trial) -> None:
    """Else joint moments have a sign or size that those of real walking do not have."""
    path = MEASURED / "dataset_a" / "ab06_levelground_derived_200hz.csv"
    if not path.exists():
        pytest.skip(f"measured data not here: {path}")
    table = np.genfromtxt(path, delimiter=",", names=True)
    mass_kg = 77.3  # mean vertical force of the same subject on the treadmill / g
    for name in ("ankle_angle_r", "knee_angle_r", "hip_flexion_r", "hip_adduction_r"):
        low, high = np.nanpercentile(table[f"{name}_moment"] / mass_kg, [1, 99])
        moment = level.moments_nm[name] / level.body.mass_kg
        real_peak, peak = (high, moment.max()) if high > -low else (low, moment.min())
        assert 0.4 < peak / real_peak < 2.0, name
