"""Boosted trees: what a line cannot find, and one model a target."""

import dataclasses

import numpy as np
import pytest

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError, RunError
from dpa.horizons.families import BARRIER_TARGET, GbdtFamily, RidgeFamily

TARGETS = ("5m", "30m", "1d", BARRIER_TARGET)


def with_interaction(rows, seed):
    """Targets of a product that has no linear part."""
    rng = np.random.default_rng(seed)
    signal = rows.features[:, 0] * rows.features[:, 1]
    targets = signal[:, None] + 0.5 * rng.standard_normal((len(rows), 3))
    return dataclasses.replace(rows, targets=targets.astype(np.float32))


def test_beats_ridge_on_an_interaction(schema, settings, train, validation, r_squared):
    learned, held = with_interaction(train, 0), with_interaction(validation, 1)
    score = {}
    for family in (RidgeFamily(schema, settings), GbdtFamily(schema, settings)):
        family.fit(learned, held, 0)
        returns = family.predict(held.features).returns
        score[family.name] = [r_squared(returns[:, h], held.targets[:, h]) for h in (0, 2)]
    assert score["ridge"][0] < 0.02 < 0.4 < score["gbdt"][0]
    assert score["gbdt"][1] < 0.1  # the second factor does not serve the longest horizon


def test_one_after_another_or_in_several_objects_is_the_same(
    fitted, schema, settings, train, validation, tmp_path
):
    together, log = fitted("gbdt")
    one_by_one = GbdtFamily(schema, settings)
    curves, notes = {}, {}
    for target in reversed(TARGETS):
        part = one_by_one.fit(train, validation, 11, (target,))
        curves.update(part.curves)
        notes.update(part.notes)
        alone = GbdtFamily(schema, settings)
        alone.fit(train, validation, 11, (target,))
        alone.save(tmp_path / "one" / target)
        with pytest.raises(RunError, match=r"\.json: cannot be read"):
            GbdtFamily.load(tmp_path / "one" / target, schema, settings)
        alone.save(tmp_path / "all")
    assert (curves, notes) == (log.curves, log.notes)
    assert one_by_one.fingerprint() == together.fingerprint()
    assert GbdtFamily.load(tmp_path / "all", schema, settings).fingerprint() == (
        together.fingerprint()
    )


def test_targets_not_fitted_are_not_forecast(schema, settings, train, empty):
    family = GbdtFamily(schema, settings)
    family.fit(train, empty, 0, ("30m",))
    forecast = family.predict(train.features[:5])
    assert np.isnan(forecast.returns[:, [0, 2]]).all()
    assert np.isfinite(forecast.returns[:, 1]).all()
    assert np.isnan(forecast.barriers).all()
    with pytest.raises(ConfigError, match="'7m'"):
        family.fit(train, empty, 0, ("7m",))


def test_stops_on_the_holdout_and_keeps_the_best(fitted, settings):
    log = fitted("gbdt")[1]
    for head in ("5m", "30m", "1d", "peak", "valley"):
        losses = log.curves[f"validation loss, {head}"]
        assert log.notes[f"trees, {head}"] == np.argmin(losses) + 1
        assert len(losses) <= min(settings.gbdt_trees, np.argmin(losses) + 1 + 5)
        assert len(log.curves[f"training loss, {head}"]) == len(losses)


def test_without_a_holdout_all_trees_are_grown(schema, settings, train, empty):
    log = GbdtFamily(schema, settings).fit(train, empty, 0, ("5m",))
    assert log.notes["trees, 5m"] == settings.gbdt_trees
    assert "validation loss, 5m" not in log.curves


def test_a_gap_that_tells_is_learned(schema, settings, make_rows, empty, r_squared):
    rows = make_rows(3000, 5)
    told = np.isnan(rows.features[:, 2]).astype(np.float32)
    rows = dataclasses.replace(rows, targets=np.repeat(told[:, None], 3, axis=1))
    family = GbdtFamily(schema, settings)
    family.fit(rows, empty, 0, ("5m",))
    assert r_squared(family.predict(rows.features).returns[:, 0], told) > 0.9


def test_a_gap_never_seen_in_training_counts_as_the_mean(fitted, train):
    family = fitted("gbdt")[0]
    missing, mean = train.features[:50].copy(), train.features[:50].copy()
    missing[:, 0] = np.nan
    mean[:, 0] = train.features[:, 0].astype(np.float64).mean()
    np.testing.assert_array_equal(family.predict(missing).returns, family.predict(mean).returns)


def test_huber_shrugs_off_wild_targets(schema, train, validation, r_squared):
    targets = train.targets.copy()
    targets[::40] = 100.0
    targets[20::40] = -100.0
    wild = dataclasses.replace(train, targets=targets)
    score = {}
    for loss in ("l2", "huber"):
        settings = FamiliesConfig(gbdt_loss=loss, gbdt_trees=40, gbdt_min_rows=40)
        family = GbdtFamily(schema, settings)
        family.fit(wild, validation, 0, ("5m",))
        found = family.predict(validation.features).returns[:, 0]
        score[loss] = r_squared(found, validation.targets[:, 0])
    assert score["huber"] > 0.1 > score["l2"]


def test_too_few_rows_for_a_split_forecast_the_mean(schema, make_rows, empty):
    rows = make_rows(300, 1)
    family = GbdtFamily(schema, FamiliesConfig(gbdt_min_rows=500))
    family.fit(rows, empty, 0, ("5m",))
    mean = np.nanmean(rows.targets[:, 0].astype(float))
    np.testing.assert_allclose(family.predict(rows.features).returns[:, 0], mean, atol=1e-6)
    assert set(family.importance().values()) == {0.0}
