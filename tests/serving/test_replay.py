"""The replay: what it sends, how its account follows, and how it goes on and ends."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpa.clock import FixedClock
from dpa.decision.records import plain
from dpa.errors import DataError
from dpa.market.panel import Panel
from dpa.market.session_grid import session_numbers
from dpa.serving.replay import (
    Bars,
    NaiveAccount,
    bars_of,
    first_row,
    replay,
    target_shares,
)
from dpa.serving.types import RequestError
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.horizons.small_run import CLOCK
from tests.serving.planted_decisions import decisions

MARKET = IntradayMarket(n_clusters=2, names_per_cluster=3, n_sessions=25, start="2024-06-03")


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate_bars(MARKET, 3).panel


class Answers:
    """In place of a client: answers with what a function makes of each request."""

    def __init__(self, respond: Any, clock: FixedClock | None = None) -> None:
        self._respond, self._clock = respond, clock
        self.requests: list[Any] = []

    def decide(self, request: Any, **_: Any) -> dict[str, Any]:
        self.requests.append(request)
        if self._clock is not None:
            self._clock.advance(0.01)
        targets = self._respond(len(self.requests) - 1, request)
        names = request.names
        pairs = zip(names, targets, strict=True)
        return {"symbols": [{"symbol": n, "target_shares": t} for n, t in pairs]}


def run(panel: Panel, respond: Any, n_bars: int = 10, half_spread: float = 0.0, **more: Any) -> Any:
    clock = FixedClock(CLOCK.now())
    client = Answers(respond, clock)
    cut = panel.window(0, n_bars)
    account = NaiveAccount("replay", cut.n_assets, 1e6, half_spread)
    summary = replay(
        Bars(cut, half_spread), client, clock, account=account, sleep=clock.advance, **more
    )
    return client.requests, summary, account


def test_a_request_is_the_bar_with_quotes_about_its_close(panel):
    requests, _, _ = run(panel, lambda *_: np.zeros(6), 100, half_spread=2.0)
    for row, request in enumerate(requests):
        assert request.time == panel.times[row]
        assert request.moment - request.time == pd.Timedelta(1, "s")
        close = panel.prices[row]
        np.testing.assert_array_equal(request.bars["close"], close)
        for name, array in panel.extras().items():
            np.testing.assert_array_equal(request.bars[name], array[row])
        np.testing.assert_array_equal(request.member, panel.mask[row])
        np.testing.assert_allclose((request.ask - request.bid) / close, 4e-4, rtol=1e-9)
        assert (request.quote_age_ms[np.isfinite(close)] == 50.0).all()


def test_a_spread_is_never_nothing(panel):
    requests, _, _ = run(panel, lambda *_: np.zeros(6), 3, half_spread=0.0)
    assert (requests[0].ask > requests[0].bid).all()


def test_the_daily_traded_value_is_of_sessions_before_only(panel):
    bars = Bars(panel, 1.0)
    session, _ = session_numbers(panel.times, panel.interval, panel.calendar)
    assert np.isnan(bars.adv_usd[0]).all()
    for number in range(1, session[-1] + 1):
        days = range(max(0, number - 20), number)
        daily = [np.nansum(panel.dollar_volume[session == day], axis=0) for day in days]
        np.testing.assert_allclose(bars.adv_usd[number], np.mean(daily, axis=0), rtol=1e-12)
    cut = Bars(panel.window(0, 90), 1.0)
    np.testing.assert_array_equal(cut.adv_usd, bars.adv_usd[: len(cut.adv_usd)])


def test_targets_are_held_from_the_next_close_on_and_nav_is_marked_there(panel):
    rng = np.random.default_rng(0)
    wanted = rng.integers(-50, 50, (10, 6)).astype(float)
    requests, summary, account = run(panel, lambda k, _: wanted[k], half_spread=3.0)
    cash, shares = 1e6, np.zeros(6)
    for k, request in enumerate(requests):
        if k:
            for name in range(6):  # one fill at a time
                traded = wanted[k - 1, name] - shares[name]
                cash -= traded * panel.prices[k, name]
                cash -= abs(traded) * panel.prices[k, name] * 3e-4
            shares = wanted[k - 1]
        np.testing.assert_array_equal(request.shares, shares)
        assert request.nav_usd == pytest.approx(cash + (shares * panel.prices[k]).sum(), rel=1e-12)
    assert summary.nav_usd == account.nav_usd == requests[-1].nav_usd
    changes = np.diff(np.vstack([np.zeros(6), wanted[:-1]]), axis=0)
    assert summary.n_trades == (changes != 0).sum()


def test_the_prior_nav_is_that_of_the_last_bar_of_the_session_before(panel):
    requests, _, _ = run(panel, lambda *_: np.full(6, 10.0), 170)
    session, _ = session_numbers(panel.times[:170], panel.interval, panel.calendar)
    for k, request in enumerate(requests):
        before = np.flatnonzero(session == session[k] - 1)
        expected = requests[before[-1]].nav_usd if before.size else 1e6
        assert request.prior_nav_usd == expected


def test_without_a_price_nothing_is_filled_and_the_last_price_counts():
    account = NaiveAccount("a", 2, 1000.0, 0.0)
    account.close_bar(0, np.array([10.0, 20.0]))
    account.want(np.array([5.0, 5.0]))
    account.close_bar(0, np.array([11.0, np.nan]))
    np.testing.assert_array_equal(account.shares, [5.0, 0.0])
    account.want(np.array([np.nan, 3.0]))  # NaN: keep
    account.close_bar(0, np.array([np.nan, 20.0]))
    np.testing.assert_array_equal(account.shares, [5.0, 3.0])
    assert account.nav_usd == 1000.0


def test_pace_and_latency_are_measured_on_the_clock(panel):
    _, fast, _ = run(panel, lambda *_: np.zeros(6))
    assert fast.seconds == pytest.approx([0.01] * 10)
    clock = FixedClock(CLOCK.now())
    client = Answers(lambda *_: np.zeros(6), clock)
    account = NaiveAccount("replay", 6, 1e6, 0.0)
    bars = Bars(panel.window(0, 11), 0.0)
    replay(bars, client, clock, account=account, speed=2.0, sleep=clock.advance)
    assert clock.elapsed() == pytest.approx(10 / 2.0 + 0.01)
    assert any("p50 10.0 ms, p99 10.0 ms" in line for line in fast.lines())


def test_refused_bars_are_counted_and_ten_in_a_row_end_it(panel):
    def refuse(status: int, rows: Any) -> Any:
        def respond(k: int, request: Any) -> Any:
            if k in rows:
                raise RequestError(status, "invalid", f"bar {k} is bad", "send another")
            return np.ones(6)

        return respond

    requests, summary, _ = run(panel, refuse(422, (2, 5)))
    assert (summary.n_bars, summary.n_decisions, len(summary.refusals)) == (10, 8, 2)
    assert summary.refusals[0] == "bar 2 is bad; send another"
    assert requests[3].shares.tolist() == [1.0] * 6  # kept through the refusal
    with pytest.raises(RequestError, match="bar 9 is bad"):
        run(panel, refuse(422, range(100)), 20)
    with pytest.raises(RequestError, match="bar 0 is bad"):
        run(panel, refuse(401, range(100)), 20)


def test_ctrl_c_ends_it_with_a_summary(panel):
    def respond(k: int, request: Any) -> Any:
        if k == 4:
            raise KeyboardInterrupt
        return np.zeros(6)

    _, summary, _ = run(panel, respond)
    assert summary.interrupted
    assert (summary.n_bars, summary.n_decisions) == (5, 4)
    assert summary.lines()[0] == "interrupted"


def test_it_begins_after_the_newest_bar_the_service_has(panel):
    assert first_row(panel, None) == 0
    assert first_row(panel, panel.times[7].isoformat()) == 8
    between = panel.times[7] + pd.Timedelta(1, "min")
    assert first_row(panel, between.isoformat()) == 8
    assert first_row(panel, panel.times[-1].isoformat()) == panel.n_bars
    requests, _, _ = run(panel, lambda *_: np.zeros(6), first=7)
    assert [r.time for r in requests] == list(panel.times[7:10])


def test_only_names_the_service_knows_are_sent(panel):
    bars = bars_of(panel, [panel.names[4], "OTHER", panel.names[1]], 1.0)
    assert bars.panel.names == (panel.names[1], panel.names[4])
    np.testing.assert_array_equal(bars.panel.prices, panel.prices[:, [1, 4]])
    with pytest.raises(DataError, match="knows none of the 6 names"):
        bars_of(panel, ["OTHER"], 1.0)


def test_an_account_goes_on_from_its_newest_decision():
    decision = decisions()[-1]
    content = json.loads(json.dumps(plain(decision.to_dict())))
    market = decision.snapshot.market
    names = market.names[::-1]
    account = NaiveAccount("default", len(names), 1.0, 0.0)
    account.take_over(content, names)
    np.testing.assert_array_equal(account.shares, market.shares[::-1])
    assert account.nav_usd == market.nav_usd
    account.close_bar(0, market.price[::-1])
    np.testing.assert_array_equal(account.shares, decision.sizes.shares[::-1])
    assert account.nav_usd == pytest.approx(market.nav_usd, rel=1e-12)  # filled at the same price
    np.testing.assert_array_equal(
        target_shares(content, (*names, "OTHER")), [*decision.sizes.shares[::-1], np.nan]
    )
