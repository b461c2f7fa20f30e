from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dpa.config import ConfidenceConfig, Settings
from dpa.decision.confidence import TrackRecord, capacity, confidence, freshness
from dpa.decision.labels import Matured, Play
from dpa.validation.information import cross_sectional_ic
from tests.decision.conftest import make_market


def matured(forecasts: np.ndarray, labels: np.ndarray, horizon: int = 0, bars: int = 1) -> Matured:
    play = Play(0, bars, forecasts, forecasts, np.zeros(len(forecasts)))
    return Matured(horizon, bars, play, labels)


@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    st.booleans(),
    st.booleans(),
)
@hypothesis_settings(max_examples=80, deadline=None)
def test_ic_is_the_validation_rooms(
    seed: int, n_names: int, missing: float, ties: bool, together: bool
) -> None:
    rng = np.random.default_rng(seed)
    forecasts, labels = rng.standard_normal((3, n_names)), rng.standard_normal(n_names)
    if ties:
        forecasts, labels = np.round(forecasts), np.round(labels)
    holes = rng.random(forecasts.shape) < missing
    forecasts[holes[:1].repeat(3, axis=0) if together else holes] = np.nan
    labels[rng.random(n_names) < missing] = np.nan
    record = TrackRecord.start(2, 3).with_matured([matured(forecasts, labels, 1, bars=4)])
    wanted = cross_sectional_ic(forecasts, np.broadcast_to(labels, forecasts.shape))
    names = (np.isfinite(forecasts) & np.isfinite(labels)).sum(axis=1)
    np.testing.assert_allclose(record.ic(0.0)[1], wanted, rtol=1e-12)
    counted = np.where(np.isfinite(wanted), names, 0)
    np.testing.assert_array_equal(record.names[1], counted)
    np.testing.assert_allclose(record.independent[1], np.maximum(counted - 1, 0) / 4)
    assert np.isnan(record.ic(0.0)[0]).all()


def test_exact_forecast_has_ic_one_and_stability_one() -> None:
    labels = np.random.default_rng(0).standard_normal(20)
    record = TrackRecord.start(1, 1).with_matured([matured(labels[None], labels)])
    assert record.ic(0.0)[0, 0] == 1.0
    assert record.stability[0, 0] == 1.0
    assert record.ic(19.0)[0, 0] == 0.5  # n = names - 1 = n0


def test_weights_of_bars() -> None:
    """By names within a session, halved by a half-life of sessions."""
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal((1, n)), rng.standard_normal(n)) for n in (6, 12)]
    first, second = (
        float(cross_sectional_ic(forecast, label[None])[0]) for forecast, label in pairs
    )
    record = TrackRecord.start(1, 1).with_matured([matured(*pairs[0])]).faded(0.5)
    record = record.with_matured([matured(*pairs[1])])
    wanted = (0.5 * 6 * first + 12 * second) / (0.5 * 6 + 12)
    assert record.ic(0.0)[0, 0] == pytest.approx(wanted, rel=1e-14)
    n = 0.5 * 5 + 11
    assert record.independent[0, 0] == pytest.approx(n)
    assert record.ic(100.0)[0, 0] == pytest.approx(wanted * n / (n + 100), rel=1e-14)


def test_overlap_is_not_evidence() -> None:
    """20 names at one bar of 78: worth a quarter of a name each way (PITFALLS M9)."""
    labels = np.arange(20.0)
    record = TrackRecord.start(1, 1).with_matured([matured(labels[None], labels, 0, bars=78)])
    assert record.independent[0, 0] == pytest.approx(19 / 78)
    assert record.ic(2000.0)[0, 0] < 2e-4


def test_bad_family_is_not_believed() -> None:
    """An IC below 0 gives no confidence, not a floor above 0 (PITFALLS M9)."""
    labels = np.arange(20.0)
    record = TrackRecord.start(1, 1).with_matured([matured(-labels[None], labels)])
    assert record.ic(0.0)[0, 0] == -1.0
    assert (confidence(record.ic(0.0), record.stability, np.ones(1), np.ones(3)) == 0).all()


def test_stability_is_bounded_and_of_the_forecast() -> None:
    """1 / (1 + RMSE / sigma_y), not 1 / RMSE (PITFALLS M8)."""
    forecasts, labels = np.array([[0.1, -0.2, 0.3, 0.0, 0.2]]), np.array([0.0, -0.2, 0.4, 0.1, 0.1])
    record = TrackRecord.start(1, 1).with_matured([matured(forecasts, labels)])
    rmse = np.sqrt(((forecasts[0] - labels) ** 2).mean())
    wanted = 1 / (1 + rmse / np.sqrt((labels**2).mean()))
    assert record.stability[0, 0] == pytest.approx(wanted, rel=1e-14)
    tiny = TrackRecord.start(1, 1).with_matured([matured(labels[None] * 1e-6, labels)])
    assert tiny.stability[0, 0] == pytest.approx(0.5, rel=1e-5)  # says nothing: RMSE = sigma_y


def test_nothing_matured_is_not_known() -> None:
    record = TrackRecord.start(2, 3).with_matured([])
    assert np.isnan(record.ic(10.0)).all()
    assert np.isnan(record.stability).all()
    assert (confidence(record.ic(1.0), record.stability, np.ones(2), np.ones(4)) == 0).all()


def test_default_time_constants() -> None:
    minutes = np.array([5.0, 10.0, 15.0, 30.0, 60.0, 390.0])
    tau = np.array([150.0, 300.0, 450.0, 900.0, 1800.0, 7200.0])
    settings = ConfidenceConfig()
    np.testing.assert_allclose(freshness(300.0, minutes, settings), np.exp(-300.0 / tau))
    np.testing.assert_array_equal(freshness(0.0, minutes, settings), 1.0)


def test_capacity() -> None:
    settings = Settings()
    market = make_market(0, 4, adv_usd=0.0)
    market = replace(market, adv_usd=np.array([2.5e6, 1e9, np.nan, 0.0]))
    # planned 0.05 * 1e6 = 50,000; 1 % of 2.5e6 is half of it
    np.testing.assert_allclose(capacity(market, settings), [0.5, 1.0, 0.0, 0.0])
    for nav in (np.nan, 0.0, -1.0, np.inf):
        assert (capacity(replace(market, nav_usd=nav), settings) == 0).all()


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_confidence_is_in_the_unit_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ic, stability = rng.uniform(-1, 1, (2, 3)), rng.uniform(0, 1, (2, 3))
    ic[0, 0] = stability[1, 1] = np.nan
    believed = confidence(ic, stability, rng.random(2), rng.random(4))
    assert believed.shape == (2, 3, 4)
    assert ((believed >= 0) & (believed <= 1)).all()
