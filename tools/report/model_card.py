"""The model card of a run: its networks, their results, and what they are not suited for."""

from __future__ import annotations

import shlex
from types import ModuleType

import pandas as pd

from common.files import plural
from tools.report.runs import Run
from tools.report.tables import layout, subject_means, summarize_rows

DATASETS = {  # participants and activities; publication to cite
    "a": (
        "adults who walk in a laboratory, on level ground, a treadmill, ramps and stairs",
        "Camargo et al. 2021, https://doi.org/10.1016/j.jbiomech.2021.110320",
    ),
    "b": (
        "adults who walk in a laboratory",
        "Tan et al. 2022, https://doi.org/10.1109/TII.2022.3189648",
    ),
}
SYNTHETIC = ("simulated walkers", "`synthetic_gait`, part of this repository")
PAPER = (
    "Hossain, Hadley, Guo and Choi, *Lightweight and Efficient Kinetics Estimation with Sparse\n"
    "  IMUs via Multi-Modal Sensor Distillation*, IEEE Sensors Journal"
)
SELECTION = {
    "paper": "windows from the training subjects, which is optimistic",
    "strict": "training subjects that were set aside for it",
}


def model_card(run: Run, script: ModuleType) -> str:
    """Return the model card of all finished rows of a run, in Markdown.

    Args:
        run: the run, with at least one finished row.
        script: its script.
    """
    settings, metrics = run.settings, run.metrics
    data = settings["data"]
    is_synthetic = bool(data.get("synthetic"))
    warning = "\n**SYNTHETIC DATA: these networks were trained on simulated walking only.**\n"
    own = (f"the people and movements in `{data['file']}`", "your own recordings")
    people, source = SYNTHETIC if is_synthetic else DATASETS.get(script.DATASET, own)
    window_s = script.WINDOW / script.RATE_HZ
    units = [f"{name} ({unit})" for name, unit in script.UNITS.items()]
    targets = [f"{target.name} ({target.unit})" for target in script.TARGETS]
    training = [f"{k} {_text(v)}" for k, v in settings.items() if k not in ("script", "data")]
    row, subject = metrics[["row", "test_subject"]].iloc[-1]
    checkpoint = shlex.quote(f"checkpoints/{row}-subject_{subject}.safetensors")
    summary, *_ = (script.__doc__ or "").strip().split("\n")
    return f"""# Model card: {run.script}, run {run.folder.name}

{summary}
{warning if is_synthetic else ""}
## Networks

{_networks(script, metrics)}

- Inputs, at {script.RATE_HZ} Hz: {", ".join(units)}; the table lists the modalities of each
  network. Windows have {script.WINDOW} samples ({window_s:g} s); streaming networks read one
  sample at a time. Each network normalizes its inputs itself.
- Outputs, at every sample: {", ".join(targets)}. BW is body weight, BH body height.
- The sensors must be placed and oriented as in the data: see `docs/data_card.md`.

## Training and test

- Data: `{data["file"]}`, {plural(len(data["subjects"]), "subject")}: {", ".join(data["subjects"])}.
- Each network was trained on all subjects but one and tested on that one, whose id is in the
  name of its checkpoint. The best epoch was selected on
  {SELECTION[settings["protocol"]]}.
- Settings, named as the flags of the script: {", ".join(training)}.
- The versions of the software are in `config.json`.

## Results

{_results(metrics)}

NRMSE and PCC are means over the targets, then mean ± SD over the test subjects. `metrics.csv`
has them per target and activity.

## Limits

- The networks were trained on {people} only.
  Expect larger errors for other people, other movements and other ground.
- A sensor in a different place gives wrong estimates, without an error message. `tools.predict`
  detects some sensors that are mounted differently.
- A network that reads whole windows has a latency of up to {1.5 * window_s:g} s in live use
  (a window, and half of one until the next), plus the time to compute the estimates.
- Not for clinical decisions.

## Use

In the folder of this repository, with the path of a checkpoint of this run:

    python -m tools.predict --checkpoint {checkpoint} --data walk.csv --out outputs/walk
    python -m tools.export_onnx --checkpoint {checkpoint} --out network.onnx

For a subject of the data, use the checkpoint for which that subject was held out; for a new
person, any.

## Citation

- Networks: {PAPER}. The docstring of each class names its source.
- Data: {source}.
- Code: `CITATION.cff` of this repository.
"""


def _networks(script: ModuleType, metrics: pd.DataFrame) -> str:
    """Return the table of the finished rows: class, sensors, modalities and used parameters."""
    parameters = metrics.groupby("row")["parameters"].first()
    lines = []
    for row in script.ROWS:
        if row.name in parameters:
            sensors, modalities = map(", ".join, script.SENSOR_SETS[row.sensor_set])
            line = {"row": row.name, "class": row.network.func.__name__, "IMUs": sensors}
            lines.append({**line, "modalities": modalities, "parameters": parameters[row.name]})
    columns = ["row", "class", "IMUs", "modalities", "parameters"]
    return layout(pd.DataFrame(lines, columns=columns), "pipe")


def _results(metrics: pd.DataFrame) -> str:
    """Return the table of the results: mean and SD over test subjects, and the worst subject."""
    rows = metrics["row"].unique()
    numbers = summarize_rows(metrics, rows).drop(columns="parameters")
    tested = metrics.groupby("row")["test_subject"].nunique()
    numbers.insert(1, "test subjects", tested[rows].to_numpy())
    nrmse = [
        subject_means(metrics[metrics["row"] == row], "nrmse_percent").loc[row] for row in rows
    ]
    worst = [
        (values.index[values.to_numpy().argmax()], values.max(skipna=False)) for values in nrmse
    ]
    numbers["worst subject (NRMSE %)"] = [f"{subject} ({value:.2f})" for subject, value in worst]
    return layout(numbers, "pipe")


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
