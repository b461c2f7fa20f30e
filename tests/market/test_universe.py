"""Membership is decided from the past only, and the same in one go or piece by piece."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import DataConfig
from dpa.errors import ConfigError
from dpa.market.universe import Universe, UniverseRules


def history(seed: int, n_bars: int = 60, n_assets: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    prices = np.exp(generator.normal(0, 0.02, (n_bars, n_assets)).cumsum(axis=0))
    volume = np.exp(generator.normal(14, 1, (n_bars, n_assets))).round(-5)  # ties happen
    prices[generator.random(prices.shape) < 0.2] = np.nan
    volume[generator.random(prices.shape) < 0.2] = np.nan
    return prices, volume


def obvious_mask(rules: UniverseRules, prices: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """One bar and one name at a time."""
    mask = np.zeros(prices.shape, dtype=bool)
    for t in range(len(prices)):
        scores: list[tuple[float, int]] = []
        for k in range(prices.shape[1]):
            recent = volume[max(0, t - rules.lookback_bars + 1) : t + 1, k]
            known = recent[~np.isnan(recent)]
            traded = int(np.isfinite(prices[: t + 1, k]).sum())
            if np.isnan(prices[t, k]) or traded < rules.min_history_bars:
                continue
            if rules.needs_dollar_volume:
                if 2 * len(known) < rules.lookback_bars:
                    continue
                if np.median(known) < rules.min_dollar_volume:
                    continue
                scores.append((-float(np.median(known)), k))
            mask[t, k] = True
        if rules.top_by_dollar_volume is not None:
            kept = {k for _, k in sorted(scores)[: rules.top_by_dollar_volume]}
            mask[t] &= [k in kept for k in range(prices.shape[1])]
    return mask


rule_sets = st.builds(
    UniverseRules,
    min_history_bars=st.integers(0, 20),
    min_dollar_volume=st.sampled_from([0.0, 1e6, 2e6]),
    top_by_dollar_volume=st.none() | st.integers(1, 6),
    lookback_bars=st.integers(1, 12),
)


@given(rule_sets, st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_mask_is_the_obvious_one(rules: UniverseRules, seed: int) -> None:
    prices, volume = history(seed)
    mask = Universe(rules, prices.shape[1]).update(prices, volume)
    np.testing.assert_array_equal(mask, obvious_mask(rules, prices, volume))


@given(rule_sets, st.integers(0, 1_000), st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=40, deadline=None)
def test_pieces_give_the_same_mask_as_the_whole(
    rules: UniverseRules, seed: int, cuts: list[int]
) -> None:
    prices, volume = history(seed)
    whole = Universe(rules, prices.shape[1]).update(prices, volume)
    universe = Universe(rules, prices.shape[1])
    edges = [0, *sorted(cuts), len(prices)]
    pieces = [universe.update(prices[a:b], volume[a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@given(rule_sets, st.integers(0, 1_000), st.integers(1, 59))
@settings(max_examples=30, deadline=None)
def test_the_future_changes_nothing(rules: UniverseRules, seed: int, cut: int) -> None:
    prices, volume = history(seed)
    before = Universe(rules, prices.shape[1]).update(prices, volume)[:cut]
    prices[cut:], volume[cut:] = prices[cut:][::-1], np.nan
    np.testing.assert_array_equal(
        Universe(rules, prices.shape[1]).update(prices, volume)[:cut], before
    )


def test_reasons_add_up() -> None:
    prices, volume = history(3)
    rules = UniverseRules(10, 1.5e6, 2, 8)
    verdict = Universe(rules, 5).judge(prices, volume)
    parts = (
        verdict.mask,
        verdict.no_price,
        verdict.short_history,
        verdict.illiquid,
        verdict.below_top,
    )
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts), 1)
    assert all(part.any() for part in parts)


def test_rules_come_from_the_settings() -> None:
    config = DataConfig(
        min_history_bars=3, min_dollar_volume=4, top_by_dollar_volume=5, liquidity_lookback_bars=6
    )
    assert UniverseRules.from_config(config) == UniverseRules(3, 4.0, 5, 6)
    assert UniverseRules.from_config(DataConfig()).are_trivial


def test_liquidity_without_traded_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no traded value.*dollar_volume_path"):
        Universe(UniverseRules(top_by_dollar_volume=2), 1).update(np.ones((1, 1)), None)


def test_liquidity_of_real_names_follows_pandas(market_data: object) -> None:
    frame = pd.read_parquet(f"{market_data}/us_daily_dollar_volume.parquet").iloc[:600]
    volume = frame.to_numpy(dtype=float)
    rules = UniverseRules(min_dollar_volume=5e7, lookback_bars=63)
    mask = Universe(rules, volume.shape[1]).update(np.where(volume > 0, 1.0, np.nan), volume)
    median = frame.astype(float).rolling(63, min_periods=32).median()
    np.testing.assert_array_equal(mask, (median >= 5e7).to_numpy() & (volume > 0))
    assert 0.2 < mask[100:].mean() < 0.8
