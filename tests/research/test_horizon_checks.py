"""The checks a run makes on itself pass on an honest run and fail on one that is not."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from dpa.horizons.dataset import Block, Dataset, write_block
from dpa.research import horizon_checks
from dpa.research.horizon_checks import leakage_checks
from tests.research.small_horizons import Done, small_run

LABELS, STOPPING = "labels end before the test", "early stopping is purged"
NIGHTS, FUTURE = "labels over night", "features without a future"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    return small_run(tmp_path_factory.mktemp("checked"), horizons={"families": ("ridge",)})


def failed(done, plan=None, dataset=None):
    found = leakage_checks(plan or done.plan, done.recipe, dataset or done.dataset)
    assert list(found.columns) == ["check", "passed", "words"]
    return set(found.loc[~found["passed"], "check"])


def test_an_honest_run_passes_every_check(done):
    found = leakage_checks(done.plan, done.recipe, done.dataset)
    assert found["passed"].all()
    assert len(found) == 5
    assert found["words"].str.len().min() > 20
    assert "\n" not in "".join(found["words"])


def with_folds(done, **change):
    """The plan with `change` added to fields of its second fold."""
    folds = list(done.plan.folds)
    moved = {name: getattr(folds[1], name) + by for name, by in change.items()}
    folds[1] = dataclasses.replace(folds[1], **moved)
    return dataclasses.replace(done.plan, folds=tuple(folds))


@pytest.mark.parametrize("bars", [1, 3, 6])
def test_a_label_that_reaches_the_test_is_found(bars, done):
    """The last bars before the close: five minutes of session are a night of the clock."""
    assert failed(done, with_folds(done, train_stop=bars)) == {LABELS, NIGHTS}


def test_labels_over_night_are_counted_one_by_one(done):
    """Half an hour before each close of the training windows, but the purged one."""
    found = leakage_checks(done.plan, done.recipe, done.dataset).set_index("check")
    nights = sum(6 * (4 - 1) for _ in done.plan.folds)
    assert f"of {nights:,} training labels that span a night, 0 meet" in found.loc[NIGHTS, "words"]


def test_a_holdout_without_a_purge_is_found(done, monkeypatch):
    def unpurged(start, stop, fraction, purge):
        middle = stop - round(fraction * (stop - start))
        return middle, middle

    monkeypatch.setattr(horizon_checks, "holdout", unpurged)
    assert failed(done) == {STOPPING}


@pytest.mark.parametrize("change", ["another value", "a value where there is none"])
def test_a_feature_that_knew_more_is_found(change, done, tmp_path):
    folder = tmp_path / "features"
    shutil.copytree(done.dataset.folder, folder)
    last = done.dataset.spans[-1]
    arrays = load_file(folder / last.file)
    values = arrays["features"][-1]
    if change == "another value":
        values[0, 0] = np.nextafter(values[0, 0], np.float32(9))
    else:
        values[0, 0] = np.float32(0.5) if np.isnan(values[0, 0]) else np.nan
    write_block(folder, Block(last.start, **arrays), last)
    assert failed(done, dataset=Dataset(folder)) == {FUTURE}


def test_a_final_fit_that_would_be_scored_is_found(done, monkeypatch):
    last = done.plan.folds[-1]
    monkeypatch.setattr(horizon_checks, "final_fold", lambda folds, dataset: last)
    assert failed(done) == {"the bundle's own fit is not scored"}
