"""One trial of walking with everything that can be known about it, in physical units."""

from dataclasses import dataclass

import numpy as np

from .balance import Pose, Poses, walk_body
from .body import Body
from .dynamics import GroundReaction, JointLoad, ground_reaction, inverse_dynamics
from .feet import plan_walk
from .joints import coordinate_moments, joint_angles, joint_powers
from .style import Style

RUN_UP_S = 1.5  # simulated before and after a trial and cut off: the ends are not walking yet


@dataclass(frozen=True)
class Trial:
    """Un-normalised truth of one trial; `n` samples at `rate_hz`.

    Laboratory axes: x forward, y up, z right; the ground does not move (a treadmill's belt is at
    rest here, which changes no force). Dictionaries by side have the keys `r` and `l`.

    Args:
        body: who walks.
        style: how.
        rate_hz: sampling rate.
        time_s: (n,) from 0.
        phase: (n,) gait phase, whole at right foot contacts.
        contact: by side, (n,) bool, the foot is on the ground.
        poses: by segment, joint positions and axes.
        ground: by side, ground reaction in N, m and Nm.
        loads: by segment, force and moment at its proximal joint in N and Nm.
        angles_rad: by coordinate, (n,) rad (pelvis translations m).
        moments_nm: by coordinate, (n,) Nm (pelvis translations N).
        powers_w: by coordinate, (n,) W.
    """

    body: Body
    style: Style
    rate_hz: float
    time_s: np.ndarray
    phase: np.ndarray
    contact: dict[str, np.ndarray]
    poses: Poses
    ground: dict[str, GroundReaction]
    loads: dict[str, JointLoad]
    angles_rad: dict[str, np.ndarray]
    moments_nm: dict[str, np.ndarray]
    powers_w: dict[str, np.ndarray]


def simulate_trial(
    rng: np.random.Generator, body: Body, style: Style, duration_s: float, rate_hz: float
) -> Trial:
    """Walk for `duration_s` and work out forces, angles, moments and powers."""
    run_up = round(RUN_UP_S * rate_hz)
    count = round(duration_s * rate_hz)
    time_s = (np.arange(count + 2 * run_up) - run_up) / rate_hz
    walk = plan_walk(rng, body, style, time_s)
    poses = walk_body(rng, body, style, walk, rate_hz)
    ground = ground_reaction(body, poses, walk.feet, rate_hz)
    loads = inverse_dynamics(body, poses, ground, rate_hz)
    angles = joint_angles(poses)
    moments = coordinate_moments(poses, loads)
    powers = joint_powers(angles, moments, rate_hz)
    keep = slice(run_up, run_up + count)
    return Trial(
        body=body,
        style=style,
        rate_hz=rate_hz,
        time_s=time_s[keep],
        phase=walk.phase[keep],
        contact={side: foot.load[keep] > 0.0 for side, foot in walk.feet.items()},
        poses={k: Pose(p.origin_m[keep], p.rotation[keep]) for k, p in poses.items()},
        ground={
            k: GroundReaction(g.force_n[keep], g.cop_m[keep], g.free_moment_nm[keep])
            for k, g in ground.items()
        },
        loads={k: JointLoad(v.force_n[keep], v.moment_nm[keep]) for k, v in loads.items()},
        angles_rad={k: v[keep] for k, v in angles.items()},
        moments_nm={k: v[keep] for k, v in moments.items()},
        powers_w={k: v[keep] for k, v in powers.items()},
    )


def belt_path(trial: Trial) -> np.ndarray:
    """How far (n, 3) in m a treadmill's belt would have carried the ground back; zero off a belt.

    Subtracted from a place, it gives the place in the room, near where the pelvis is at time 0.
    """
    path_m = np.zeros((len(trial.time_s), 3))
    if trial.style.on_belt:
        start_m = trial.poses["pelvis"].origin_m[0, 0]
        path_m[:, 0] = start_m + trial.style.speed_m_s * trial.time_s
    return path_m
