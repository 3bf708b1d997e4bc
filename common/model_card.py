"""The model card of a run: what its networks are, their results, and what they are not made for."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from tabulate import tabulate

from common.files import plural

if TYPE_CHECKING:
    from common.runs import Run


class Dataset(NamedTuple):
    """What a card says of the data beyond the file.

    Attributes:
        people: whom the data show, and doing what.
        source: the publication to cite.
    """

    people: str
    source: str


DATASETS = {
    "a": Dataset(
        "adults who walk in a laboratory, on level ground, a treadmill, ramps and stairs",
        "Camargo et al. 2021, https://doi.org/10.1016/j.jbiomech.2021.110320",
    ),
    "b": Dataset(
        "adults who walk in a laboratory",
        "Tan et al. 2022, https://doi.org/10.1109/TII.2022.3189648",
    ),
}
SYNTHETIC = Dataset("simulated walkers", "`synthetic_gait`, part of this collection")
PAPER = (
    "Hossain, Hadley, Guo and Choi, *Lightweight and Efficient Kinetics Estimation with Sparse\n"
    "  IMUs via Multi-Modal Sensor Distillation*, IEEE Sensors Journal"
)
SELECTION = {
    "paper": "windows of the training subjects, which is optimistic",
    "strict": "training subjects that were set aside for it",
}


def model_card(run: Run) -> str:
    """Return the model card of all finished rows of a run, in Markdown."""
    script, settings, metrics = run.script, run.settings, run.folder.metrics
    data = settings["data"]
    is_synthetic = bool(data.get("synthetic"))
    warning = "\n**SYNTHETIC DATA: these networks have never seen a person.**\n"
    own = Dataset(f"the people and movements in `{data['file']}`", "your own recordings")
    people, source = SYNTHETIC if is_synthetic else DATASETS.get(script.DATASET, own)
    window_s = script.WINDOW / script.RATE_HZ
    units = [f"{name} ({unit})" for name, unit in script.UNITS.items()]
    targets = [f"{target.name} ({target.unit})" for target in script.TARGETS]
    training = [f"{k} {_text(v)}" for k, v in settings.items() if k not in ("script", "data")]
    row, subject = metrics[["row", "test_subject"]].iloc[-1]
    checkpoint = shlex.quote(f"checkpoints/{row}-subject_{subject}.safetensors")
    summary, *_ = (script.__doc__ or "").strip().split("\n")
    return f"""# Model card: {settings["script"]}, run {run.folder.path.name}

{summary}
{warning if is_synthetic else ""}
## Networks

{_networks(run, metrics)}

- Inputs: windows of {script.WINDOW} samples at {script.RATE_HZ} Hz ({window_s:g} s), of these
  modalities: {", ".join(units)}. Each network normalizes its inputs itself.
- Outputs, at every sample: {", ".join(targets)}. BW is body weight, BH body height.
- The sensors must sit where they sat in the data, with the same axes: see `docs/data_card.md`.

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

- The networks have seen {people}, and nothing else.
  Expect larger errors for other people, other ways to move and other ground.
- A sensor in another place or with other axes gives wrong estimates, without an error message.
- A network that reads whole windows gives live estimates up to {1.5 * window_s:g} s late (a window,
  and half of one until the next), plus the time to compute them.
- Not for clinical decisions.

## Use

In the folder of the collection, with the path of a checkpoint of this run:

    python -m tools.predict --checkpoint {checkpoint} --data walk.csv --out outputs/walk
    python -m tools.export_onnx --checkpoint {checkpoint} --out network.onnx

For a subject of the data, use the checkpoint that held this subject out; for a new person, any.

## Citation

- Networks: {PAPER}. The docstring of each class names its source.
- Data: {source}.
- Code: `CITATION.cff` of the collection.
"""


def _networks(run: Run, metrics: pd.DataFrame) -> str:
    """Return the table of the finished rows: class, sensors, modalities and used parameters."""
    parameters = metrics.groupby("row")["parameters"].first()
    lines = []
    for row in run.script.ROWS:
        if row.name in parameters:
            sensors, modalities = run.script.SENSOR_SETS[row.sensor_set]
            network = row.network.func.__name__
            inputs = ", ".join(sensors), ", ".join(modalities)
            lines.append((row.name, network, *inputs, f"{parameters[row.name]:,}"))
    headers = ["row", "class", "IMUs", "modalities", "parameters"]
    return _table(headers, lines, numbers=1)


def _results(metrics: pd.DataFrame) -> str:
    """Return the table of the results: mean and SD over test subjects, and the worst subject."""
    overall = metrics[metrics["activity"] == "all"]
    groups = overall.groupby(["row", "test_subject"], sort=False)[["nrmse_percent", "pcc"]]
    means = groups.agg(lambda values: values.mean(skipna=False)).reset_index("test_subject")
    lines = []
    for row in overall["row"].unique():
        by_subject = means.loc[[row]]
        nrmse = by_subject["nrmse_percent"]
        worst = by_subject.iloc[nrmse.to_numpy().argmax()]  # NaN counts as the largest
        lines.append(
            (
                *(row, len(by_subject), _mean_sd(nrmse, 2), _mean_sd(by_subject["pcc"], 3)),
                f"{worst['test_subject']} ({worst['nrmse_percent']:.2f})",
            )
        )
    headers = ["row", "test subjects", "NRMSE %", "PCC", "worst subject (NRMSE %)"]
    return _table(headers, lines, numbers=4)


def _mean_sd(values: pd.Series, digits: int) -> str:
    text = f"{values.mean(skipna=False):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {values.std(skipna=False):.{digits}f}"


def _table(headers: list[str], lines: list[tuple[object, ...]], numbers: int) -> str:
    """Return a table in Markdown whose last columns are numbers."""
    alignment = ["left"] * (len(headers) - numbers) + ["right"] * numbers
    return tabulate(lines, headers, "pipe", disable_numparse=True, colalign=alignment)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
