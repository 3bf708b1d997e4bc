"""The rows of all ten tables: their networks have the paper's sizes, sensors and dropout."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from tests.networks import (
    SCRIPTS,
    check_dependence,
    count_parameters,
    meta_network,
    parameters_of_rows,
    random_batch,
    unused_parameters,
)

BY_NAME = {script.__name__: script for script in SCRIPTS}
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=BY_NAME)
COUNTS = {  # the paper's networks: script, model, IMU sets and then the full set
    "Dataset_A_ffn_hf_ffn_bilstm_convnet": {
        "ffn_hf": [301_116, 347_196, 393_276, 439_356, 523_836],
        "ffn": [9_128_508, 9_131_580, 9_134_652, 9_137_724, 9_143_356],
        "bilstm": [40_596_156, 40_620_732, 40_645_308, 40_669_884, 40_714_940],
        "lstm": [19_774_140, 19_786_428, 19_798_716, 19_811_004, 19_833_532],
        "conv2d": [7_059_740, 7_063_580, 7_067_420, 7_071_260],
    },
    "Dataset_B_ffn_hf_ffn_bilstm_convnet": {
        "ffn_hf": [289_146, 335_226, 427_386, 519_546, 565_626, 903_546],
        "ffn": [1_771_130, 1_774_202, 1_780_346, 1_786_490, 1_789_562, 1_812_090],
        "bilstm": [11_180_282, 11_204_858, 11_254_010, 11_303_162, 11_327_738, 11_507_962],
        "lstm": [5_065_978, 5_078_266, 5_102_842, 5_127_418, 5_139_706, 5_229_818],
        "conv2d": [6_952_730, 6_956_570, 6_964_250, 6_971_930, 6_975_770],
    },
    "Dataset_A_lmfn_tfn_fusion_models": {
        "lmfn": [154_545, 157_617, 160_689, 163_761, 244_465],
        "tfn": [235_847, 238_919, 241_991, 245_063, 4_749_159],
    },
    "Dataset_B_lmfn_tfn_fusion_models": {
        "lmfn": [157_551, 160_623, 166_767, 172_911, 175_983, 273_583],
        "tfn": [238_661, 241_733, 247_877, 254_021, 257_093, 4_778_085],
    },
    "Dataset_A_kinetics_fm_models": {
        "dlr_rmse": [126_837_627, 126_901_371, 126_965_115, 127_028_859],
        "dlr_correlation": [126_837_627, 126_901_371, 126_965_115, 127_028_859],
        "dlr": [253_675_254, 253_802_742, 253_930_230, 254_057_718],  # both of these
        "dl": [254_183_940, 254_311_428, 254_438_916, 254_566_404],
    },
    "Dataset_B_kinetics_fm_models": {
        "dlr_rmse": [38_358_707, 38_422_451, 38_549_939, 38_677_427, 38_741_171],
        "dlr_correlation": [38_358_707, 38_422_451, 38_549_939, 38_677_427, 38_741_171],
        "dlr": [76_717_414, 76_844_902, 77_099_878, 77_354_854, 77_482_342],
        "dl": [77_222_512, 77_350_000, 77_604_976, 77_859_952, 77_987_440],
    },
}
STUDENTS = {
    "Dataset_A_Sensor_Distillation": [1_863_304, 1_874_056, 1_884_808, 1_895_560],
    "Dataset_B_sensor_distillation": [1_872_774, 1_883_526, 1_905_030, 1_926_534, 1_937_286],
}
ABLATION = {  # A, B with video
    "early_lstm": (334_727, 392_837),
    "early_gru": (251_271, 294_789),
    "concat_lstm": (932_487, 990_085),
    "concat_gru": (700_039, 743_045),
    "mffm_lstm": (2_479_112, 2_535_686),
    "mffm_gru": (2_246_664, 2_288_646),
    "mffm_gated": (3_275_144, 3_375_494),
    "mwfs_lstm": (930_824, 988_934),
    "mwff_lstm": (1_080_327, 1_137_925),
    "maf_lstm": (1_523_847, 1_581_445),
    "maf_mwff_lstm": (1_674_375, 1_731_205),
    "maf_mwff_gate_lstm": (2_264_967, 2_321_797),
    "maf_mwfs_lstm": (1_524_872, 1_582_214),
    "maf_mwfs_gate_lstm": (1_787_528, 1_844_870),
    "mwff_mwfs_lstm": (1_081_352, 1_138_694),
    "mwff_mwfs_gate_lstm": (1_344_008, 1_401_350),
    "maf_mwff_mwfs_lstm": (1_675_400, 1_731_974),
}


@pytest.mark.parametrize("name", COUNTS)
def test_rows_of_comparisons_and_their_sizes(name: str) -> None:
    """Every row of the table must be there, with a network of the paper's size."""
    script = BY_NAME[name]
    sets = [*script.IMU_SETS, *([script.FULL_SET] if hasattr(script, "FULL_SET") else [])]
    assert parameters_of_rows(script) == {
        f"{model}-{sensor_set}": count
        for model, counts in COUNTS[name].items()
        for sensor_set, count in zip(sets, counts, strict=model != "conv2d")
    }


@pytest.mark.parametrize("name", STUDENTS)
def test_rows_of_distillation_and_their_sizes(name: str) -> None:
    """The teacher is the full network of the ablation; distillation adds a projection."""
    script = BY_NAME[name]
    expected = {"teacher": ABLATION["mffm_gated"][script.DATASET == "b"] + 49_280}
    for sensor_set, count in zip(script.STUDENT_SETS, STUDENTS[name], strict=True):
        expected |= {f"student-{sensor_set}": count, f"distilled-{sensor_set}": count + 32_896}
    assert parameters_of_rows(script) == expected


def test_rows_of_the_ablation_and_their_sizes() -> None:
    """The rows of Table I and of the subsets, in order; B has those for IMUs alone as well."""
    of_a = parameters_of_rows(BY_NAME["Dataset_A_model_ablation"])
    assert list(of_a.items()) == [(row, counts[0]) for row, counts in ABLATION.items()]
    of_b = parameters_of_rows(BY_NAME["Dataset_B_model_ablation"])
    assert list(of_b) == [*ABLATION, *(f"{row}-all_imus" for row in ABLATION)]
    assert {row: of_b[row] for row in ABLATION} == {row: two[1] for row, two in ABLATION.items()}
    for encoder, gates in (("lstm", 4), ("gru", 3)):  # video: 44 inputs of two directions of 128
        expected = of_b[f"early_{encoder}"] - 2 * gates * 128 * 44
        assert of_b[f"early_{encoder}-all_imus"] == expected
    assert of_b["mffm_gated-all_imus"] == STUDENTS["Dataset_B_sensor_distillation"][-1]


@pytest.mark.usefixtures("narrow")
@every_script
def test_every_parameter_is_used(script: ModuleType) -> None:
    """A layer that the prediction does not depend on inflates the size in the table.

    A projection serves training only; the line of a DLR row is fitted to its RMSE network. The
    rows of a model have the same layers: one of each is enough.
    """
    rows = {row.name.split("-")[0]: row for row in script.ROWS}.values()
    aids = {}
    for row in rows:
        network = row.network()
        part = "rmse_net" if row.name.startswith("dlr-") else "projection"
        if aid := getattr(network, part, None):
            aids[row.name] = count_parameters(aid)
    with_aid = {"teacher", "distilled", "dlr"}
    assert {row.name for row in rows if row.name.split("-")[0] in with_aid} == set(aids)
    assert unused_parameters(script, rows) == aids


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", [name for name in BY_NAME if "kinetics_fm" not in name])
def test_a_row_sees_its_own_sensors_only(name: str) -> None:
    """A result for few sensors that used others is wrong, as in the published 2D convolution."""
    check_dependence(BY_NAME[name], BY_NAME[name].ROWS)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("script", SCRIPTS[5:], ids=list(BY_NAME)[5:])  # A has the same classes
def test_dropout_is_on_in_training_and_off_in_eval(script: ModuleType) -> None:
    """Estimates that change from call to call are no result; training needs dropout."""
    for row in {row.name.split("-")[0]: row for row in reversed(script.ROWS)}.values():
        network, inputs = row.network().train(), random_batch(script, row.name, 2).inputs
        assert not torch.equal(network(*inputs), network(*inputs)), row.name
        network.eval()
        assert torch.equal(network(*inputs), network(*inputs)), row.name


DROPOUTS = {"ffn_hf": 0.05, "ffn": 0.05, "conv2d": 0.05, "bilstm": 0.4, "lstm": 0.4}
DROPOUTS |= {"lmfn": 0.1, "tfn": 0.1} | dict.fromkeys(ABLATION, 0.25)
DROPOUTS |= dict.fromkeys(("teacher", "student", "distilled"), 0.25)


@every_script
def test_dropout_is_the_papers(script: ModuleType) -> None:
    """Rows that differ in dropout from the paper are other networks of the same size."""
    for row in script.ROWS:
        if expected := DROPOUTS.get(row.name.split("-")[0]):  # Kinetics-FM has a test of its own
            network = meta_network(script, row.name)
            assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {expected}
            assert not row.name.startswith("tfn") or network.fusion.dropout == expected
