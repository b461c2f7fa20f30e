"""The truncation check catches functions that look ahead, and lets honest ones pass."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpa.errors import ConfigError
from dpa.market.panel import EXTRAS, Panel
from dpa.simulation.oracle import true_label_weights
from dpa.simulation.planted import Planted, PlantedMarket, simulate
from dpa.validation.truncation import CHANGES, LookAheadError, assert_past_only, changed_future

CUTS = (40, 77, 119)


@pytest.fixture(scope="module")
def planted():
    config = PlantedMarket(
        n_clusters=2, names_per_cluster=3, n_bars=120, late_listings=0.5, delistings=0.3
    )
    return simulate(config, 1)


@pytest.fixture(scope="module")
def panel(planted):
    return planted.panel


def frame(panel):
    return pd.DataFrame(panel.prices, panel.times, panel.names)


def rolling_mean(panel):
    return {"mean": frame(panel).rolling(10).mean().to_numpy()}


def expanding_score(panel):
    prices = frame(panel)
    mean, spread = prices.expanding(20).mean(), prices.expanding(20).std()
    return {"score": ((prices - mean) / spread).to_numpy()}


def several_shapes(panel):
    returns = np.nan_to_num(panel.returns())
    return {
        "market": returns.mean(axis=1),
        "held": panel.mask,
        "side": np.sign(returns).astype(np.int8),
        "square": (returns[:, :, None] * returns[:, None, :]).astype(np.float32),
        "known_at": panel.times.tz_convert(None).to_numpy(),
    }


def test_the_example_of_the_documentation_runs():
    page = Path(__file__).parents[2] / "docs" / "statistics.md"
    example = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(example.group(1), names)
    assert names["panel"].n_bars == 120


@pytest.mark.parametrize("honest", [rolling_mean, expanding_score, several_shapes])
def test_honest_functions_pass(panel, honest):
    assert_past_only(honest, panel, CUTS)


def test_the_fixed_rule_of_the_oracle_passes(planted):
    def weights(panel):
        labels = planted.labels[: panel.n_bars]
        seen = Planted(panel, labels, planted.residuals, planted.factors)
        return {"weights": true_label_weights(seen, 20, (1.0, 0.5))}

    assert_past_only(weights, planted.panel, CUTS)


LEAKS = {
    "backfill": lambda panel: frame(panel).bfill().to_numpy(),
    "centred window": lambda panel: frame(panel).rolling(5, center=True).mean().to_numpy(),
    "global standardisation": lambda panel: (
        (panel.prices - np.nanmean(panel.prices)) / np.nanstd(panel.prices)
    ),
    "next return": lambda panel: np.vstack([panel.returns()[1:], panel.returns()[:1]]),
    "final membership": lambda panel: np.tile(panel.mask[-1], (panel.n_bars, 1)),
    "length of history": lambda panel: np.full(panel.n_bars, panel.n_bars),
    "one last bit": lambda panel: np.nextafter(
        panel.prices, panel.prices if np.isnan(panel.prices[-1]).all() else np.inf
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_look_ahead_is_caught(panel, leak):
    with pytest.raises(LookAheadError, match="'output' looks ahead"):
        assert_past_only(lambda seen: {"output": LEAKS[leak](seen)}, panel, CUTS)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_the_future_catches_a_centred_window(panel, change):
    with pytest.raises(LookAheadError, match=f"is {change}$"):
        assert_past_only(
            lambda seen: {"output": LEAKS["centred window"](seen)}, panel, CUTS, [change]
        )


def test_the_error_names_output_bar_name_and_both_values(panel):
    name = int(np.flatnonzero(panel.mask.all(axis=0))[0])

    def leak(seen):
        out = np.nan_to_num(seen.prices)
        if seen.n_bars == 77:
            out[31, name] = -1.5
        return {"honest": seen.mask, "guilty": out}

    with pytest.raises(LookAheadError) as caught:
        assert_past_only(leak, panel, CUTS)
    message = str(caught.value)
    assert "'guilty'" in message
    assert f"bar 31 ({panel.times[31]}), name {panel.names[name]}" in message
    assert f"is {panel.prices[31, name]} and becomes -1.5" in message
    assert "from bar 77 on is cut" in message
    assert isinstance(caught.value, AssertionError)


def test_outputs_that_come_and_go_or_change_type_are_caught(panel):
    def unstable_type(seen):
        return {"output": seen.mask.astype(int if seen.n_bars == panel.n_bars else float)}

    def unstable_keys(seen):
        return {"a" if seen.mask.all() else str(seen.n_bars): np.ones(seen.n_bars)}

    with pytest.raises(LookAheadError, match="float64"):
        assert_past_only(unstable_type, panel, CUTS)
    with pytest.raises(LookAheadError, match="outputs"):
        assert_past_only(unstable_keys, panel, CUTS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_future_keeps_the_past_and_changes_the_rest(panel, change):
    volume = np.where(panel.mask, 1e6 + np.arange(panel.n_bars)[:, None], np.nan)
    extras = {name: volume + place for place, name in enumerate(EXTRAS)}
    full = Panel(panel.times, panel.names, panel.prices, panel.mask, "1d", "XNYS", **extras)
    other = changed_future(full, 40, change, np.random.default_rng(0))
    np.testing.assert_array_equal(other.prices[:40], full.prices[:40])
    np.testing.assert_array_equal(other.mask[:40], full.mask[:40])
    assert other.extras().keys() == extras.keys()
    for name, values in extras.items():
        np.testing.assert_array_equal(other.extras()[name][:40], values[:40])
    if change == "cut":
        assert other.n_bars == 40
    elif change == "poisoned":
        assert np.isnan(other.prices[40:]).all()
        assert all(np.isnan(values[40:]).all() for values in other.extras().values())
        assert not other.mask[40:].any()
    else:
        order = np.argsort(other.dollar_volume[40:, panel.mask.all(axis=0)][:, 0])
        assert (order != np.arange(80)).any()
        np.testing.assert_array_equal(other.prices[40:][order], full.prices[40:])
        np.testing.assert_array_equal(other.mask[40:][order], full.mask[40:])
        for name, values in extras.items():
            np.testing.assert_array_equal(other.extras()[name][40:][order], values[40:])
        np.testing.assert_array_equal(other.times, full.times)


@pytest.mark.parametrize(
    ("function", "cuts", "changes"),
    [
        (rolling_mean, [], CHANGES),
        (rolling_mean, CUTS, []),
        (rolling_mean, [0], CHANGES),
        (rolling_mean, [120], CHANGES),
        (lambda panel: {}, CUTS, CHANGES),
        (lambda panel: {"output": panel.prices[1:]}, CUTS, CHANGES),
        (lambda panel: {"output": 1.0}, CUTS, CHANGES),
        (lambda panel: {"output": np.full(panel.n_bars, "x")}, CUTS, CHANGES),
        (lambda panel: {"output": np.full(panel.n_bars, np.nan)}, CUTS, CHANGES),
        (lambda panel: {"output": np.zeros(panel.n_bars)}, CUTS, CHANGES),
    ],
)
def test_a_check_that_could_not_fail_is_refused(panel, function, cuts, changes):
    with pytest.raises(ConfigError):
        assert_past_only(function, panel, cuts, changes)
