"""What a finished run ends in; each test window learns from earlier ones and no other."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dpa.errors import RunError
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.dataset import Dataset
from dpa.horizons.evaluation import Scores
from dpa.horizons.promotion import promote_bundle, read_pointer
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.training import read_forecast
from dpa.research.horizon_closing import (
    CALIBRATED,
    STACKED,
    close_horizons,
    fit_tables,
    ic_words,
    score_windows,
    stacker_table,
)
from dpa.runs import RunDirectory
from tests.research.small_horizons import CLOCK, Done, small_run


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Done:
    return small_run(tmp_path_factory.mktemp("closing"))


@pytest.fixture(scope="module")
def closed(done) -> str:
    return close_horizons(done.run, done.plan, done.recipe, done.dataset, done.storage, True, CLOCK)


@pytest.fixture
def spoilt(done, tmp_path) -> Done:
    """A copy of the finished fits, free to be spoilt; nothing was made of them yet."""
    made = shutil.ignore_patterns("bundle", "tables", "report.html")
    shutil.copytree(done.run.path, tmp_path / done.run.path.name, ignore=made)
    return dataclasses.replace(
        done, run=RunDirectory(tmp_path / done.run.path.name), storage=tmp_path
    )


def table(done, name):
    return pd.read_csv(done.run.tables / f"{name}.csv", dtype={"fold": str})


# -- tables


def test_the_table_of_ics_is_what_scipy_says(done, closed):
    """Spearman over names, a bar at a time, averaged over the bars that have one."""
    found = table(done, "ic").set_index(["family", "horizon"])
    for family in ("ridge", "gbdt"):
        for place, horizon in enumerate(done.recipe.horizons):
            by_bar = []
            for fold in done.plan.folds:
                said = read_forecast(
                    done.run.tasks, f"{fold.index:03d}", family, done.recipe.schema()
                ).returns[:, :, place]
                seen = done.dataset.dense("targets", fold.test_start, fold.test_stop)[:, :, place]
                for f, y in zip(said, seen, strict=True):
                    both = np.isfinite(f) & np.isfinite(y)
                    if both.sum() >= 5 and len(np.unique(f[both])) > 1:
                        by_bar.append(spearmanr(f[both], y[both]).statistic)
            row = found.loc[(family, horizon.label)]
            assert row["ic"] == pytest.approx(np.mean(by_bar), abs=2e-3)
            assert abs(row["n_bars"] - len(by_bar)) <= 0.01 * len(by_bar)


def test_every_family_horizon_and_fit_has_its_row(done, closed):
    assert set(table(done, "ic")["family"]) == {"ridge", "gbdt", STACKED}
    assert set(table(done, "barriers")["family"]) == {"gbdt", CALIBRATED}
    fits = table(done, "fits")
    assert len(fits) == 4 * (len(done.plan.folds) + 1)
    assert (fits["n_fit"] > fits["n_validation"]).all()
    weights = table(done, "stacker")
    assert len(weights) == 2 * 2 * 2
    assert (weights["weight"] >= 0).all()
    sums = table(done, "importance").groupby("family")["importance"].sum()
    np.testing.assert_allclose(sums, 1.0)
    assert table(done, "checks")["passed"].all()


def test_what_the_user_is_told(done, closed):
    assert "out-of-sample IC" in closed
    assert str(done.run.bundle) in closed
    assert str(done.run.report) in closed
    for family in ("ridge", "gbdt", STACKED):
        assert f"\n{family}" in closed


def test_a_missing_fit_is_named(spoilt):
    shutil.rmtree(spoilt.run.tasks / "001" / "gbdt" / "5m")
    with pytest.raises(RunError, match="gbdt 5m, fold 1") as caught:
        fit_tables(spoilt.run, spoilt.plan, spoilt.recipe)
    assert "resume" in caught.value.cure


def test_a_missing_forecast_is_named_and_leaves_no_bundle(spoilt):
    (spoilt.run.tasks / "001" / "ridge" / "all" / "forecast.safetensors").unlink()
    with pytest.raises(RunError, match="forecast"):
        close_horizons(
            spoilt.run, spoilt.plan, spoilt.recipe, spoilt.dataset, spoilt.storage, True, CLOCK
        )
    assert not spoilt.run.bundle.exists()


def test_words_of_a_table_by_hand():
    ic = pd.DataFrame(
        {
            "family": ["ridge", "ridge"],
            "horizon": ["5m", "1d"],
            "ic": [0.0512, -0.01],
            "se": [0.004, 0.02],
        }
    )
    last = ic_words(ic).splitlines()[-1]
    assert last.split() == ["ridge", "+0.0512", "±", "0.0040", "-0.0100", "±", "0.0200"]


def test_weights_of_a_stacker_are_told_by_name(done):
    families = ("ridge", "gbdt")
    stacker = CrossHorizonStacker(done.recipe.horizons, families, done.recipe.settings.stacking)
    found = stacker_table(stacker).set_index(["target", "horizon", "family"])["weight"]
    assert found["30m", "5m", "gbdt"] == pytest.approx(stacker.weights[1, 0, 1])
    assert found["5m", "30m", "ridge"] == pytest.approx(stacker.weights[0, 1, 0])


# -- each window learns from earlier ones


class Replaced(Dataset):
    """A data set whose labels are others from a bar on."""

    def __init__(self, folder, cut):
        super().__init__(folder)
        self.cut = cut

    def dense(self, name, start, stop):
        values = super().dense(name, start, stop)
        if name in ("targets", "barriers"):
            values = values.copy()
            later = np.arange(start, stop) >= self.cut
            values[later] = np.where(np.isnan(values[later]), np.nan, 1.0 - values[later])
        return values


def windows_of(done, dataset, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Scores, "add", lambda self, window: seen.append(window))
        score_windows(done.run, done.plan, done.recipe, dataset)
    return seen


def test_no_window_is_stacked_or_calibrated_by_what_came_later(done, monkeypatch):
    """Labels that end at the third window's first bar or later: turned round, nothing moves."""
    third = done.plan.folds[2].test_start
    cut = third - done.recipe.purge.label_bars
    honest = windows_of(done, done.dataset, monkeypatch)
    turned = windows_of(done, Replaced(done.dataset.folder, cut), monkeypatch)
    assert len(honest) == len(turned) == 3
    for one, two in zip(honest, turned, strict=True):
        np.testing.assert_array_equal(one.forecasts[STACKED], two.forecasts[STACKED])
        np.testing.assert_array_equal(one.probabilities[CALIBRATED], two.probabilities[CALIBRATED])
    assert np.isfinite(honest[2].forecasts[STACKED]).any()


def test_earlier_windows_do_teach(done, monkeypatch):
    second = done.plan.folds[1].test_start
    honest = windows_of(done, done.dataset, monkeypatch)
    turned = windows_of(done, Replaced(done.dataset.folder, 0), monkeypatch)
    assert second > 0
    for name in (1, 2):
        assert not np.array_equal(
            honest[name].probabilities[CALIBRATED],
            turned[name].probabilities[CALIBRATED],
            equal_nan=True,
        )


def test_the_first_window_has_no_stacker_of_its_own(done, monkeypatch):
    first = windows_of(done, done.dataset, monkeypatch)[0]
    assert np.isnan(first.forecasts[STACKED]).all()


def test_calibration_of_the_first_window_is_the_raw_mean(done, monkeypatch):
    first = windows_of(done, done.dataset, monkeypatch)[0]
    np.testing.assert_allclose(
        first.probabilities[CALIBRATED], first.probabilities["gbdt"], rtol=1e-6
    )


# -- the bundle


def test_the_bundle_is_promoted_when_the_run_ends(done, closed):
    pointer = read_pointer(done.storage)
    assert pointer["promoted_by"] == "run"
    assert done.run.path.name in pointer["bundle"]
    bundle = HorizonBundle.load(done.run.bundle)
    assert bundle.manifest.trained_until == done.plan.times[-1]
    assert set(bundle.families) == {"ridge", "gbdt"}


def test_nothing_is_promoted_when_it_is_not_asked_for(spoilt):
    said = close_horizons(
        spoilt.run, spoilt.plan, spoilt.recipe, spoilt.dataset, spoilt.storage, False, CLOCK
    )
    assert "no, as asked" in said
    assert read_pointer(spoilt.storage) is None


def test_what_a_person_promoted_stays(spoilt):
    parts = (spoilt.run, spoilt.plan, spoilt.recipe, spoilt.dataset, spoilt.storage)
    close_horizons(*parts, True, CLOCK)
    promote_bundle(spoilt.run.bundle, spoilt.storage, CLOCK, "hand")
    said = close_horizons(*parts, True, CLOCK)
    assert "was promoted by hand" in said
    assert read_pointer(spoilt.storage)["promoted_by"] == "hand"


def test_closing_twice_gives_the_same_tables_and_bundle(spoilt):
    parts = (spoilt.run, spoilt.plan, spoilt.recipe, spoilt.dataset, spoilt.storage)
    outcomes = []
    for _ in range(2):
        close_horizons(*parts, False, CLOCK)
        tables = {p.name: p.read_bytes() for p in spoilt.run.tables.iterdir()}
        outcomes.append((tables, HorizonBundle.load(spoilt.run.bundle).manifest.fingerprint))
    assert outcomes[0] == outcomes[1]


def test_a_run_whose_checks_fail_has_no_bundle(spoilt):
    folds = list(spoilt.plan.folds)
    folds[1] = dataclasses.replace(folds[1], train_stop=folds[1].test_start)
    plan = dataclasses.replace(spoilt.plan, folds=tuple(folds))
    said = close_horizons(
        spoilt.run, plan, spoilt.recipe, spoilt.dataset, spoilt.storage, True, CLOCK
    )
    assert "no bundle: the check 'labels end before the test' failed" in said
    assert not spoilt.run.bundle.exists()
    assert read_pointer(spoilt.storage) is None


def test_a_run_of_a_single_window_ends_in_a_bundle(tmp_path):
    """The stacker is not scored then, so its IC is not known, and no measure of the bundle."""
    done = small_run(tmp_path, horizons={"test_sessions": 20, "families": ("ridge",)})
    assert len(done.plan.folds) == 1
    close_horizons(done.run, done.plan, done.recipe, done.dataset, done.storage, True, CLOCK)
    measures = HorizonBundle.load(done.run.bundle).manifest.measures
    assert set(measures) == {"ridge 5m", "ridge 30m"}
    assert np.isfinite(list(measures.values())).all()
