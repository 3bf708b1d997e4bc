"""Windows, folds, and the split into training and validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

import Dataset_B_sensor_distillation as script_b
from common import windows
from common.data import Recording
from common.files import InputError
from common.windows import Fold, cut_stream, cut_stretches, make_fold
from tests.conftest import Patch


def recording(lengths: dict[str, list[int]]) -> Recording:
    """Return a recording of subjects with stretches of the given lengths."""
    subject = np.repeat(np.arange(len(lengths)), [sum(parts) for parts in lengths.values()])
    parts = [length for stretches in lengths.values() for length in stretches]
    return Recording(
        path=Path("made_up.h5"),
        samples={"targets": torch.arange(len(subject))[:, None].float()},
        subjects=list(lengths),
        activities=[""],
        subject=subject,
        activity=np.zeros(len(subject), int),
        stretch=np.repeat(np.arange(len(parts)), parts),
        dropped={},
        has_trials=True,
    )


def fold_of(made: Recording, test_subject: str, protocol: str, seed: int = 0) -> Fold:
    """Return a fold of windows of 10 samples, with the targets as the only signal."""
    return make_fold(made, [made.samples["targets"]], test_subject, 10, protocol, seed)


# The paper's windows -----------------------------------------------------------------------------


def test_the_tail_of_the_stream_is_filled_and_not_scored_twice() -> None:
    """The last samples are appended again to fill the last window; they count once."""
    samples, is_first = cut_stream(np.arange(11), window=4)
    assert samples.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]
    assert is_first.tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    samples, is_first = cut_stream(np.arange(9), window=4)
    assert samples.tolist()[-1] == [8, 6, 7, 8]
    assert is_first.sum() == 9
    # Without a tail, the published code adds an exact duplicate, which would be scored twice.
    samples, is_first = cut_stream(np.arange(8), window=4)
    assert samples.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert is_first.all()


def test_no_sample_of_the_test_subject_is_trained_on_and_each_is_tested_once() -> None:
    """One test sample in the training windows would make every figure worthless."""
    made = recording({"1": [30, 13], "2": [25], "3": [41]})
    fold = fold_of(made, "2", "paper")
    of_test = set(np.flatnonzero(made.subject == 1))
    training = torch.cat([fold.train.samples, fold.validation.samples])
    assert set(training.flatten().tolist()) == set(range(len(made.subject))) - of_test
    assert sorted(fold.test.samples[fold.test.is_scored].tolist()) == sorted(of_test)
    assert (made.subject[fold.test.samples] == 1).all()


def test_the_validation_windows_are_those_of_the_published_evaluation() -> None:
    """They are drawn by scikit-learn with random state 1, whatever the seed."""
    made = recording({"1": [500], "2": [333], "3": [100]})
    fold = fold_of(made, "3", "paper", seed=7)
    train, validation = train_test_split(
        cut_stream(np.arange(833), 10)[0], test_size=0.2, random_state=1
    )
    assert (fold.train.samples.numpy() == train).all()
    assert (fold.validation.samples.numpy() == validation).all()


def test_windows_of_the_measured_example(example_b: Path) -> None:
    """On measured data the windows are those of the published evaluation: 20 and 20."""
    made = script_b.read(example_b)
    assert [int((made.subject == i).sum()) for i in range(2)] == [964, 991]
    for subject, count in (("01", 964), ("02", 991)):
        fold = make_fold(made, [], subject, script_b.WINDOW, "paper", seed=42)
        assert len(fold.test) == len(fold.train) + len(fold.validation) == 20
        assert int(fold.test.is_scored.sum()) == count


# Windows of the strict protocol ------------------------------------------------------------------


def test_strict_tests_the_end_of_a_stretch_too() -> None:
    """Push-off is at the end of a step: a window that ends with the step covers it, once."""
    stretch = np.repeat([0, 1, 2], [11, 3, 4])
    samples, is_first = cut_stretches(np.arange(18), stretch, window=4, cover_tails=True)
    assert samples.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [7, 8, 9, 10], [14, 15, 16, 17]]
    assert samples[is_first].tolist() == [*range(11), *range(14, 18)]
    fold = fold_of(recording({"1": [30], "2": [23, 17, 9], "3": [40]}), "2", "strict")
    assert fold.test.samples[fold.test.is_scored].tolist() == list(range(30, 70))
    assert not set(fold.train.samples.flatten().tolist()) & set(range(30, 79))


def test_strict_windows_of_random_stretches() -> None:
    """Whatever the lengths, no window crosses a border and none that fits is missing."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 30, size=20)
        stretch = np.repeat(np.arange(20), lengths)
        samples, _ = cut_stretches(np.arange(len(stretch)), stretch, window=7)
        assert (stretch[samples] == stretch[samples][:, :1]).all()
        assert (np.diff(samples, axis=1) == 1).all()
        assert len(samples) == (lengths // 7).sum()


def test_strict_validates_on_other_subjects() -> None:
    """Early stopping on windows of the training subjects would be optimistic."""
    made = recording({str(i): [50] for i in range(1, 12)})
    fold = fold_of(made, "11", "strict", seed=3)
    parts = (fold.train, fold.validation)
    subjects = [set(made.subject[part.samples].flatten()) for part in parts]
    assert not subjects[0] & subjects[1]
    assert [len(s) for s in subjects] == [8, 2]
    assert 10 not in subjects[0] | subjects[1]
    again = fold_of(made, "11", "strict", seed=3)
    assert torch.equal(fold.validation.samples, again.validation.samples)
    drawn = [windows.draw_validation_subjects(list("abcdefghij"), seed) for seed in range(20)]
    assert len({tuple(sorted(subjects)) for subjects in drawn}) > 1
    assert len(windows.draw_validation_subjects(["1", "2"], seed=0)) == 1


# Batches -----------------------------------------------------------------------------------------


def test_a_batch_holds_the_signals_of_its_windows() -> None:
    """Inputs, targets and precomputed outputs of a batch must belong to the same samples."""
    made = recording({"1": [700], "2": [30]})
    targets = made.samples["targets"]
    train = make_fold(made, [2 * targets, targets + 1], "2", 10, "paper", 0).train
    doubled, *_ = windows.precompute(lambda a, b: (a + b, a), train)  # in several chunks or one
    train.cached = (doubled, *train.cached)
    batch = train[torch.tensor([3, 0])]
    expected = train.samples[[3, 0]][..., None].float()
    assert torch.equal(batch.targets, expected)
    assert torch.equal(batch.inputs[0], 2 * expected)
    assert torch.equal(batch.inputs[1], expected + 1)
    assert torch.equal(batch.cached[0], 3 * expected + 1)
    teacher = train.with_signals([-targets])[torch.tensor([3, 0])]
    assert torch.equal(teacher.inputs[0], -expected)
    assert torch.equal(torch.cat(train.batches(7)), torch.arange(len(train)))


def test_windows_are_precomputed_in_chunks(monkeypatch: Patch) -> None:
    """All windows at once would not fit into memory; the chunks must end up in their places."""
    made = recording({"1": [400], "2": [30]})
    train = make_fold(made, [made.samples["targets"]], "2", 10, "paper", 0).train
    monkeypatch.setattr(windows, "CHUNK", 7)
    sizes = []

    def squared(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x**2

    (result,) = windows.precompute(squared, train)
    assert sizes == [7, 7, 7, 7, 4]
    assert torch.equal(result, train.targets**2)


# What is refused ---------------------------------------------------------------------------------


def test_strict_needs_three_subjects() -> None:
    """Two subjects cannot train, validate and test: refused before anything is trained."""
    made = recording({"1": [50], "2": [50]})
    windows.check_windows(made, 10, "paper")
    with pytest.raises(InputError, match="2 subjects, but --protocol strict .*; use --protocol"):
        windows.check_windows(made, 10, "strict")


@pytest.mark.parametrize(("lengths", "protocol"), [([9], "paper"), ([9, 9], "strict")])
def test_a_subject_without_a_window_is_refused(lengths: list[int], protocol: str) -> None:
    """It would crash as a test subject after hours, or count for nothing in training."""
    made = recording({"1": [50], "2": lengths, "3": [50]})
    with pytest.raises(InputError, match=r"made_up\.h5: subject 2: .*no full window of 10"):
        windows.check_windows(made, 10, protocol)


def test_a_single_training_window_is_refused() -> None:
    """It cannot be split into training and validation: refused before anything is written."""
    with pytest.raises(InputError, match="only one window for training"):
        windows.check_windows(recording({"1": [10], "2": [10]}), 10, "paper")


def test_test_subjects_are_found_by_number() -> None:
    """`--test-subjects 7` means 07; an unknown one is refused with the list."""
    made = recording({"01": [50], "07": [50], "11": [50]})
    assert windows.choose_subjects(made, None) == ["11"]
    assert windows.choose_subjects(made, ["all"]) == ["01", "07", "11"]
    assert windows.choose_subjects(made, ["7", "01", "7"]) == ["07", "01"]
    with pytest.raises(InputError, match="no subject 3, x; .*01 07 11"):
        windows.choose_subjects(made, ["3", "x", "7"])
