"""Calibration against scikit-learn, and never with a fold's own outcomes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.calibration import (
    EDGE,
    Calibrator,
    brier_score,
    brier_skill,
    reliability,
)

FITTED = ("platt", "isotonic")


def overconfident(seed=0, n_rows=4000, slope=0.5, intercept=-0.7):
    """Raw probabilities that are too sure, and labels from the true ones."""
    rng = np.random.default_rng(seed)
    raw = special.expit(1.5 * rng.normal(size=n_rows))
    true = special.expit(slope * special.logit(raw) + intercept)
    return raw, (rng.random(n_rows) < true).astype(float), true


def test_platt_is_unpenalised_logistic_regression():
    raw, label, _ = overconfident()
    found = Calibrator.fit("platt", raw, label)
    score = special.logit(raw)[:, None]
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(score, label)
    assert found.slope == pytest.approx(oracle.coef_[0, 0], abs=1e-5)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=1e-5)
    np.testing.assert_allclose(found(raw), oracle.predict_proba(score)[:, 1], atol=1e-5)


def test_platt_finds_the_planted_map():
    raw, label, true = overconfident(n_rows=40_000)
    found = Calibrator.fit("platt", raw, label)
    assert found.slope == pytest.approx(0.5, abs=0.04)
    assert found.intercept == pytest.approx(-0.7, abs=0.04)
    assert np.abs(found(raw) - true).max() < 0.02


def test_isotonic_is_that_of_scikit_learn():
    raw, label, _ = overconfident()
    found = Calibrator.fit("isotonic", raw, label)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(raw, label)
    new = np.linspace(0, 1, 501)
    np.testing.assert_allclose(found(new), np.clip(oracle.predict(new), EDGE, 1 - EDGE))


@pytest.mark.parametrize("method", FITTED)
def test_calibration_improves_what_is_too_sure(method):
    raw, label, _ = overconfident(0)
    new_raw, new_label, true = overconfident(1)
    found = Calibrator.fit(method, raw, label)
    assert brier_score(found(new_raw), new_label) < brier_score(new_raw, new_label) - 0.01
    assert np.abs(found(new_raw) - true).mean() < 0.03


@pytest.mark.parametrize("method", FITTED)
@settings(deadline=None)
@given(seed=st.integers(0, 200), slope=st.floats(-2, 2), n_rows=st.integers(1, 60))
def test_the_map_never_falls_and_stays_inside(method, seed, slope, n_rows):
    raw, label, _ = overconfident(seed, n_rows, slope)
    found = Calibrator.fit(method, raw, label)
    values = found(np.linspace(0, 1, 101))
    assert (np.diff(values) >= 0).all()
    assert values.min() >= EDGE
    assert values.max() <= 1 - EDGE


def test_a_raw_probability_that_is_upside_down_gives_the_base_rate():
    raw, label, _ = overconfident(slope=-1.0)
    found = Calibrator.fit("platt", raw, label)
    assert found.slope == 0.0
    np.testing.assert_allclose(found(raw), label.mean(), atol=1e-6)


def test_separable_and_constant_labels_stay_finite():
    raw = np.array([0.1, 0.2, 0.8, 0.9])
    sure = Calibrator.fit("platt", raw, [0, 0, 1, 1])
    assert np.isfinite([sure.slope, sure.intercept]).all()
    assert (sure(raw)[:2] < 0.01).all()
    never = Calibrator.fit("platt", raw, [0, 0, 0, 0])
    np.testing.assert_allclose(never(raw), EDGE)
    same = Calibrator.fit("platt", [0.3, 0.3, 0.3], [0, 1, 0])
    np.testing.assert_allclose(same([0.3, 0.9]), 1 / 3)


@pytest.mark.parametrize("method", [*FITTED, "identity"])
def test_missing_stays_missing_and_shapes_are_kept(method):
    raw, label, _ = overconfident(n_rows=200)
    clean = Calibrator.fit(method, raw, label)
    holed, more = np.append(raw, [np.nan, 0.4]), np.append(label, [1, np.nan])
    assert Calibrator.fit(method, holed, more) == clean
    found = clean(np.array([[0.2, np.nan], [0.0, 1.0]]))
    np.testing.assert_array_equal(np.isnan(found), [[False, True], [False, False]])
    assert ((found[1] >= EDGE) & (found[1] <= 1 - EDGE)).all()


@pytest.mark.parametrize("method", [*FITTED, "identity"])
def test_json_keeps_every_bit(method):
    raw, label, _ = overconfident(n_rows=500)
    found = Calibrator.fit(method, raw, label)
    again = Calibrator.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    np.testing.assert_array_equal(again(raw), found(raw))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "spline"},
        {"slope": -1.0},
        {"slope": float("nan")},
        {"x": [0.1, 0.2], "y": [0.5]},
        {"x": [0.1, 0.2], "y": [0.5, 0.4]},
        {"x": None},
        {"method": "isotonic", "x": [], "y": []},
    ],
)
def test_damaged_calibrators_are_refused(change):
    with pytest.raises(RunError, match="calibrator"):
        Calibrator.from_json({**Calibrator("platt").to_json(), **change})
    with pytest.raises(RunError, match="calibrator"):
        Calibrator.from_json({"method": "platt"})


def test_refusals():
    with pytest.raises(ConfigError, match="spline"):
        Calibrator.fit("spline", [0.5], [1])
    with pytest.raises(DataError, match="no row"):
        Calibrator.fit("platt", [np.nan], [1])
    with pytest.raises(DataError, match=r"1\.5 is not a probability"):
        Calibrator("identity")([1.5])
    with pytest.raises(DataError, match="neither"):
        Calibrator.fit("platt", [0.5], [2])
    with pytest.raises(DataError, match="one label"):
        brier_score([0.5], [1, 0])


# --- out of fold -----------------------------------------------------------------------------


# --- scores ----------------------------------------------------------------------------------


def test_brier_is_that_of_scikit_learn():
    raw, label, _ = overconfident()
    assert brier_score(raw, label) == pytest.approx(brier_score_loss(label, raw))
    assert brier_score([0.2, np.nan, 0.5], [0, 1, np.nan]) == pytest.approx(0.04)
    assert np.isnan(brier_score([np.nan], [1]))


def test_skill_is_against_the_base_rate():
    label = np.array([0.0, 0, 0, 1])
    assert brier_skill(np.full(4, 0.25), label) == pytest.approx(0.0)
    assert brier_skill(label, label) == 1.0
    assert brier_skill(1 - label, label) < 0
    assert np.isnan(brier_skill([0.5, 0.5], [1, 1]))


def test_reliability_by_hand():
    prob = np.array([0.1, 0.1, 0.3, 0.3, 0.8, 0.8, np.nan])
    label = np.array([0.0, 0, 0, 1, 1, 1, 1])
    table = reliability(prob, label, 3)
    assert table["forecast"].tolist() == pytest.approx([0.1, 0.3, 0.8])
    assert table["frequency"].tolist() == [0.0, 0.5, 1.0]
    assert table["count"].tolist() == [2, 2, 2]
    for frequency, count, lower, upper in table[
        ["frequency", "count", "lower", "upper"]
    ].to_numpy():
        oracle = stats.binomtest(round(frequency * count), int(count)).proportion_ci(
            method="wilson"
        )
        assert (lower, upper) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_reliability_covers_calibrated_forecasts():
    raw, _, true = overconfident(3, 20_000)
    label = (np.random.default_rng(4).random(len(true)) < true).astype(float)
    good, bad = reliability(true, label), reliability(raw, label)
    assert good["count"].sum() == 20_000
    assert len(good) == 10
    inside = good["forecast"].between(good["lower"], good["upper"])
    assert inside.sum() >= 8
    assert not bad["forecast"].between(bad["lower"], bad["upper"]).all()


def test_reliability_of_equal_or_no_forecasts():
    same = reliability([0.3] * 5, [0, 1, 0, 0, 0])
    assert same["count"].tolist() == [5]
    assert reliability([], []).empty
    with pytest.raises(ConfigError, match="bins 0"):
        reliability([0.3], [1], 0)
