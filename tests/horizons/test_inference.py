"""Forecasts bar by bar are those of a batch; what cannot be forecast is said, never guessed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dpa.errors import DataError
from dpa.horizons.inference import predict_batch, start
from dpa.market.panel import EXTRAS, Panel
from dpa.market.session_grid import on_session_grid

ARRAYS = ("returns", "barriers", "stacked", "confidence", "sigma")
TAIL = 260  # bars of the tails here; the bundle needs fewer


def changed(panel: Panel, **changes) -> Panel:
    return replace(panel, **changes)


def without_prices(panel: Panel, rows, columns) -> Panel:
    """The panel with everything about some name-bars lost."""
    lost = np.zeros(panel.prices.shape, bool)
    lost[np.ix_(np.atleast_1d(rows), np.atleast_1d(columns))] = True

    def cut(values):
        return np.where(lost, np.nan, values)

    extras = {name: cut(values) for name, values in panel.extras().items()}
    return changed(panel, prices=cut(panel.prices), mask=panel.mask & ~lost, **extras)


def columns_of(panel: Panel, chosen, names=None) -> Panel:
    extras = {name: values[:, chosen] for name, values in panel.extras().items()}
    return Panel(
        panel.times,
        tuple(names or (panel.names[k] for k in chosen)),
        panel.prices[:, chosen],
        panel.mask[:, chosen],
        panel.interval,
        panel.calendar,
        **extras,
    )


def same(first, second) -> None:
    assert first.time == second.time
    assert (first.names, first.reasons) == (second.names, second.reasons)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def refused(action, words: str) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    assert words in str(caught.value)
    assert caught.value.cure
    return caught.value


@pytest.fixture(scope="module")
def batch(bundle, small_panel):
    return predict_batch(bundle, small_panel)


@pytest.fixture
def live(bundle, small_panel):
    return start(bundle, small_panel.window(0, TAIL))


def test_bar_by_bar_is_what_a_batch_says(bundle, small_panel, batch):
    tail = bundle.manifest.tail_bars
    live = start(bundle, small_panel.window(0, tail))
    said = 0
    for bar in range(tail - 1, small_panel.n_bars):
        row = small_panel.window(bar, bar + 1)
        forecast = live.update(row) if bar >= tail else live.forecast()
        assert forecast.time == small_panel.times[bar]
        for name in ARRAYS:
            np.testing.assert_allclose(
                getattr(forecast, name), getattr(batch, name)[bar], rtol=0, atol=1e-9, err_msg=name
            )
        said += np.isfinite(forecast.returns).all(axis=0).sum(axis=1)
    every = (small_panel.n_bars - tail + 1) * small_panel.n_assets
    assert said[0] > 0.7 * every  # the cluster model needs 12 bars without a gap
    assert (said[1:] > 0.95 * every).all()


def test_what_was_said_stays_as_it_was_said(bundle, small_panel):
    """Forecasts are kept until their labels mature: later bars must not reach into them."""
    tail = bundle.manifest.tail_bars
    live = start(bundle, small_panel.window(0, tail))
    kept, as_said = [], []
    for bar in range(tail, small_panel.n_bars):
        forecast = live.update(small_panel.window(bar, bar + 1))
        kept.append(forecast)
        as_said.append({name: getattr(forecast, name).copy() for name in ARRAYS})
    assert len(kept) > 2 * tail  # the memory of the tail is used again several times
    for forecast, said in zip(kept, as_said, strict=True):
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(forecast, name), said[name], err_msg=name)


def test_what_came_before_the_tail_does_not_matter(bundle, small_panel, batch):
    tail = bundle.manifest.tail_bars
    for stop in range(tail, small_panel.n_bars, 83):
        forecast = bundle.predict(small_panel.window(stop - tail, stop))
        for name in ARRAYS:
            np.testing.assert_allclose(
                getattr(forecast, name), getattr(batch, name)[stop - 1], rtol=0, atol=1e-9
            )


def test_shapes_and_units(bundle, small_panel):
    forecast = bundle.predict(small_panel.window(0, TAIL))
    symbols = small_panel.n_assets
    assert forecast.horizons == ("5m", "30m", "60m")
    assert forecast.families == ("cluster", "ridge", "gbdt", "encoder")
    assert forecast.returns.shape == (3, 4, symbols)
    assert forecast.barriers.shape == (2, symbols)
    known = np.array([not reason for reason in forecast.reasons])
    assert known.any()
    assert np.isfinite(forecast.returns[:, 1:, known]).all()
    assert (forecast.barriers[:, known] > 0).all()
    assert (forecast.barriers[:, known] < 1).all()
    assert ((forecast.confidence[:, known] >= 0) & (forecast.confidence[:, known] <= 1)).all()
    assert (forecast.sigma[known] > 0).all()


class TestNoPrediction:
    """A symbol without a forecast has NaN everywhere and a reason in words."""

    def check(self, forecast, name: str, words: str) -> None:
        place = forecast.names.index(name)
        assert words in forecast.reasons[place]
        for array in (forecast.returns, forecast.barriers, forecast.stacked, forecast.confidence):
            assert np.isnan(array[..., place]).all()
        others = [k for k, reason in enumerate(forecast.reasons) if not reason]
        assert others
        assert np.isfinite(forecast.stacked[:, others]).all()

    def test_missing_symbols(self, bundle, small_panel):
        tail = columns_of(small_panel.window(0, TAIL), range(2, small_panel.n_assets))
        forecast = bundle.predict(tail)
        assert set(forecast.names) == set(small_panel.names)
        for name in small_panel.names[:2]:
            self.check(forecast, name, "not in the data")

    def test_nan_in_the_newest_bar(self, bundle, small_panel, live):
        name = small_panel.names[3]
        tail = without_prices(small_panel.window(0, TAIL), TAIL - 1, 3)
        self.check(bundle.predict(tail), name, "no price in this bar")
        bar = without_prices(small_panel.window(TAIL, TAIL + 1), 0, 3)
        self.check(live.update(bar), name, "no price in this bar")

    def test_nan_for_long(self, bundle, small_panel):
        tail = without_prices(small_panel.window(0, TAIL), np.arange(TAIL - 1), 3)
        self.check(bundle.predict(tail), small_panel.names[3], "too few prices for a volatility")

    def test_nan_for_an_hour(self, bundle, small_panel):
        tail = without_prices(small_panel.window(0, TAIL), np.arange(TAIL - 20, TAIL - 1), 3)
        self.check(bundle.predict(tail), small_panel.names[3], "features are known")

    def test_not_a_member(self, bundle, small_panel):
        tail = small_panel.window(0, TAIL)
        mask = tail.mask.copy()
        mask[-1, 3] = False
        place = bundle.predict(changed(tail, mask=mask))
        words = "not a member" if np.isfinite(tail.prices[-1, 3]) else "no price"
        self.check(place, small_panel.names[3], words)

    def test_a_name_left_out_of_an_update(self, small_panel, live):
        bar = small_panel.window(TAIL, TAIL + 1)
        forecast = live.update(columns_of(bar, range(1, bar.n_assets)))
        assert forecast.names == small_panel.names
        self.check(forecast, small_panel.names[0], "no price in this bar")


def test_a_gap_is_the_same_as_bars_without_prices(bundle, small_panel):
    first, second = (start(bundle, small_panel.window(0, TAIL)) for _ in range(2))
    gap = range(TAIL, TAIL + 5)
    for bar in gap:
        every = np.arange(small_panel.n_assets)
        first.update(without_prices(small_panel.window(bar, bar + 1), 0, every))
    for bar in range(TAIL + 5, TAIL + 30):
        row = small_panel.window(bar, bar + 1)
        same(first.update(row), second.update(row))


def test_a_gap_in_the_tail_is_the_same_too(bundle, small_panel):
    tail = small_panel.window(0, TAIL)
    kept = np.r_[0:200, 207:TAIL]
    extras = {name: values[kept] for name, values in tail.extras().items()}
    holed = Panel(
        tail.times[kept], tail.names, tail.prices[kept], tail.mask[kept], "5m", "XNYS", **extras
    )
    filled = without_prices(tail, np.arange(200, 207), np.arange(tail.n_assets))
    same(bundle.predict(holed), bundle.predict(filled))
    assert on_session_grid(holed).n_bars == TAIL


def test_the_order_of_names_does_not_matter_in_an_update(bundle, small_panel):
    first, second = (start(bundle, small_panel.window(0, TAIL)) for _ in range(2))
    order = np.random.default_rng(0).permutation(small_panel.n_assets)
    for bar in range(TAIL, TAIL + 20):
        row = small_panel.window(bar, bar + 1)
        same(first.update(row), second.update(columns_of(row, order)))


def test_the_order_of_names_does_not_matter_in_a_tail(bundle, small_panel):
    tail = small_panel.window(0, TAIL)
    order = np.random.default_rng(1).permutation(small_panel.n_assets)
    same(bundle.predict(columns_of(tail, order)), bundle.predict(tail))


def test_more_names_than_the_bundle_knows_are_forecast_too(bundle, small_panel):
    tail = small_panel.window(0, TAIL)
    chosen = [*range(tail.n_assets), 0]
    forecast = bundle.predict(columns_of(tail, chosen, (*tail.names, "NEW")))
    assert forecast.reasons[-1] == forecast.reasons[0]


class TestRefusals:
    def test_out_of_order_and_repeated(self, small_panel, live):
        for bar, words in ((TAIL - 2, "is out of order"), (TAIL - 1, "is the newest bar again")):
            refused(lambda bar=bar: live.update(small_panel.window(bar, bar + 1)), words)

    def test_several_bars_at_once(self, small_panel, live):
        for stop in (TAIL, TAIL + 2):
            refused(lambda stop=stop: live.update(small_panel.window(TAIL, stop)), "one bar")

    def test_a_bar_outside_the_session(self, small_panel, live):
        row = small_panel.window(TAIL, TAIL + 1)
        off = changed(row, times=row.times + pd.Timedelta(1, "min"))
        refused(lambda: live.update(off), "is no bar of the calendar")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"interval": "1m"}, "interval of the data is 1m, the bundle's is 5m"),
            ({"calendar": "XLON"}, "calendar of the data is XLON, the bundle's is XNYS"),
            ({"volume": None}, "no volume"),
            ({"high": None}, "no high"),
        ],
        ids=["interval", "calendar", "volume", "high"],
    )
    def test_another_kind_of_bar(self, bundle, small_panel, live, changes, words):
        row = small_panel.window(TAIL, TAIL + 1)
        refused(lambda: live.update(changed(row, **changes)), words)
        tail = small_panel.window(0, TAIL)
        refused(lambda: bundle.predict(changed(tail, **changes)), words)

    def test_an_unknown_name(self, small_panel, live):
        row = small_panel.window(TAIL, TAIL + 1)
        names = ("XXX", *row.names[1:])
        unknown = columns_of(row, range(row.n_assets), names)
        refused(lambda: live.update(unknown), "name 'XXX' was not in the tail")

    def test_too_short_a_tail(self, bundle, small_panel):
        least = bundle.manifest.tail_bars
        for first in (0, 70, 77, 78):  # an open, the midst of a session, its last bar
            bundle.predict(small_panel.window(first, first + least))
            short = small_panel.window(first, first + least - 1)
            words = f"a tail of {least - 1} bars is too short"
            refused(lambda short=short: bundle.predict(short), words)
        refused(lambda: bundle.predict(small_panel.window(0, 0)), "a tail of 0 bars is too short")

    @pytest.mark.parametrize("price", [0.0, -3.5, np.inf])
    def test_a_price_that_is_none(self, bundle, small_panel, live, price):
        tail, row = small_panel.window(0, TAIL), small_panel.window(TAIL, TAIL + 1)
        for panel, action in ((tail, bundle.predict), (row, live.update)):
            prices, mask = panel.prices.copy(), panel.mask.copy()
            prices[-1, 2], mask[-1, 2] = price, np.isfinite(price)
            bad = changed(panel, prices=prices, mask=mask)
            refused(lambda bad=bad, action=action: action(bad), f"price {price:g} of N2")

    def test_too_few_names(self, bundle, small_panel):
        tail = columns_of(small_panel.window(0, TAIL), [0, 1, 2])
        refused(lambda: bundle.predict(tail), "the names the bundle was trained on")

    def test_too_few_names_with_a_price(self, bundle, small_panel):
        tail, names = small_panel.window(0, TAIL), small_panel.n_assets
        half = np.arange(names // 2, names)
        start(bundle, without_prices(tail, np.arange(TAIL), half))
        start(bundle, without_prices(tail, np.arange(TAIL - 1), np.arange(names)))
        less = without_prices(tail, np.arange(TAIL), half - 1)
        less = without_prices(less, np.arange(TAIL), names - 1)
        words = "of the names the bundle was trained on"
        share = (names // 2 - 1) / names
        refused(lambda: start(bundle, less), f"prices of {share:.0%} {words}")
        every = without_prices(tail, np.arange(TAIL), np.arange(names))
        refused(lambda: start(bundle, every), f"prices of 0% {words}")

    def test_a_gap_longer_than_the_look_back(self, bundle, small_panel):
        live = start(bundle, small_panel.window(0, TAIL))
        far = TAIL + bundle.manifest.tail_bars + 1
        refused(lambda: live.update(small_panel.window(far, far + 1)), "bars are missing after")

    def test_a_refused_bar_leaves_no_trace(self, bundle, small_panel):
        first, second = (start(bundle, small_panel.window(0, TAIL)) for _ in range(2))
        row = small_panel.window(TAIL, TAIL + 1)
        ahead = small_panel.window(TAIL + 3, TAIL + 4)
        bad = [
            changed(row, times=row.times + pd.Timedelta(1, "min")),
            changed(row, interval="1m"),
            changed(ahead, volume=None),
            columns_of(ahead, range(ahead.n_assets), ("XXX", *ahead.names[1:])),
            small_panel.window(TAIL - 5, TAIL - 4),
        ]
        for bar in bad:
            with pytest.raises(DataError):
                first.update(bar)
        same(first.forecast(), second.forecast())
        same(first.update(row), second.update(row))


def test_every_optional_array_is_known_to_the_tests(small_panel):
    assert set(small_panel.extras()) == set(EXTRAS)
