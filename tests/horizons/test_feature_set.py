"""Choosing features: what is refused, in which order they come, and what names their values."""

import dataclasses

import numpy as np
import pytest

from dpa.config import HorizonsConfig
from dpa.errors import ConfigError, DataError
from dpa.horizons.feature_set import choose_features, feature_set, trace, view_settings
from dpa.horizons.registry import FEATURES, SERIES
from dpa.horizons.views import BatchView, ViewSettings
from dpa.market.interval_specs import get_interval_spec, parse_horizons
from dpa.market.panel import EXTRAS
from tests.horizons.irregular import cluster_reader, irregular_panel

SPEC, DAILY = get_interval_spec("5m", None), get_interval_spec("1d", None)
ALL = frozenset(EXTRAS)
SETTINGS = ViewSettings(SPEC, 1950, 0.5)


def choose(extras=ALL, reader=None, **config):
    return choose_features(SPEC, extras, HorizonsConfig(**config), "XNYS", reader)


def test_the_long_look_back_is_that_of_the_settings_or_of_the_interval():
    assert view_settings(SPEC, HorizonsConfig()).sigma_minutes == 1950
    assert view_settings(DAILY, HorizonsConfig()).sigma_minutes == 23400
    assert view_settings(DAILY, HorizonsConfig(sigma_minutes=3900)).sigma_minutes == 3900


def test_named_features_come_once_in_the_order_named():
    chosen = choose(feature_list=("reversal_60m", "return_scaled_5m", "reversal_60m"))
    assert chosen.names == ("reversal_60m", "return_scaled_5m")


def test_all_that_the_data_allow_are_taken():
    with_model, without = choose(reader=cluster_reader()), choose()
    assert set(with_model.names) - set(without.names) == {
        n for n in with_model.names if n.startswith(("cluster", "beta_cons", "residual_cons"))
    }
    assert with_model.needs == {"open", "high", "low", "volume", "cluster"}
    assert choose(extras=frozenset()).needs == frozenset()


@pytest.mark.parametrize(
    ("name", "extras", "named"),
    [
        ("nothing", ALL, "'nothing' is not known"),
        ("volume_surprise_30m", frozenset(), "volume_surprise_30m needs volume"),
        ("close_location_30m", frozenset({"high"}), "close_location_30m needs low"),
        ("cluster_score", ALL, "cluster_score needs a cluster model"),
        ("momentum_8190m", ALL, "momentum_8190m does not fit bars of 5m"),
    ],
)
def test_a_named_feature_that_cannot_be_used_is_refused(name, extras, named):
    with pytest.raises(ConfigError, match=named) as caught:
        choose(extras, feature_list=("return_scaled_5m", name))
    assert caught.value.cure


def test_an_empty_choice_is_refused():
    with pytest.raises(ConfigError, match="no feature can be used"):
        choose(feature_list=())


def test_the_schema_says_which_feature_serves_which_horizon():
    chosen = choose(feature_list=("session_left", "momentum_60m", "return_scaled_5m"))
    horizons = parse_horizons(("5m", "30m", "1d", "2d"), SPEC)
    schema = chosen.schema(horizons, 1)
    assert schema.features == chosen.names
    assert schema.primary == 1
    np.testing.assert_array_equal(schema.serves, [[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])


def test_values_are_never_infinite():
    panel = irregular_panel()
    flat = np.full_like(panel.prices, 20.0)  # a price that never moves has no volatility
    still = dataclasses.replace(
        panel, prices=flat, mask=np.ones_like(panel.mask), open=flat, high=flat, low=flat
    )
    chosen = choose()
    values, sigma = chosen.compute(BatchView(still, chosen.settings))
    assert not np.isinf(values).any()
    assert np.isnan(sigma).all()
    assert values.dtype == np.float32


# -- fingerprints


def test_equal_features_have_equal_fingerprints():
    first, second = choose(), choose()
    assert first.fingerprints == second.fingerprints
    assert len(set(first.fingerprints.values())) == len(first.names)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"source": "another text"},
        {"file_hash": "another file"},
        {"minutes": 65},
        {"name": "other"},
    ],
)
def test_a_fingerprint_follows_the_feature(change):
    feature = FEATURES["residual_market_60m"]
    changed = dataclasses.replace(feature, **change)
    before, after = (trace(f, SETTINGS, "XNYS").fingerprint for f in (feature, changed))
    assert before != after


def test_a_fingerprint_does_not_depend_on_words():
    feature = FEATURES["residual_market_60m"]
    changed = dataclasses.replace(feature, words="said otherwise")
    before, after = (trace(f, SETTINGS, "XNYS").fingerprint for f in (feature, changed))
    assert before == after


@pytest.mark.parametrize("field", ["source", "file_hash"])
def test_a_fingerprint_follows_every_series_behind_it(field, monkeypatch):
    """Beta is two steps behind the residual; volume is none of its business."""

    def changed(name):
        monkeypatch.setitem(SERIES, name, dataclasses.replace(SERIES[name], **{field: "new"}))

    feature = FEATURES["residual_market_60m"]
    before = trace(feature, SETTINGS, "XNYS").fingerprint
    changed("signed_volume")
    assert trace(feature, SETTINGS, "XNYS").fingerprint == before
    changed("others_square")
    assert trace(feature, SETTINGS, "XNYS").fingerprint != before


@pytest.mark.parametrize("change", [{"sigma_minutes": 390}, {"coverage": 0.6}])
def test_a_fingerprint_follows_the_settings(change):
    feature = FEATURES["reversal_60m"]
    other = dataclasses.replace(SETTINGS, **change)
    before, after = (trace(feature, s, "XNYS").fingerprint for s in (SETTINGS, other))
    assert before != after


def test_a_feature_of_the_cluster_model_cannot_be_traced_without_one():
    with pytest.raises(DataError, match="there is no cluster model"):
        feature_set((FEATURES["cluster_score"],), SETTINGS, "XNYS", None)
