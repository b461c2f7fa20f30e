"""The cluster model read bar by bar says what the model itself says over a stretch of history."""

import dataclasses

import numpy as np
import pytest
import torch

from dpa.cluster.model import ClusterModel
from dpa.cluster.tracker import ClusterTracker
from dpa.config import ClusterConfig
from dpa.horizons.clock import SessionClock
from dpa.horizons.clusters import CLUSTER_SERIES, ClusterReader
from dpa.market.interval_specs import get_interval_spec
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.horizons.irregular import cluster_reader, irregular_panel

KINDS = [
    {"features": features, "centroids": centroids}
    for features in ("returns", "price_path")
    for centroids in ("comovement", "shape")
]


@pytest.fixture(scope="module")
def panel() -> Panel:
    """30m bars of 12 sessions, with missing ones."""
    return irregular_panel("30m", 12)


def clock_of(panel):
    return SessionClock.of(panel.times, panel.interval, panel.calendar)


def read(panel, **config):
    return cluster_reader(**config).read(panel, clock_of(panel))


def labels_by_session(model, panel, features):
    """The model's own tracker, begun anew in every session."""
    session = clock_of(panel).session
    rows = []
    for number in np.unique(session):
        inside = np.flatnonzero(session == number)
        start, stop = max(inside[0], features.first_bar), inside[-1] + 1
        if start >= stop:
            continue
        tensors = ("series", "valid", "mean", "scale", "newest")
        cut = dataclasses.replace(features, **{n: getattr(features, n)[:stop] for n in tensors})
        config = model.config
        tracker = ClusterTracker(config.n_clusters, model.seed, config.reseed_bars)
        rows.append(tracker.extend(cut, start))
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


@pytest.mark.parametrize("config", KINDS, ids=lambda c: "-".join(c.values()))
def test_every_value_is_the_model_s_own(config, panel):
    reader = cluster_reader(**config)
    model = reader.model
    inputs = model.prepare(panel)
    if config["centroids"] == "shape":
        model.seed_shapes(inputs.features, 60)
    else:
        inputs = dataclasses.replace(
            inputs, labels=labels_by_session(model, panel, inputs.features)
        )
    with torch.no_grad():
        wanted = model(inputs)
    found = reader.read(panel, clock_of(panel))
    known, ready = inputs.features.valid.numpy(), wanted.ready.numpy()
    np.testing.assert_array_equal(np.isfinite(found["cluster_newest"]), known)
    np.testing.assert_array_equal(np.isfinite(found["cluster_s"]), ready)
    assert ready.mean() > 0.15
    pairs = {
        "cluster_newest": inputs.features.newest,
        "cluster_gate_now": wanted.gate,
        "cluster_s": wanted.score,
        "cluster_activity": wanted.active,
    }
    for name, values in pairs.items():
        there = np.isfinite(found[name])
        apart = np.abs(found[name][there] - values.numpy()[there])
        assert np.quantile(apart, 0.97) < 1e-3, name  # float32, summed in another order
        assert apart.max() < 0.1, name
    apart = found["cluster_newest"] - found["cluster_consensus"]
    np.testing.assert_allclose(found["cluster_residual"], apart, atol=1e-5)


def test_the_reach_is_all_that_matters(panel):
    whole = read(panel)
    reach = cluster_reader().reach(get_interval_spec("30m", None))
    for start in (1, 13, 30, 47):
        later = read(panel.window(start, panel.n_bars))
        for name in CLUSTER_SERIES:
            np.testing.assert_array_equal(later[name][reach:], whole[name][start + reach :])


def test_on_daily_bars_the_clusters_begin_anew_every_month():
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=3, n_sessions=120, interval="1d", start="2023-01-03"
    )
    panel = simulate_bars(market, 0).panel
    whole, later = read(panel), read(panel.window(31, panel.n_bars))
    reach = cluster_reader().reach(get_interval_spec("1d", None))
    for name in CLUSTER_SERIES:
        assert np.isfinite(whole[name][31 + reach :]).all()
        np.testing.assert_array_equal(later[name][reach:], whole[name][31 + reach :])


def test_a_step_goes_on_from_what_was_read(panel):
    whole, reader = read(panel), cluster_reader()
    reader.read(panel.window(0, 70), clock_of(panel.window(0, 70)))
    for bar in range(70, 100):
        row = panel.window(bar, bar + 1)
        for name, values in reader.step(row, clock_of(row)).items():
            np.testing.assert_array_equal(values[0], whole[name][bar])


def test_what_was_read_before_leaves_nothing_behind(panel):
    reader = cluster_reader()
    reader.read(panel.window(40, 90), clock_of(panel.window(40, 90)))
    again, whole = reader.read(panel, clock_of(panel)), read(panel)
    for name in CLUSTER_SERIES:
        np.testing.assert_array_equal(again[name], whole[name])


def test_bars_without_any_name_are_missing_and_no_more(panel):
    prices, mask = panel.prices.copy(), panel.mask.copy()
    prices[60:90] = np.nan
    mask[60:90] = False
    found = read(Panel(panel.times, panel.names, prices, mask, "30m"))
    whole = read(panel)
    for name in CLUSTER_SERIES:
        assert np.isnan(found[name][60:90]).all()
        np.testing.assert_array_equal(found[name][:60], whole[name][:60])
    assert np.isfinite(found["cluster_s"][120:]).any()


def test_bars_before_the_first_open_are_not_read(panel):
    found = read(panel.window(4, 13))
    assert all(np.isnan(values).all() for values in found.values())


def test_a_reader_does_not_change_its_model():
    reader = cluster_reader()
    assert isinstance(reader, ClusterReader)
    assert not any(p.requires_grad for p in reader.model.parameters())
    assert not reader.model.training


def test_the_bits_do_not_depend_on_the_number_of_threads():
    """The driver of a run has all cores, its workers one: both must read the same."""
    panel = simulate_bars(IntradayMarket(n_sessions=3), 1).panel
    clock = SessionClock.of(panel.times, panel.interval, panel.calendar)
    model = ClusterModel(ClusterConfig(window=60, n_clusters=10))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(ClusterReader(model).read(panel, clock))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for name in CLUSTER_SERIES:
        np.testing.assert_array_equal(found[0][name], found[1][name])
