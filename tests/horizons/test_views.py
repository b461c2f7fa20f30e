"""The past and nothing else, the same bits from a tail, live and in a batch."""

import math

import numpy as np
import pytest

from dpa.config import HorizonsConfig
from dpa.errors import DataError
from dpa.horizons.feature_set import FeatureSet, choose_features, feature_set, trace
from dpa.horizons.registry import FEATURES, SERIES, Feature, Series
from dpa.horizons.views import BatchView, LiveView, ViewSettings
from dpa.market.interval_specs import get_interval_spec
from dpa.market.panel import Panel
from dpa.validation.truncation import LookAheadError, assert_past_only
from tests.horizons.irregular import (
    CLOCK_CHANGE,
    HALF_DAY,
    RAW,
    all_features,
    cluster_reader,
    irregular_panel,
    on_dates,
)

SPEC = get_interval_spec("5m", None)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return irregular_panel()


@pytest.fixture(scope="module")
def computed(panel):
    return all_features().compute(BatchView(panel, all_features().settings))


@pytest.fixture(scope="module")
def with_clusters() -> FeatureSet:
    """Every feature there is for 15m bars, those of the cluster model among them."""
    config = HorizonsConfig(sigma_minutes=390)
    spec = get_interval_spec("15m", None)
    return choose_features(spec, frozenset(RAW), config, "XNYS", cluster_reader())


@pytest.fixture(scope="module")
def coarse() -> Panel:
    return irregular_panel("15m", 12)


def equal_bits(found, wanted, names):
    for place, name in enumerate(names):
        np.testing.assert_array_equal(found[..., place], wanted[..., place], err_msg=name)


# -- past only


def test_no_feature_sees_the_future(panel):
    chosen = all_features()

    def outputs(part):
        values, sigma = chosen.compute(BatchView(part, chosen.settings))
        return dict(zip(chosen.names, values.transpose(2, 0, 1), strict=True)) | {"sigma": sigma}

    half = on_dates(panel, HALF_DAY, HALF_DAY)
    assert_past_only(outputs, panel, [half[0] + 3, half[-1] + 1, panel.n_bars - 30])


def test_no_feature_of_the_cluster_model_sees_the_future(coarse, with_clusters):
    def outputs(part):
        view = BatchView(part, with_clusters.settings, cluster_reader())
        values, _ = with_clusters.compute(view)
        return dict(zip(with_clusters.names, values.transpose(2, 0, 1), strict=True))

    assert {"cluster_score", "residual_consensus_60m"} <= set(with_clusters.names)
    assert_past_only(outputs, coarse, [251])


def test_the_check_would_catch_a_feature_that_looks_ahead(panel):
    def outputs(part):
        view = BatchView(part, all_features().settings)
        close = view.now("close")
        return {"ahead": np.vstack([close[1:], close[-1:]])}

    with pytest.raises(LookAheadError):
        assert_past_only(outputs, panel, [500])


# -- a tail is enough


@pytest.mark.parametrize("date", [HALF_DAY, "2024-12-02", "2024-12-04"])
def test_a_tail_of_the_reach_gives_the_bits_of_the_whole(date, panel, computed):
    chosen = all_features()
    for row in on_dates(panel, date, date)[[0, 1, 17, -1]]:
        tail = panel.window(row - chosen.reach, row + 1)
        values, sigma = chosen.compute(BatchView(tail, chosen.settings))
        equal_bits(values[-1], computed[0][row], chosen.names)
        np.testing.assert_array_equal(sigma[-1], computed[1][row])


def test_each_feature_has_a_reach_of_its_own(panel, computed):
    """And none reads further back than it says: its own tail suffices."""
    row = on_dates(panel, "2024-12-03", "2024-12-03")[40]
    for place, name in enumerate(all_features().names):
        found = trace(FEATURES[name], all_features().settings, "XNYS")
        tail = panel.window(row - found.reach, row + 1)
        view = BatchView(tail, all_features().settings)
        with np.errstate(all="ignore"):
            values = np.broadcast_to(FEATURES[name].compute(view)[-1], panel.n_assets)
        wanted = computed[0][row, :, place]
        np.testing.assert_array_equal(values.astype(np.float32), wanted, err_msg=name)


def test_a_tail_is_enough_for_the_cluster_model(coarse, with_clusters):
    view = BatchView(coarse, with_clusters.settings, cluster_reader())
    whole, _ = with_clusters.compute(view)
    for row in (250, 273, coarse.n_bars - 1):
        tail = coarse.window(row - with_clusters.reach, row + 1)
        values, _ = with_clusters.compute(BatchView(tail, with_clusters.settings, cluster_reader()))
        equal_bits(values[-1], whole[row], with_clusters.names)
    assert np.isfinite(whole[250:]).any(axis=(0, 1)).all()


# -- live


def go_live(chosen, panel, first, last, reader, context):
    """Values of bars `first` to `last` from a live view that begins on the bars before."""
    tail = BatchView(panel.window(max(0, first - context), first), chosen.settings, reader)
    chosen.compute(tail)
    live, out = LiveView(tail), []
    for row in range(first, last):
        live.advance(panel.window(row, row + 1))
        out.append(chosen.compute(live)[0][0])
    return np.stack(out)


@pytest.mark.parametrize(
    ("dates", "whole"),
    [(("2024-11-27", "2024-12-02"), False), ((CLOCK_CHANGE, "2024-11-05"), True)],
)
def test_live_is_the_batch_bar_by_bar(dates, whole, panel, computed):
    rows = on_dates(panel, *dates)
    chosen = all_features()
    context = panel.n_bars if whole else chosen.reach + 1
    found = go_live(chosen, panel, rows[0], rows[-1] + 1, None, context)
    equal_bits(found, computed[0][rows], chosen.names)


def test_live_goes_on_from_a_single_bar(panel):
    """Before a look-back is whole live says what the batch says: mostly nothing."""
    chosen = all_features()
    start = on_dates(panel, "2024-11-06", "2024-11-06")[30]
    part = panel.window(start, start + 160)
    batch, _ = chosen.compute(BatchView(part, chosen.settings))
    equal_bits(go_live(chosen, part, 1, 160, None, 1), batch[1:], chosen.names)


def test_live_is_the_batch_with_a_cluster_model(coarse, with_clusters):
    view = BatchView(coarse, with_clusters.settings, cluster_reader())
    whole, _ = with_clusters.compute(view)
    first, last = 235, 290
    context = with_clusters.reach + 1
    found = go_live(with_clusters, coarse, first, last, cluster_reader(), context)
    equal_bits(found, whole[first:last], with_clusters.names)


def test_a_long_live_stretch_moves_its_buffers(coarse):
    """More bars than a ring holds, twice over."""
    config = HorizonsConfig(sigma_minutes=60, feature_list=("reversal_60m", "jump_390m"))
    chosen = choose_features(get_interval_spec("15m", None), frozenset(RAW), config, "XNYS")
    batch, _ = chosen.compute(BatchView(coarse, chosen.settings))
    found = go_live(chosen, coarse, 30, coarse.n_bars, None, 30)
    equal_bits(found, batch[30:], chosen.names)
    assert coarse.n_bars > 30 + 2 * 90


# -- the questions a view answers, on numbers one can see through


@pytest.fixture
def small() -> Panel:
    times = irregular_panel().times[:8]
    prices = np.array([[1.0, 2, 4, np.nan, 16, 32, 64, 128]]).T.repeat(2, axis=1)
    prices[0, 1] = np.nan
    return Panel(times, ("A", "B"), prices, np.isfinite(prices), "5m")


@pytest.fixture
def view(small):
    return BatchView(small, ViewSettings(SPEC, 1950, 0.5))


def test_look_backs_by_hand(view):
    assert np.isnan(view.ago("close", 10)[:2]).all()
    np.testing.assert_array_equal(view.ago("close", 10)[2:, 0], [1, 2, 4, np.nan, 16, 32])
    np.testing.assert_array_equal(view.count("close", 15)[2:, 0], [3, 2, 2, 2, 3, 3])
    np.testing.assert_allclose(view.mean("close", 15)[2:, 0], [7 / 3, 3, 10, 24, 112 / 3, 224 / 3])
    np.testing.assert_allclose(view.total("close", 15)[3:5, 0], [9, 30])
    np.testing.assert_array_equal(view.highest("close", 10)[1:, 0], [2, 4, 4, 16, 32, 64, 128])
    np.testing.assert_array_equal(view.lowest("close", 10)[1:, 0], [1, 2, 4, 16, 16, 32, 64])
    assert np.isnan(view.lowest("close", 5)[3, 0])


def test_a_look_back_needs_its_bars(small):
    demanding = BatchView(small, ViewSettings(SPEC, 1950, 0.7))
    known = np.isfinite(demanding.mean("close", 15)[:, 0])
    np.testing.assert_array_equal(known, [0, 0, 1, 0, 0, 0, 1, 1])


def test_minutes_become_bars_upwards(view):
    np.testing.assert_array_equal(view.ago("close", 6), view.ago("close", 10))


def test_the_session_by_hand(panel):
    view = BatchView(panel, all_features().settings)
    half = on_dates(panel, HALF_DAY, HALF_DAY)
    so_far = view.since_open("volume")
    np.testing.assert_allclose(so_far[half[-1]], np.nansum(panel.volume[half], axis=0))
    np.testing.assert_array_equal(view.at_open("open")[half[5]], panel.open[half[0]])
    np.testing.assert_array_equal(view.before_open("close")[half[5]], panel.prices[half[0] - 1])
    later = BatchView(panel.window(half[3], half[9]), all_features().settings)
    assert np.isnan(later.since_open("volume")).all()
    assert np.isnan(later.at_open("open")).all()
    assert np.isnan(later.before_open("close")).all()


def test_scaled_is_in_units_of_sigma_and_minutes(panel):
    view = BatchView(panel, all_features().settings)
    sigma = view.now("sigma")[-1]
    moved = np.full_like(panel.prices, 0.01)
    np.testing.assert_allclose(view.scaled(moved, 25)[-1], 100 / (sigma * 5), rtol=1e-12)


# -- what a view refuses


def test_an_array_that_is_not_there_is_named(small, view):
    with pytest.raises(DataError, match="the data have no volume"):
        view.now("volume")
    with pytest.raises(DataError, match="there is no cluster model") as caught:
        view.now("cluster_s")
    assert "--cluster" in caught.value.cure
    with pytest.raises(DataError, match="'nothing' is not known"):
        view.now("nothing")


def test_a_series_made_from_itself_is_named(view, monkeypatch):
    monkeypatch.setitem(SERIES, "circle", Series("circle", lambda v: v.now("round"), ""))
    monkeypatch.setitem(SERIES, "round", Series("round", lambda v: v.now("circle"), ""))
    with pytest.raises(DataError, match="'circle' is made from itself"):
        view.now("circle")


def test_a_gap_in_the_bars_is_named(panel):
    rows = [0, 1, 2, 4, 5]
    torn = Panel(panel.times[rows], panel.names, panel.prices[rows], panel.mask[rows], "5m")
    with pytest.raises(DataError, match="leaves a gap"):
        BatchView(torn, all_features().settings)


# -- reach


def test_reach_adds_up_through_series():
    """A mean over an hour of returns reads one close more than the hour has bars."""

    def hour_of_returns(view):
        return view.mean("ret", 60)

    made = Feature("made", "", 60, (0, math.inf), "alpha", 1, 1, hour_of_returns, "")
    settings = ViewSettings(SPEC, 30, 0.5)
    assert trace(made, settings, "XNYS").reach == 12
    chosen = feature_set((made,), settings, "XNYS", None)
    assert chosen.reach == 12
    long = feature_set((made,), ViewSettings(SPEC, 390, 0.5), "XNYS", None)
    assert long.reach == 78  # of sigma, which every row needs


def test_needs_are_those_of_the_series_behind():
    settings = all_features().settings
    assert trace(FEATURES["volume_imbalance_60m"], settings, "XNYS").needs == {"volume"}
    assert trace(FEATURES["close_location_60m"], settings, "XNYS").needs == {"high", "low"}
    assert trace(FEATURES["beta_market"], settings, "XNYS").needs == frozenset()
    reader = cluster_reader()
    found = trace(FEATURES["residual_consensus_60m"], settings, "XNYS", reader)
    assert found.needs == {"cluster"}
    assert found.reach == 11 + reader.reach(SPEC)
