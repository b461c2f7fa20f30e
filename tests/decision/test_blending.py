import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dpa.config import BlendConfig, OnlineConfig, Settings
from dpa.decision import arbitration
from dpa.decision.blending import blend, cost_share, mixed, risk_parity, weighted_score
from dpa.decision.temperature import temperature_of
from dpa.decision.types import Beliefs, Reason, Snapshot
from tests.decision.conftest import FAMILIES, make_forecasts, make_market

SETTINGS = Settings()


def make_beliefs(seed: int, n_h: int, n_f: int, n_s: int, **changes: object) -> Beliefs:
    rng = np.random.default_rng([seed, 9])
    root = rng.standard_normal((n_h, n_f, n_f + 2))
    online = rng.random((n_h, n_f))
    built = Beliefs(
        scores=rng.uniform(-3, 3, (n_h, n_f, n_s)),
        n_samples=np.full((n_h, n_f, n_s), 200),
        ic=rng.uniform(-0.02, 0.08, (n_h, n_f)),
        ic_samples=np.full((n_h, n_f), 5000.0),
        stability=rng.uniform(0.3, 0.6, (n_h, n_f)),
        covariance=root @ root.swapaxes(1, 2) / (n_f + 2),
        online=online / online.sum(axis=1, keepdims=True),
        online_bars=np.full(n_h, 1000),
        barrier_prior=np.array([0.3, 0.3]),
    )
    return replace(built, **changes)  # type: ignore[arg-type]


def brute_force(gram: np.ndarray, merit: np.ndarray) -> np.ndarray:
    """The best of all supports on which the unconstrained solution is above 0."""
    best, value = np.zeros(len(merit)), 0.0
    for size in range(1, len(merit) + 1):
        for support in itertools.combinations(range(len(merit)), size):
            where = list(support)
            solved = np.linalg.solve(gram[np.ix_(where, where)], merit[where])
            weights = np.zeros(len(merit))
            weights[where] = solved
            found = weights @ gram @ weights - 2 * weights @ merit
            if (solved >= 0).all() and found < value:
                best, value = weights, found
    return best


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.01, 2.0))
@hypothesis_settings(max_examples=60, deadline=None)
def test_parity_is_the_constrained_optimum(seed: int, n_families: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    beliefs = make_beliefs(seed, 2, n_families, 3)
    merit = rng.uniform(-0.05, 0.08, (2, n_families))
    present = rng.random((2, n_families)) < 0.8
    merit[rng.random(merit.shape) < 0.1] = np.nan
    found = risk_parity(merit, beliefs.covariance, present, BlendConfig(blend_ridge=ridge))
    for horizon in range(2):
        chosen = np.flatnonzero(present[horizon] & np.isfinite(merit[horizon]))
        gram = beliefs.covariance[horizon][np.ix_(chosen, chosen)] + ridge * np.eye(len(chosen))
        wanted = np.zeros(n_families)
        wanted[chosen] = brute_force(gram, merit[horizon, chosen])
        total = wanted.sum()
        np.testing.assert_allclose(
            found[horizon], wanted / total if total > 0 else wanted, atol=1e-8
        )


def test_clipping_an_unconstrained_solution_is_another_answer() -> None:
    """PITFALLS M11: two families alike and one apart."""
    covariance = np.array([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.5], [0.0, 0.5, 1.0]]])
    merit, present = np.array([[0.05, 0.03, 0.03]]), np.ones((1, 3), bool)
    found = risk_parity(merit, covariance, present, BlendConfig())[0]
    clipped = np.maximum(np.linalg.solve(covariance[0] + 0.15 * np.eye(3), merit[0]), 0)
    assert np.abs(found - clipped / clipped.sum()).max() > 0.01


def test_twins_share_what_one_would_get() -> None:
    covariance = np.array([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    merit, present = np.full((1, 3), 0.05), np.ones((1, 3), bool)
    found = risk_parity(merit, covariance, present, BlendConfig(blend_ridge=0.01))[0]
    np.testing.assert_allclose(found, [0.25, 0.25, 0.5], atol=0.01)


@given(st.integers(0, 10_000), st.sampled_from(["adahedge", "exp3ix", "off"]))
@hypothesis_settings(max_examples=40, deadline=None)
def test_weights_sum_to_one_or_zero(seed: int, mode: str) -> None:
    rng = np.random.default_rng(seed)
    market = make_market(seed, 6)
    forecasts = make_forecasts(seed, 6, missing=0.3, families=FAMILIES)
    forecasts.returns[rng.random((3, 4)) < 0.2] = np.nan
    scores = np.where(rng.random((3, 4, 6)) < 0.3, np.nan, rng.uniform(-3, 3, (3, 4, 6)))
    beliefs = make_beliefs(seed, 3, 4, 6, scores=scores, ic=rng.uniform(-0.1, 0.05, (3, 4)))
    settings = Settings(online=OnlineConfig(online_mode=mode))  # type: ignore[arg-type]
    found = blend(Snapshot(market, forecasts), beliefs, settings)
    silent = ~np.isfinite(forecasts.returns).any(axis=2)
    for weights in (found.parity, found.compressed, found.weights):
        assert (weights >= 0).all()
        total = weights.sum(axis=1)
        assert (np.isclose(total, 1.0, atol=1e-12) | (total == 0)).all()
        assert (weights[silent] == 0).all()
    idle = ~((found.merit > 0) & ~silent).any(axis=1)
    assert (found.weights[idle] == 0).all()
    assert (found.weights[~idle].sum(axis=1) > 0).all()
    known = np.isfinite(found.alpha)
    assert (found.alpha[idle][known[idle]] == 0).all()


def plain_alpha(snapshot: Snapshot, beliefs: Beliefs, settings: Settings) -> np.ndarray:
    """Alpha by loops, from the weights of the blend."""
    market, said = snapshot.market, snapshot.forecasts
    found = blend(snapshot, beliefs, settings)
    alpha = np.full((len(said.horizons), len(market.names)), np.nan)
    for h, horizon in enumerate(said.horizons):
        tau = min(0.5 * horizon.minutes * 60, 7200.0)
        fresh = np.exp(-market.age_seconds / tau)
        for n in range(len(market.names)):
            room = min(1.0, 0.01 * market.adv_usd[n] / (0.05 * market.nav_usd))
            total = product = 0.0
            for m in range(len(said.families)):
                if np.isfinite(beliefs.scores[h, m, n]):
                    skill = max(beliefs.ic[h, m], 0.0) * fresh * room * beliefs.stability[h, m]
                    total += found.weights[h, m]
                    product += found.weights[h, m] * beliefs.scores[h, m, n] * skill
            if total > 0:
                alpha[h, n] = said.sigma[n] * np.sqrt(horizon.minutes) * product / total
    return alpha


def test_alpha_is_the_formula() -> None:
    market = make_market(1, 8, adv_usd=3e6)
    forecasts = make_forecasts(1, 8, families=FAMILIES)
    scores = np.random.default_rng(0).uniform(-3, 3, (3, 4, 8))
    scores[0, 1, 2] = scores[1, :, 3] = np.nan
    beliefs = make_beliefs(1, 3, 4, 8, scores=scores)
    found = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    wanted = plain_alpha(Snapshot(market, forecasts), beliefs, SETTINGS)
    np.testing.assert_allclose(found.alpha, wanted, rtol=1e-12)
    assert np.isnan(found.alpha[1, 3])
    assert (found.reason == Reason.NONE).all()


def test_alpha_is_of_the_size_grinold_gives() -> None:
    """IC 0.05, score 1, 20 % a year: 0.7 bps over 5 minutes, 6.3 over a day (PITFALLS M3)."""
    market = make_market(0, 5)
    market = replace(market, moment=market.time)
    sigma = np.full(5, 0.2 / np.sqrt(252 * 390) * 1e4)
    forecasts = make_forecasts(0, 5, horizons=("5m", "1d"), families=("ridge",), sigma=sigma)
    beliefs = make_beliefs(
        0, 2, 1, 5,
        scores=np.ones((2, 1, 5)), ic=np.full((2, 1), 0.05), stability=np.ones((2, 1)),
        covariance=np.ones((2, 1, 1)), online=np.ones((2, 1)),
    )  # fmt: skip
    settings = Settings(blend=BlendConfig(cost_aversion=0.0))
    found = blend(Snapshot(market, forecasts), beliefs, settings)
    np.testing.assert_allclose(found.alpha[0], 0.71, atol=0.01)
    np.testing.assert_allclose(found.alpha[1], 6.3, atol=0.01)


@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
@hypothesis_settings(max_examples=30, deadline=None)
def test_alpha_scales_with_sigma(seed: int, factor: float) -> None:
    market, forecasts = make_market(seed, 6), make_forecasts(seed, 6)
    beliefs = make_beliefs(seed, 3, 2, 6, ic=np.full((3, 2), 0.05))
    settings = Settings(blend=BlendConfig(cost_aversion=0.0))
    one = blend(Snapshot(market, forecasts), beliefs, settings).alpha
    scaled = replace(forecasts, sigma=forecasts.sigma * factor)
    other = blend(Snapshot(market, scaled), beliefs, settings).alpha
    np.testing.assert_allclose(other, factor * one, rtol=1e-12)


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_scores_mirrored_mirror_alpha_exactly(seed: int) -> None:
    market, forecasts = make_market(seed, 6), make_forecasts(seed, 6)
    beliefs = make_beliefs(seed, 3, 2, 6)
    one = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    other = blend(Snapshot(market, forecasts), replace(beliefs, scores=-beliefs.scores), SETTINGS)
    np.testing.assert_array_equal(one.alpha, -other.alpha)
    np.testing.assert_array_equal(one.reason, other.reason)


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=30, deadline=None)
def test_permuting_symbols_permutes_the_blend(seed: int) -> None:
    market, forecasts = make_market(seed, 9), make_forecasts(seed, 9)
    beliefs = make_beliefs(seed, 3, 2, 9)
    order = np.random.default_rng(seed).permutation(9)
    fields = ("member", "price", "bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot")
    moved = replace(
        market,
        names=tuple(market.names[k] for k in order),
        **{name: getattr(market, name)[order] for name in fields},
    )
    said = replace(forecasts, returns=forecasts.returns[:, :, order], sigma=forecasts.sigma[order])
    one = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    other = blend(
        Snapshot(moved, said), replace(beliefs, scores=beliefs.scores[:, :, order]), SETTINGS
    )
    np.testing.assert_array_equal(one.alpha[:, order], other.alpha)
    np.testing.assert_array_equal(one.weights, other.weights)
    np.testing.assert_array_equal(one.reason[order], other.reason)


def test_merit_is_ic_less_the_cost_share() -> None:
    market, forecasts = make_market(3, 7), make_forecasts(3, 7)
    market.bid[2] = np.nan
    beliefs = make_beliefs(3, 3, 2, 7)
    found = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    cost = arbitration.costs(market, forecasts.horizons, forecasts.sigma, SETTINGS)
    for h, horizon in enumerate(forecasts.horizons):
        share = [
            cost[h, n] / (forecasts.sigma[n] * np.sqrt(horizon.minutes)) for n in range(7) if n != 2
        ]
        np.testing.assert_allclose(
            found.merit[h], beliefs.ic[h] - 0.01 * np.median(share), rtol=1e-12
        )


def test_no_cost_known_is_no_share() -> None:
    nothing = np.full((2, 3), np.nan)
    np.testing.assert_array_equal(cost_share(nothing, np.ones((2, 3)), np.ones(3, bool)), 0.0)
    np.testing.assert_array_equal(cost_share(nothing, np.ones((2, 3)), np.zeros(3, bool)), 0.0)


def test_temperature_is_applied_by_horizon() -> None:
    market, forecasts = make_market(0, 5), make_forecasts(0, 5)
    beliefs = make_beliefs(0, 3, 2, 5, ic=np.array([[0.02, 0.06]] * 3))
    found = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    temperature = temperature_of(forecasts.horizons, SETTINGS.blend.temperatures)
    raised = found.parity ** temperature[:, None]
    np.testing.assert_allclose(found.compressed, raised / raised.sum(axis=1, keepdims=True))


def test_online_weights_come_in_after_warm_up() -> None:
    beliefs = make_beliefs(0, 3, 2, 5, online=np.array([[0.9, 0.1]] * 3))
    beliefs = replace(beliefs, online_bars=np.array([99, 100, 100]))
    weights, present = np.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]), np.ones((3, 2), bool)
    found = mixed(weights, beliefs, present, OnlineConfig())
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.62, 0.38], [0.0, 0.0]])
    off = mixed(weights, beliefs, present, OnlineConfig(online_mode="off"))
    np.testing.assert_array_equal(off, weights)
    alone = mixed(np.array([[0.0, 1.0]] * 3), beliefs, ~np.eye(3, 2, dtype=bool), OnlineConfig())
    np.testing.assert_allclose(alone[1], [0.3, 0.7])  # the second did not answer: all to the first


def test_missing_scores_scale_the_others_up() -> None:
    weights = np.array([[0.25, 0.75], [0.0, 0.0]])
    scores = np.array([[[2.0, np.nan, 2.0, np.nan], [1.0, 1.0, np.nan, np.nan]]] * 2)
    found = weighted_score(weights, scores, np.ones((2, 2, 4)))
    np.testing.assert_allclose(found, [[1.25, 1.0, 2.0, np.nan], [0.0, 0.0, 0.0, np.nan]])


def test_reasons_in_their_order() -> None:
    market = make_market(0, 4)
    forecasts = make_forecasts(0, 4)
    forecasts.returns[:, :, 1] = np.nan
    scores = np.ones((3, 2, 4))
    scores[:, :, 2] = np.nan
    beliefs = make_beliefs(0, 3, 2, 4, scores=scores, ic=np.full((3, 2), 0.05))
    snapshot = Snapshot(market, forecasts)
    scores[:, :, 1] = np.nan
    found = blend(snapshot, beliefs, SETTINGS)
    assert found.reason.dtype == np.int8
    assert found.reason.tolist() == [0, Reason.NO_FORECAST, Reason.NO_SCORE, 0]
    unskilled = blend(snapshot, replace(beliefs, ic=np.full((3, 2), -0.01)), SETTINGS)
    flat = np.array([Reason.NO_SKILL, Reason.NO_FORECAST, Reason.NO_SCORE, Reason.NO_SKILL])
    for unknown in (np.nan, 1e-9):  # a family not matured, one with less IC than cost
        young = np.full((3, 2), -0.01)
        young[2, 1] = unknown
        found = blend(snapshot, replace(beliefs, ic=young), SETTINGS)
        expected = np.where(flat == Reason.NO_SKILL, Reason.NO_RECORD, flat)
        np.testing.assert_array_equal(found.reason, expected)
    assert unskilled.reason.tolist() == [
        Reason.NO_SKILL, Reason.NO_FORECAST, Reason.NO_SCORE, Reason.NO_SKILL,
    ]  # fmt: skip
    silent = replace(forecasts, returns=np.full((3, 2, 4), np.nan), left_out={"ridge": "late"})
    nobody = blend(Snapshot(market, silent), beliefs, SETTINGS)
    assert nobody.reason.tolist() == [Reason.NO_FAMILY] * 4
    # the family with skill is late: that is no lack of skill
    one = np.tile([0.05, -0.01], (3, 1))
    family = forecasts.families[0]
    late = replace(forecasts, left_out={family: "late"})
    missing = blend(Snapshot(market, late), replace(beliefs, ic=one), SETTINGS)
    expected = np.where(flat == Reason.NO_SKILL, Reason.NO_FAMILY, flat)
    np.testing.assert_array_equal(missing.reason, expected)
    assert (nobody.weights == 0).all()


def test_unknown_sigma_has_no_alpha() -> None:
    market, forecasts = make_market(0, 3), make_forecasts(0, 3)
    forecasts = replace(forecasts, sigma=np.array([np.nan, 0.0, 10.0]))
    beliefs = make_beliefs(0, 3, 2, 3, ic=np.full((3, 2), 0.05))
    found = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    assert np.isnan(found.alpha[:, :2]).all()
    assert np.isfinite(found.alpha[:, 2]).all()
    assert found.reason.tolist() == [Reason.NO_FORECAST, Reason.NO_FORECAST, Reason.NONE]


def test_left_out_family_gets_no_weight() -> None:
    market, forecasts = make_market(0, 5), make_forecasts(0, 5)
    beliefs = make_beliefs(0, 3, 2, 5, ic=np.full((3, 2), 0.05))
    late = replace(forecasts, left_out={"ridge": "late"})
    found = blend(Snapshot(market, late), beliefs, SETTINGS)
    np.testing.assert_array_equal(found.weights, [[1.0, 0.0]] * 3)


def test_nothing_learned_is_no_alpha() -> None:
    market, forecasts = make_market(0, 5), make_forecasts(0, 5)
    beliefs = make_beliefs(
        0, 3, 2, 5, ic=np.full((3, 2), np.nan), stability=np.full((3, 2), np.nan)
    )  # fmt: skip
    found = blend(Snapshot(market, forecasts), beliefs, SETTINGS)
    assert (found.alpha == 0).all()
    assert (found.reason == Reason.NO_RECORD).all()


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0])
def test_parity_does_not_depend_on_the_size_of_merit(scale: float) -> None:
    beliefs = make_beliefs(0, 3, 2, 5)
    merit, present = np.array([[0.02, 0.06]] * 3), np.ones((3, 2), bool)
    one = risk_parity(merit, beliefs.covariance, present, BlendConfig())
    other = risk_parity(merit * scale, beliefs.covariance, present, BlendConfig())
    np.testing.assert_allclose(one, other, rtol=1e-9)
