"""The 129 columns of Dataset A by block, in the order of the file."""

from __future__ import annotations

from common.data import IMU_SENSORS, MUSCLES

GONIOMETERS = ("ankle_sagittal", "ankle_frontal", "knee_sagittal", "hip_sagittal", "hip_frontal")

PELVIS = tuple(f"pelvis_{name}" for name in ("tilt", "list", "rotation", "tx", "ty", "tz"))
HIP = ("hip_flexion", "hip_adduction", "hip_rotation")
BELOW_HIP = ("knee_angle", "ankle_angle", "subtalar_angle", "mtp_angle")
LUMBAR = ("lumbar_extension", "lumbar_bending", "lumbar_rotation")
COORDINATES = (  # joint angles, in OpenSim's order
    *PELVIS,
    *(f"{name}_{side}" for side in "rl" for name in HIP + BELOW_HIP),
    *LUMBAR,
)
TREE_COORDINATES = (  # the same coordinates in the order of OpenSim's inverse dynamics
    *PELVIS,
    *(f"{name}_{side}" for side in "rl" for name in HIP),
    *LUMBAR,
    *(f"{name}_{side}" for name in BELOW_HIP for side in "rl"),
)


def load_name(coordinate: str) -> str:
    """Return OpenSim's name of the generalized force of a coordinate."""
    is_translation = coordinate in PELVIS[3:]
    return f"{coordinate}_{'force' if is_translation else 'moment'}"


DATASET_A_COLUMNS = (
    *(f"{sensor}_{kind}_{axis}" for sensor in IMU_SENSORS for kind in ("Accel", "Gyro")
      for axis in "XYZ"),
    *COORDINATES,
    *map(load_name, TREE_COORDINATES),
    *(f"right_v{axis}" for axis in "xyz"),
    *(f"right_moment_{axis}" for axis in "xyz"),
    *(f"right_p{axis}" for axis in "xyz"),
    *GONIOMETERS,
    *(f"{muscle}_raw" for muscle in MUSCLES),
    *MUSCLES,
    *(f"{coordinate}_power" for coordinate in TREE_COORDINATES),
)  # fmt: skip
