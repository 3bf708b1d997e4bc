"""Windows, folds and the split into training and validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from common.folds import stream_windows, stretch_windows
from sklearn.model_selection import train_test_split

import Dataset_B_sensor_distillation as script_b
from common import folds
from common.data import Recording, read_dataset_b
from common.files import InputError


def recording(lengths: dict[str, list[int]]) -> Recording:
    """Return a recording of subjects with stretches of the given lengths."""
    subject = np.repeat(np.arange(len(lengths)), [sum(parts) for parts in lengths.values()])
    parts = [length for stretches in lengths.values() for length in stretches]
    return Recording(
        path=Path("hand_made.h5"),
        samples={"targets": torch.zeros(len(subject), 1)},
        subjects=list(lengths),
        activities=[""],
        subject=subject,
        activity=np.zeros(len(subject), int),
        stretch=np.repeat(np.arange(len(parts)), parts),
        dropped={},
        has_trials=True,
    )


def test_paper_windows_with_a_tail() -> None:
    """The tail is filled with the stream's last rows, which are not scored twice."""
    windows = stream_windows(np.arange(11), window=4)
    assert windows.rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]
    assert windows.first.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    windows = stream_windows(np.arange(9), window=4)
    assert windows.rows.tolist()[-1] == [8, 6, 7, 8]
    assert windows.first.sum() == 9


def test_paper_windows_without_a_tail() -> None:
    """With nothing left over there is no window more: the published code adds a duplicate."""
    windows = stream_windows(np.arange(8), window=4)
    assert windows.rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows.first.all()


def test_strict_windows_stay_within_a_stretch() -> None:
    """A window over two trials or a dropped row shows the model a jump that nobody made."""
    stretch = np.repeat([3, 4, 5, 9], [9, 3, 4, 5])
    windows = stretch_windows(100 + np.arange(21), stretch, window=4)
    assert windows.rows.tolist() == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [112, 113, 114, 115],
        [116, 117, 118, 119],
    ]
    assert windows.first.all()


def test_strict_tests_the_end_of_a_stretch_too() -> None:
    """Push-off lies at the end of a step: a window that ends with the step covers it, once."""
    stretch = np.repeat([0, 1, 2], [11, 3, 4])
    windows = stretch_windows(np.arange(18), stretch, window=4, cover_tail=True)
    assert windows.rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [7, 8, 9, 10], [14, 15, 16, 17]]
    assert windows.rows[windows.first].tolist() == [*range(11), *range(14, 18)]
    made = recording({"1": [30], "2": [23, 17, 9], "3": [40]})
    fold = folds.make_fold(made, "2", window=10, protocol="strict", seed=0)
    assert fold.test[fold.scored].tolist() == list(range(30, 70))
    assert not set(fold.train.flatten().tolist()) & set(range(30, 79))


def test_strict_windows_of_random_stretches() -> None:
    """Whatever the lengths, no window crosses and none that fits is missing."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 30, size=20)
        stretch = np.repeat(np.arange(20), lengths)
        windows = stretch_windows(np.arange(len(stretch)), stretch, window=7).rows
        assert (stretch[windows] == stretch[windows][:, :1]).all()
        assert (np.diff(windows, axis=1) == 1).all()
        assert len(windows) == (lengths // 7).sum()


def test_the_stream_skips_the_test_subject_and_its_rows_are_tested_once() -> None:
    """A row of the test subject in the training windows would make every figure worthless."""
    made = recording({"1": [30, 13], "2": [25], "3": [41]})
    fold = folds.make_fold(made, "2", window=10, protocol="paper", seed=0)
    of_test = set(np.flatnonzero(made.subject == 1))
    training = torch.cat([fold.train, fold.validation])
    assert set(training.flatten().tolist()) == set(range(len(made.subject))) - of_test
    assert sorted(fold.test[fold.scored].tolist()) == sorted(of_test)
    assert (made.subject[fold.test] == 1).all()


def test_paper_split_equals_scikit_learn() -> None:
    """The validation windows are those of the published evaluation."""
    made = recording({"1": [500], "2": [333], "3": [100]})
    fold = folds.make_fold(made, "3", window=10, protocol="paper", seed=7)
    windows = stream_windows(np.arange(833), 10).rows
    train, validation = train_test_split(windows, test_size=0.2, random_state=1)
    assert (fold.train.numpy() == train).all()
    assert (fold.validation.numpy() == validation).all()


def test_strict_validates_on_other_subjects() -> None:
    """Early stopping on windows of training subjects is optimistic: strict must not do so."""
    made = recording({str(i): [50] for i in range(1, 12)})
    fold = folds.make_fold(made, "11", window=10, protocol="strict", seed=3)
    subjects = [set(made.subject[part].flatten()) for part in (fold.train, fold.validation)]
    assert not subjects[0] & subjects[1]
    assert [len(s) for s in subjects] == [8, 2]
    assert 10 not in subjects[0] | subjects[1]
    again = folds.make_fold(made, "11", window=10, protocol="strict", seed=3)
    assert torch.equal(fold.validation, again.validation)
    others = [folds.validation_subjects(list("abcdefghij"), seed) for seed in range(20)]
    assert len({tuple(sorted(other)) for other in others}) > 1
    assert len(folds.validation_subjects(["1", "2"], seed=0)) == 1


def test_strict_needs_three_subjects() -> None:
    """Two subjects cannot train, validate and test: said before anything is trained."""
    made = recording({"1": [50], "2": [50]})
    folds.check(made, 10, "paper")
    with pytest.raises(InputError, match="needs three"):
        folds.check(made, 10, "strict")


@pytest.mark.parametrize(("lengths", "protocol"), [([9], "paper"), ([9, 9], "strict")])
def test_a_subject_without_a_window_is_refused(lengths: list[int], protocol: str) -> None:
    """It would crash as a test subject after hours, or count for nothing in training."""
    made = recording({"1": [50], "2": lengths, "3": [50]})
    with pytest.raises(InputError, match=r"hand_made\.h5: subject 2: .*no full window of 10"):
        folds.check(made, 10, protocol)


def test_a_single_training_window_is_refused() -> None:
    """It cannot be split into training and validation: said before anything is written."""
    with pytest.raises(InputError, match="one window to train on"):
        folds.check(recording({"1": [10], "2": [10]}), 10, "paper")


def test_test_subjects_are_found_by_number() -> None:
    """`--test-subjects 7` means 07; an unknown one is refused with the list."""
    made = recording({"01": [50], "07": [50], "11": [50]})
    assert folds.find_subjects(made, None) == ["11"]
    assert folds.find_subjects(made, ["all"]) == ["01", "07", "11"]
    assert folds.find_subjects(made, ["7", "01", "7"]) == ["07", "01"]
    with pytest.raises(InputError, match="no subject 3, x; .*01 07 11"):
        folds.find_subjects(made, ["3", "x", "7"])


def test_example_file_of_dataset_b(example_b: Path) -> None:
    """On measured data the windows are those of the published evaluation: 20 and 20."""
    made = read_dataset_b(example_b, script_b.prepare)
    assert [int((made.subject == i).sum()) for i in range(2)] == [964, 991]
    for subject, rows in (("01", 964), ("02", 991)):
        fold = folds.make_fold(made, subject, script_b.WINDOW, "paper", seed=42)
        assert len(fold.test) == len(fold.train) + len(fold.validation) == 20
        assert int(fold.scored.sum()) == rows
