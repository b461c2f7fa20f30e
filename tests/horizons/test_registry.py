"""Registering features and series: names, look-backs, and what is refused."""

import math

import numpy as np
import pytest

from dpa.errors import ConfigError
from dpa.horizons import registry
from dpa.horizons.registry import FEATURES, feature, find_feature, series
from dpa.market.interval_specs import Horizon, get_interval_spec


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "FEATURES", dict(FEATURES))
    monkeypatch.setattr(registry, "SERIES", dict(registry.SERIES))


def test_one_function_is_a_feature_for_each_look_back():
    @feature("words", (5, 30, 390), role="risk", version=3, bars=2, serves=(10, 390))
    def of_mine(view, minutes):
        return np.full((1, 1), float(minutes))

    for minutes in (5, 30, 390):
        found = find_feature(f"of_mine_{minutes}m")
        assert (found.minutes, found.role, found.version, found.bars) == (minutes, "risk", 3, 2)
        assert found.compute(None)[0, 0] == minutes
        assert "def of_mine(view, minutes)" in found.source
    assert of_mine(None, 7)[0, 0] == 7


def test_a_feature_without_look_backs_keeps_its_name():
    @feature("words", look_back=390, intraday=True)
    def now_of_mine(view):
        return np.zeros((1, 1))

    found = find_feature("now_of_mine")
    assert (found.minutes, found.intraday, found.serves) == (390, True, (0, math.inf))


def test_a_name_is_given_once():
    @feature("words")
    def twice(view):
        return np.zeros((1, 1))

    first = twice

    @feature("other words")
    def once(view):
        return np.zeros((1, 1))

    with pytest.raises(ConfigError, match="'twice' is registered twice"):

        @feature("words")
        def twice(view):
            return np.ones((1, 1))

    assert find_feature("twice").compute is first


def test_reading_the_same_file_again_is_no_conflict():
    def register():
        @feature("words")
        def again(view):
            return np.zeros((1, 1))

        @series
        def series_again(view):
            return np.zeros((1, 1))

    register()
    register()
    assert find_feature("again").words == "words"


def test_an_unknown_feature_is_named_with_the_cure():
    with pytest.raises(ConfigError, match="'nothing' is not known") as caught:
        find_feature("nothing")
    assert "dpa features list" in caught.value.cure


@pytest.mark.parametrize(
    ("interval", "minutes", "bars", "fits"),
    [
        ("5m", 30, 6, True),
        ("5m", 30, 7, False),
        ("15m", 30, 3, False),
        ("15m", 20, 1, False),
        ("1m", 5, 1, True),
        ("5m", 1950, 1, True),
        ("5m", 8190, 1, False),
        ("1d", 8190, 6, True),
        ("1d", 390, 1, True),
        ("1d", 60, 1, False),
        ("1d", 0, 1, True),
    ],
)
def test_a_look_back_fits_whole_bars_and_enough_of_them(interval, minutes, bars, fits):
    spec = get_interval_spec(interval, None)

    @feature("words", look_back=minutes, bars=bars)
    def fitting(view):
        return np.zeros((1, 1))

    assert find_feature("fitting").fits(spec) is fits


def test_an_intraday_feature_means_nothing_on_daily_bars():
    assert not find_feature("session_left").fits(get_interval_spec("1d", None))
    assert find_feature("session_left").fits(get_interval_spec("60m", None))


def test_horizons_served():
    @feature("words", serves=(15, 390))
    def serving(view):
        return np.zeros((1, 1))

    served = [find_feature("serving").serves_horizon(Horizon(m, 1, "")) for m in (14, 15, 390, 391)]
    assert served == [False, True, True, False]
