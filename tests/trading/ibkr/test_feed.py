"""Quotes and bars through a socket: the same numbers that the venue published, or none."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from dpa.simulation.tws.markets import Book, planted_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.feed import FeedBar
from dpa.trading.ibkr import feed as feed_module
from dpa.trading.ibkr.feed import IbkrFeed
from dpa.trading.types import Quote
from tests.trading.ibkr.rig import Rig, rig, run, venue_of


@asynccontextmanager
async def following(
    venue: SimVenue | None = None,
    held: tuple[str, ...] = (),
    alert: Callable[[str], None] = print,
    **settings: Any,
) -> AsyncIterator[tuple[Rig, IbkrFeed]]:
    """A feed of all names of a market of five-minute bars."""
    if venue is None:
        venue = venue_of(market=market_of())
    async with rig(venue=venue, **settings) as r:
        feed = IbkrFeed(
            r.broker.client,
            r.broker.contracts,
            r.broker.settings,
            venue.market.panel.interval,
            venue.market.panel.calendar,
            2.0,
            r.clock,
            alert=alert,
        )
        await feed.start(venue.market.panel.names, held)
        await settled(r, feed)
        yield r, feed
        await feed.stop()
        await r.settle()


def market_of(names: int = 4) -> Any:
    return planted_market(seed=5, names=names, sessions=1, history=1, interval="5m")


async def settled(r: Rig, feed: IbkrFeed) -> None:
    """Everything is subscribed that should be, and the first answers are there."""
    await r.settle()
    await r.until(lambda: all(w is None or w.done() for w in (feed._quote_work, feed._bar_work)))
    await r.settle()


async def go_on(r: Rig, feed: IbkrFeed, seconds: float) -> list[FeedBar]:
    """Let the venue run; the bars that became due."""
    until = r.clock.now() + timedelta(seconds=seconds)
    bars: list[FeedBar] = []
    while r.clock.now() < until:
        r.venue.advance()
        await r.settle()
        bars += feed.due(r.clock.now())
    return bars


def price(quote: Quote) -> tuple[Any, ...]:
    return quote.bid, quote.ask, quote.last, quote.bid_size, quote.ask_size


@pytest.mark.parametrize("source", ["realtime", "history"])
def test_bars_are_those_that_the_venue_traded(source: str) -> None:
    async def scenario() -> None:
        async with following(SimVenue(market_of()), bar_source=source) as (r, feed):
            panel = r.venue.market.panel
            first = r.venue.market.live_from
            bars = await go_on(r, feed, 600 + 920)
            assert len(bars) == 3
            for row, bar in enumerate(bars, start=first):
                assert bar.panel.times[0] == panel.times[row]
                assert bar.panel.names == panel.names
                assert bar.missing == ()
                assert not bar.late
                np.testing.assert_array_equal(bar.panel.prices[0], panel.prices[row])
                for name in ("open", "high", "low", "volume"):
                    given, expected = getattr(bar.panel, name), getattr(panel, name)
                    np.testing.assert_array_equal(given[0], expected[row], err_msg=name)

    run(scenario)


def test_quotes_are_those_of_the_venue() -> None:
    async def scenario() -> None:
        async with following() as (r, feed):
            await go_on(r, feed, 30)
            quotes = feed.quotes()
            assert set(quotes) == set(feed.symbols)
            for symbol, quote in quotes.items():
                contract = r.venue.listing.find(0, symbol)
                assert contract is not None
                true = r.venue.quote(contract)
                assert true is not None
                assert price(quote) == (
                    *(true.bid, true.ask, true.last),
                    *(true.bid_size, true.ask_size),
                )
                assert quote.sound
                assert quote.shortable
            assert feed.newest_tick_at is not None
            assert r.clock.now() - feed.newest_tick_at <= timedelta(seconds=10)

    run(scenario)


@pytest.mark.parametrize("how", ["crossed", "zero", "none"])
def test_bad_quotes_are_not_sound_and_good_ones_are_again(how: str) -> None:  # fault 23
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="quotes", how=how, symbol=r.symbol, seconds=15)
            await r.settle()
            assert not feed.quotes()[r.symbol].sound
            await go_on(r, feed, 20)
            assert feed.quotes()[r.symbol].sound

    run(scenario)


def test_a_quote_that_stands_still_grows_old() -> None:  # fault 23
    async def scenario() -> None:
        async with following() as (r, feed):
            before = feed.quotes()[r.symbol].time
            r.fault(do="quotes", how="stale", symbol=r.symbol)
            await go_on(r, feed, 60)
            assert r.clock.now() - feed.quotes()[r.symbol].time >= timedelta(seconds=50)
            assert feed.quotes()[r.symbol].time >= before

    run(scenario)


def test_a_halted_name_says_so_until_it_trades_again() -> None:  # fault 23
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="halt", symbol=r.symbol, seconds=15)
            await r.settle()
            assert feed.quotes()[r.symbol].halted
            assert not feed.quotes()[r.symbol].sound
            await go_on(r, feed, 20)
            assert not feed.quotes()[r.symbol].halted

    run(scenario)


def test_shares_that_cannot_be_borrowed_are_marked() -> None:  # fault 26
    async def scenario() -> None:
        async with following() as (r, feed):
            assert feed.quotes()[r.symbol].shortable
            r.fault(do="locate", symbol=r.symbol, shares=0)
            await go_on(r, feed, 10)
            assert not feed.quotes()[r.symbol].shortable

    run(scenario)


def test_delayed_data_is_marked_and_never_sound() -> None:  # fault 22
    async def scenario() -> None:
        venue = venue_of(Traits(subscribed=False), market_of())
        async with following(venue, delayed_data=True) as (r, feed):
            await go_on(r, feed, 10)
            quotes = feed.quotes()
            assert quotes
            assert all(quote.delayed and not quote.sound for quote in quotes.values())

    run(scenario)


def test_without_a_subscription_there_are_no_quotes_to_trade_on() -> None:  # fault 22
    async def scenario() -> None:
        venue = venue_of(Traits(subscribed=False), market_of())
        async with following(venue) as (r, feed):
            await go_on(r, feed, 10)
            assert not any(quote.sound for quote in feed.quotes().values())
            assert set(feed.refusals) == set(feed.symbols)
            assert feed.refusals[r.symbol].startswith(("354", "420"))
            venue.traits.subscribed = True
            await go_on(r, feed, 70)  # tried again after a minute
            await settled(r, feed)
            await go_on(r, feed, 10)
            assert all(quote.sound for quote in feed.quotes().values())

    run(scenario)


@pytest.mark.parametrize("code", [10197, 354])
def test_a_quote_that_another_session_took_away_is_not_traded_on(code: int) -> None:  # fault 22
    async def scenario() -> None:
        async with following() as (r, feed):
            assert feed.quotes()[r.symbol].sound
            number = feed._numbers["reqMktData", r.symbol]
            r.fault(do="say", code=code, message="not for you", request_id=number)
            await r.settle()
            assert not feed.quotes()[r.symbol].sound
            other = feed.symbols[1]
            assert feed.quotes()[other].sound

    run(scenario)


@pytest.mark.parametrize(("source", "each"), [("realtime", 2), ("history", 1)])
def test_lines_that_are_few_go_to_what_is_held(source: str, each: int) -> None:  # fault 21
    async def scenario() -> None:
        venue = venue_of(Traits(lines=2 * each), market_of(6))
        held = venue.market.panel.names[-2:]
        async with following(venue, held, bar_source=source) as (r, feed):
            for _ in range(20):
                await settled(r, feed)
            assert set(feed.quotes()) == set(held)
            assert set(feed.unfollowed) == set(feed.symbols) - set(held)
            first = venue.market.panel.names[0]
            feed.hold([first, held[0]])
            for _ in range(20):
                await settled(r, feed)
            assert set(feed.quotes()) == {first, held[0]}
            bars = await go_on(r, feed, 610)
            assert set(bars[-1].missing) == set(feed.unfollowed)

    run(scenario)


def test_what_is_held_is_quoted_whatever_else_is_followed() -> None:
    async def scenario() -> None:  # fault 21
        async with following(venue_of(market=market_of(6)), market_data_lines=4) as (r, feed):
            names = r.venue.market.panel.names
            await feed.start(names[:3])
            await settled(r, feed)
            assert set(feed.quotes()) == set(names[:2])
            feed.hold([names[5], "OPT:x"])
            await settled(r, feed)
            await settled(r, feed)
            assert set(feed.quotes()) == {names[0], names[5]}
            assert set(feed._pieces) == {names[0]}
            await go_on(r, feed, 30)
            assert feed.quotes()[names[5]].sound
            feed.hold([])
            await settled(r, feed)
            await settled(r, feed)
            assert set(feed.quotes()) == set(names[:2])

    run(scenario)


def test_the_line_limit_of_the_settings_is_never_passed() -> None:  # fault 21
    async def scenario() -> None:
        async with following(venue_of(market=market_of(6)), market_data_lines=4) as (_, feed):
            assert len(feed.quotes()) == 2
            assert not feed.refusals

    run(scenario)


@pytest.mark.parametrize("data_lost", [True, False])
def test_quotes_count_again_after_the_servers_came_back(data_lost: bool) -> None:  # fault 11
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="connectivity", seconds=20, data_lost=data_lost)
            await r.settle()
            assert not any(quote.sound for quote in feed.quotes().values())
            await go_on(r, feed, 25)
            await settled(r, feed)
            await go_on(r, feed, 10)
            assert all(quote.sound for quote in feed.quotes().values())
            assert set(feed.quotes()) == set(feed.symbols)

    run(scenario)


def test_a_broken_data_farm_suspends_quotes_until_they_move() -> None:  # fault 11
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="farm", seconds=20)
            await r.settle()
            assert not any(quote.sound for quote in feed.quotes().values())
            await go_on(r, feed, 30)
            assert all(quote.sound for quote in feed.quotes().values())

    run(scenario)


def test_a_symbol_that_stays_silent_after_its_farm_is_back_is_subscribed_anew() -> None:
    async def scenario() -> None:  # fault 11
        async with following() as (r, feed):
            r.fault(do="farm", seconds=5)
            await r.settle()
            r.fault(do="quotes", how="stale", symbol=r.symbol)
            numbers = dict(feed._numbers)
            await go_on(r, feed, 5)
            assert not feed.quotes()[r.symbol].sound
            assert feed._numbers == numbers
            await go_on(r, feed, 15)
            await settled(r, feed)
            quotes, bars = ("reqMktData", r.symbol), ("reqRealTimeBars", r.symbol)
            assert feed._numbers[quotes] != numbers[quotes]
            assert feed._numbers[bars] == numbers[bars]
            assert feed.quotes()[r.symbol].sound

    run(scenario)


def test_silence_is_ended_by_subscribing_anew() -> None:  # fault 11
    async def scenario() -> None:
        async with following() as (r, feed):
            before = dict(feed._numbers)
            r.venue.outlet.mischief.dark = True
            await go_on(r, feed, feed_module.SILENCE.total_seconds() + 10)
            r.venue.outlet.mischief.dark = False
            await settled(r, feed)
            assert not set(before.values()) & set(feed._numbers.values())
            await go_on(r, feed, 10)
            assert all(quote.sound for quote in feed.quotes().values())

    run(scenario)


def test_a_silence_after_lively_minutes_is_met_as_the_first_was() -> None:
    async def scenario() -> None:
        said: list[str] = []
        async with following(alert=said.append) as (r, feed):
            for _ in range(2):
                r.venue.outlet.mischief.dark = True
                await go_on(r, feed, feed_module.SILENCE.total_seconds() + 10)
                r.venue.outlet.mischief.dark = False
                for _ in range(66):
                    await go_on(r, feed, 10)
                assert feed._patience == feed_module.SILENCE
            assert len(said) == 2

    run(scenario)


def test_quotes_that_are_few_are_told_once_and_subscribed_ever_less_often() -> None:
    async def scenario() -> None:
        said: list[str] = []
        market = planted_market(
            seed=5, names=2, sessions=1, history=1, interval="5m", book=Book(quote_seconds=45)
        )
        async with following(venue_of(market=market), alert=said.append) as (r, feed):
            times, numbers = 0, dict(feed._numbers)
            for _ in range(60):
                r.venue.wake_at(r.clock.now() + timedelta(seconds=10))
                await go_on(r, feed, 10)
                await settled(r, feed)
                times += numbers != feed._numbers
                numbers = dict(feed._numbers)
            assert len(said) == 1
            assert times == 1, "quotes that come every 45 s are no silence"
            assert all(quote.sound for quote in feed.quotes().values())

    run(scenario)


def test_a_quiet_name_is_asked_for_anew_after_the_servers_are_back() -> None:  # fault 11
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="connectivity", seconds=5)
            await r.settle()
            r.fault(do="quotes", how="stale", symbol=r.symbol)
            numbers = dict(feed._numbers)
            assert not feed.quotes()[r.symbol].sound
            await go_on(r, feed, 20)
            await settled(r, feed)
            quotes = ("reqMktData", r.symbol)
            assert feed._numbers[quotes] != numbers[quotes]
            assert feed.quotes()[r.symbol].sound

    run(scenario)


def test_a_new_connection_follows_everything_again() -> None:  # fault 12
    async def scenario() -> None:
        async with following() as (r, feed):
            r.fault(do="disconnect", reset=True)
            await r.until(lambda: not r.broker.connected)
            assert not any(quote.sound for quote in feed.quotes().values())
            await r.until(lambda: r.broker.connected)
            await settled(r, feed)
            await go_on(r, feed, 10)
            assert all(quote.sound for quote in feed.quotes().values())

    run(scenario)


def test_bars_that_were_refused_are_asked_for_again() -> None:  # fault 20
    async def scenario() -> None:
        async with following(bar_source="history") as (r, feed):
            number = feed._numbers["reqHistoricalData", r.symbol]
            words = "Historical data request pacing violation"
            r.fault(do="say", code=162, message=words, request_id=number)
            await r.settle()
            assert r.symbol in feed.refusals
            bars = await go_on(r, feed, 920)
            assert bars[-1].missing == ()
            assert ("reqHistoricalData", r.symbol) in feed._numbers

    run(scenario)


def test_an_unknown_symbol_has_neither_quotes_nor_bars() -> None:
    async def scenario() -> None:
        async with following() as (r, feed):
            await feed.start(["NOPE", r.symbol])
            await settled(r, feed)
            assert feed.unfollowed == ("NOPE",)
            assert set(feed.quotes()) == {r.symbol}
            assert feed.quotes()[r.symbol].mid is not None
            assert isinstance(feed.quotes()[r.symbol].bid, Decimal)

    run(scenario)
