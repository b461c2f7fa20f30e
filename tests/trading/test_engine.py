"""The engine through planted days: what it asks, what it keeps, when it closes."""

import asyncio
import math
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import Settings
from dpa.market.panel import Panel
from dpa.trading.events import (
    Alert,
    BarTaken,
    Decided,
    Intended,
    LeftOut,
    NotDecided,
    Severity,
    Valued,
)
from dpa.trading.feed import FeedBar
from dpa.trading.intents import record_of
from dpa.trading.replay_feed import ReplayFeed
from dpa.trading.switch import Level
from dpa.trading.types import Purpose, Side, Style
from tests.trading.engine_market import (
    DAY,
    HALF_DAY,
    Desk,
    away,
    decision_of,
    make_instruments,
    make_panel,
    utc,
    with_prices,
)


def settings_of(**trading) -> Settings:
    return Settings.model_validate({"trading": trading})


def script(targets):
    """Targets by (hour, minute) of New York; nothing changes at other bars."""

    def decide(request):
        moment = request.time.tz_convert("America/New_York")
        return decision_of(request, targets.get((moment.hour, moment.minute), {}))

    return decide


def always(level="NORMAL", **targets):
    return lambda request: decision_of(request, targets, level)


# a planted day


def test_a_day_with_a_fill_per_side_a_flip_and_an_exit():
    plan = {
        (9, 35): {"AAA": 100, "BBB": -50},
        (9, 40): {"AAA": 150, "BBB": -20},
        (9, 45): {"AAA": -30},
        (9, 50): {"AAA": 0, "BBB": 0},
    }
    desk = Desk(make_panel(), script(plan)).run()
    told = [(i.symbol, i.side, i.shares, i.purpose) for i in desk.dealer.intents]
    assert told == [
        ("AAA", Side.BUY, 100, Purpose.ENTER),
        ("BBB", Side.SELL, 50, Purpose.ENTER),
        ("BBB", Side.BUY, 30, Purpose.REDUCE),
        ("AAA", Side.BUY, 50, Purpose.INCREASE),
        ("AAA", Side.SELL, 150, Purpose.EXIT),
        ("AAA", Side.SELL, 30, Purpose.ENTER),
        ("AAA", Side.BUY, 30, Purpose.EXIT),
        ("BBB", Side.BUY, 20, Purpose.EXIT),
    ]
    assert desk.dealer.ledger.positions == {}
    exit_and_entry = [
        (at, i) for at, i in desk.dealer.submitted if i.decision.endswith("13:45:00+00:00")
    ]
    assert [at - exit_and_entry[0][0] for at, _ in exit_and_entry] == [
        timedelta(0),
        timedelta(seconds=1),
    ]
    assert {i.decision for i in desk.dealer.intents} <= {d.decision for d in desk.of(Decided)}
    assert len(desk.of(Decided)) == 78
    assert not desk.of(NotDecided)


def test_ids_are_the_same_from_the_decision_to_the_order():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100}})).run()
    (intended,) = desk.of(Intended)
    (intent,) = intended.intents
    assert intent.decision == intended.decision == desk.of(Decided)[0].decision
    assert desk.dealer.intents == [intent]
    assert intent.decided_at == utc(9, 35)
    assert intent.expires_at == utc(9, 36)


def test_every_bar_of_the_session_is_asked_once_with_what_is_held():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100}})).run()
    assert [r.time for r in desk.decider.requests] == list(desk.panel.times)
    shares = [r.shares[0] for r in desk.decider.requests]
    assert shares == [0.0] + [100.0] * 77
    request = desk.decider.requests[0]
    np.testing.assert_array_equal(request.bars["close"], desk.panel.prices[0])
    assert request.feed == "direct"
    assert request.nav_usd == request.prior_nav_usd == 1e6


def test_nav_is_cash_and_positions_at_the_last_prices():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100, "BBB": -40}})).run()
    book = desk.dealer.ledger
    close = desk.panel.prices[-1]
    by_hand = float(book.cash) + 100 * close[0] - 40 * close[1]
    assert desk.of(Valued)[-1].nav == pytest.approx(Decimal(by_hand))
    assert desk.decider.requests[-1].nav_usd == pytest.approx(by_hand)
    assert desk.of(Valued)[-1].gross == pytest.approx((100 * close[0] + 40 * close[1]) / by_hand)


def test_the_prior_nav_rolls_at_the_venues_session_and_survives_a_restart():
    panel = make_panel(DAY, date(2024, 7, 2))
    whole = Desk(panel, script({(9, 35): {"AAA": 100}})).run()
    first, second = whole.of(Valued)[:78], whole.of(Valued)[78:]
    assert {v.prior_nav for v in first} == {Decimal(1_000_000)}
    assert {v.prior_nav for v in second} == {first[-1].nav}
    before = Desk(panel, script({(9, 35): {"AAA": 100}})).run(until=utc(20))
    again = Desk(panel, script({}), first=78, keeper=before.keeper,
                 dealer=lambda clock: before.dealer)  # fmt: skip
    before.dealer.clock = again.clock
    again.run()
    assert {v.prior_nav for v in again.of(Valued)} == {first[-1].nav}


# what is kept of a decision


def test_a_late_answer_keeps_reductions_only():
    plan = {(9, 35): {"AAA": 100, "BBB": -50}, (9, 40): {"AAA": 50, "BBB": -80, "CCC": 10}}
    desk = Desk(make_panel(), script(plan))
    desk.run(until=utc(9, 39))
    desk.decider.takes = 5.1
    desk.run(until=utc(9, 44))
    assert [(i.symbol, i.purpose) for i in desk.dealer.intents][2:] == [("AAA", Purpose.REDUCE)]
    late = desk.of(Decided)[1]
    assert (late.binds, "5.1 s after the close" in late.because) == ("reductions", True)
    assert {(e.symbol, e.shares) for e in desk.of(LeftOut)} == {("BBB", -30), ("CCC", 10)}


def test_an_answer_in_time_is_kept_whole():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100}}), takes=4.9).run(until=utc(9, 38))
    assert desk.of(Decided)[0].binds == "all"
    assert desk.dealer.shares("AAA") == 100


@pytest.mark.parametrize(("missing", "binds"), [(0, "all"), (1, "all"), (2, "reductions")])
def test_a_partial_bar_adds_no_risk(missing, binds):
    class Partial:
        def __init__(self, feed):
            self.feed = feed

        def __getattr__(self, name):
            return getattr(self.feed, name)

        def due(self, now):
            return tuple(
                replace(bar, missing=bar.panel.names[:missing]) for bar in self.feed.due(now)
            )

    panel = make_panel(
        symbols=("AAA", "BBB", "CCC", "DDD", "EEE", "FFF", "GGG", "HHH", "III", "JJJ")
    )
    desk = Desk(panel, always(AAA=100), feed=lambda clock: Partial(ReplayFeed(panel, clock)))
    desk.run(until=utc(9, 36))
    assert desk.of(Decided)[0].binds == binds
    assert desk.dealer.shares("AAA") == (100 if binds == "all" else 0)
    kinds = [a.kind for a in desk.of(Alert)]
    assert ("bars-missing" in kinds) == (binds != "all")


def test_a_late_bar_adds_no_risk():
    """Its answer comes at once, so only the bar itself is late."""

    class Late:
        def __init__(self, feed):
            self.feed = feed

        def __getattr__(self, name):
            return getattr(self.feed, name)

        def due(self, now):
            second = utc(9, 40)
            return tuple(
                replace(bar, late=True) if bar.panel.times[0] == second else bar
                for bar in self.feed.due(now)
            )

    plan = {(9, 35): {"AAA": 100}, (9, 40): {"AAA": 60, "BBB": 50}}
    desk = Desk(
        make_panel(), script(plan), feed=lambda clock: Late(ReplayFeed(make_panel(), clock))
    )
    desk.run(until=utc(9, 44))
    late = desk.of(Decided)[1]
    assert (late.binds, "late" in late.because) == ("reductions", True)
    assert (desk.dealer.shares("AAA"), desk.dealer.shares("BBB")) == (60, 0)


def test_cancels_leave_before_anything_that_may_fail():
    class Broken:
        def __init__(self, feed):
            self.feed = feed

        def __getattr__(self, name):
            return getattr(self.feed, name)

        def quotes(self):
            raise OSError("no quotes")

    desk = Desk(make_panel(), always(AAA=100), feed=lambda c: Broken(ReplayFeed(make_panel(), c)))
    with pytest.raises(OSError, match="no quotes"):
        asyncio.run(desk.engine.step())
    assert desk.dealer.let_gos == 1


def test_a_decision_overtaken_by_a_newer_bar_is_dropped():
    panel = make_panel()
    answers = {}

    class Slow:
        requests = []

        async def decide(self, request):
            self.requests.append(request)
            gate = answers.setdefault(request.time, asyncio.Event())
            await gate.wait()
            return decision_of(request, {"AAA": 100 * len(self.requests)})

    desk = Desk(panel, away, patient=False)
    desk.engine._decider = Slow()

    async def go():
        await desk.feed.start(panel.names)
        for moment in (utc(9, 35), utc(9, 40)):
            desk.clock.move_to(moment)
            await desk.engine.step()
            await asyncio.sleep(0)
        answers[panel.times[0]].set()
        await asyncio.wait_for(desk.engine.wake.wait(), 5)
        await desk.engine.step()
        assert [d.binds for d in desk.of(Decided)] == ["nothing"]
        assert desk.dealer.submitted == []
        answers[panel.times[1]].set()
        await asyncio.wait_for(desk.engine.wake.wait(), 5)
        await desk.engine.step()

    asyncio.run(go())
    assert [d.binds for d in desk.of(Decided)] == ["nothing", "all"]
    assert "newer bar" in desk.of(Decided)[0].because
    assert desk.dealer.shares("AAA") == 200
    assert [n.in_a_row for n in desk.of(NotDecided)] == [1]


@pytest.mark.parametrize("change", [{"account": "DU2"}, {"time": "2024-07-01T13:30:00+00:00"}])
def test_a_decision_of_something_else_is_dropped(change):
    desk = Desk(make_panel(), lambda r: decision_of(r, {"AAA": 100}, **change)).run(
        until=utc(9, 50)
    )
    assert {d.binds for d in desk.of(Decided)} == {"nothing"}
    assert desk.dealer.submitted == []


def test_targets_that_are_no_numbers_change_nothing():
    desk = Desk(make_panel(), always(AAA=None, BBB=math.nan, CCC=10)).run(until=utc(9, 36))
    assert [i.symbol for i in desk.dealer.intents] == ["CCC"]
    assert {e.symbol for e in desk.of(LeftOut)} == {"AAA", "BBB"}


# the graph is away


def test_while_the_graph_is_away_positions_are_kept_and_it_is_said():
    plan = script({(9, 35): {"AAA": 100}})

    def decide(request):
        return (
            plan(request) if request.time < utc(10) or request.time > utc(10, 20) else away(request)
        )

    desk = Desk(make_panel(), decide).run(until=utc(11))
    assert desk.dealer.shares("AAA") == 100
    assert [n.in_a_row for n in desk.of(NotDecided)] == [1, 2, 3, 4, 5]
    told = [(a.kind, a.severity) for a in desk.of(Alert)]
    assert told == [("graph-away", Severity.WARNING)] * 2 + [
        ("graph-away", Severity.CRITICAL)
    ] * 3 + [("graph-back", Severity.INFO)]


def test_a_decider_that_breaks_is_one_that_is_away(caplog):
    def broken(request):
        raise ValueError("no")

    desk = Desk(make_panel(), broken).run(until=utc(9, 46))
    assert len(desk.of(NotDecided)) == 3
    assert "Traceback" in caplog.text


# the switch and the risk of the account


@pytest.mark.parametrize(
    ("level", "intents"),
    [(Level.PAUSED, [Purpose.REDUCE]), (Level.FLATTENING, []), (Level.HALTED, [])],
)
def test_the_switch_binds(level, intents):
    plan = {(9, 35): {"AAA": 100, "BBB": -50}, (9, 40): {"AAA": 50, "BBB": -80}}
    desk = Desk(make_panel(), script(plan)).run(until=utc(9, 39))
    desk.switch.set(level)
    desk.run(until=utc(9, 44))
    assert [i.purpose for i in desk.dealer.intents][2:] == intents
    assert desk.of(Decided)[-1].binds == ("reductions" if level is Level.PAUSED else "nothing")


@pytest.mark.parametrize("level", ["REDUCE_ONLY", "FLATTEN"])
def test_the_risk_of_the_account_binds(level):
    def decide(request):
        if request.time == utc(9, 35):
            return decision_of(request, {"AAA": 100, "BBB": 50})
        return decision_of(request, {"AAA": 0, "BBB": 90, "CCC": 5}, level)

    desk = Desk(make_panel(), decide).run(until=utc(9, 44))
    (last,) = desk.dealer.intents[2:]
    assert (last.symbol, last.purpose) == (
        "AAA",
        Purpose.RISK if level == "FLATTEN" else Purpose.EXIT,
    )
    assert desk.switch.level is Level.RUNNING


def test_a_graph_that_halts_the_account_halts_trading():
    desk = Desk(make_panel(), always("HALTED", AAA=100)).run(until=utc(9, 44))
    assert desk.switch.level is Level.HALTED
    assert desk.dealer.submitted == []
    assert [a.kind for a in desk.of(Alert)] == ["risk-halted"]


def test_a_feed_is_told_what_is_held():
    told = []

    class Shared(ReplayFeed):
        def hold(self, held):
            if not told or told[-1] != set(held):
                told.append(set(held))

    panel = make_panel()
    plan = script({(9, 35): {"AAA": 100, "BBB": 100}, (9, 45): {"AAA": 0, "BBB": 100}})
    Desk(panel, plan, feed=lambda clock: Shared(panel, clock)).run(until=utc(9, 56))
    assert told[0] == set()
    assert {"AAA", "BBB"} in told
    assert told[-1] == {"BBB"}


# prices that are not there


def test_a_position_without_any_price_halts():
    panel = make_panel()
    prices = np.array(panel.prices)
    prices[:, 0] = np.nan
    desk = Desk(with_prices(panel, prices), always())
    desk.dealer.hold("AAA", 10)
    desk.run(until=utc(9, 41))
    assert desk.switch.level is Level.HALTED
    assert "AAA" in desk.switch.state.why
    assert desk.decider.requests == []
    assert [a.severity for a in desk.of(Alert)] == [Severity.CRITICAL]


def test_a_name_without_a_price_for_some_bars_is_valued_at_the_last_one():
    panel = make_panel()
    prices = np.array(panel.prices)
    prices[2:5, 0] = np.nan
    desk = Desk(with_prices(panel, prices), script({(9, 35): {"AAA": 100}, (9, 45): {"AAA": 0}}))
    desk.run(until=utc(9, 56))
    assert desk.switch.level is Level.RUNNING
    values = desk.of(Valued)
    assert values[2].nav == values[1].nav
    assert math.isnan(desk.decider.requests[2].bars["close"][0])
    assert not desk.decider.requests[2].member[0]
    # its quote is as old as its price: the graph sees that, and the dealer would refuse
    assert desk.decider.requests[3].quote_age_ms[0] == pytest.approx(600_000)


@pytest.mark.parametrize("cash", [Decimal("NaN"), Decimal(0), Decimal(-5)])
def test_a_nav_that_is_none_halts(cash):
    desk = Desk(make_panel(), always())
    desk.dealer.ledger.cash = cash
    desk.run(until=utc(9, 36))
    assert desk.switch.level is Level.HALTED
    assert desk.decider.requests == []


# the session


def test_nothing_is_sent_outside_the_session():
    desk = Desk(make_panel(), script({(16, 0): {"AAA": 100}})).run()
    assert desk.of(Decided)[-1].binds == "nothing"
    assert desk.of(Decided)[-1].because == "the market is closed"
    assert desk.dealer.submitted == []


def test_risk_is_not_added_in_the_last_minutes_and_reductions_are():
    plan = {(15, 45): {"AAA": 100}, (15, 50): {"AAA": 40, "BBB": 10}}
    desk = Desk(make_panel(), script(plan)).run()
    assert [(i.symbol, i.purpose) for i in desk.dealer.intents] == [
        ("AAA", Purpose.ENTER),
        ("AAA", Purpose.REDUCE),
    ]
    assert [e.symbol for e in desk.of(LeftOut)] == ["BBB"]


def test_positions_are_held_over_night_unless_asked_otherwise():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100}})).run()
    assert desk.dealer.shares("AAA") == 100


@pytest.mark.parametrize(("day", "hour"), [(DAY, 16), (HALF_DAY, 13)])
def test_positions_are_closed_before_the_session_ends(day, hour):
    plan = script({(9, 35): {"AAA": 100, "BBB": -50}})
    desk = Desk(make_panel(day), plan, settings=settings_of(session_end="flatten")).run()
    closing = desk.at(utc(hour - 1, 55, day=day))
    assert [(i.symbol, i.side, i.purpose, i.style) for i in closing] == [
        ("AAA", Side.SELL, Purpose.SESSION_END, Style.ADAPTIVE),
        ("BBB", Side.BUY, Purpose.SESSION_END, Style.ADAPTIVE),
    ]
    assert desk.dealer.ledger.positions == {}
    assert len(desk.dealer.intents) == 4
    assert all(i.expires_at == utc(hour - 1, 56, day=day) for i in closing)


def test_what_is_not_closed_is_closed_at_the_market():
    plan = script({(9, 35): {"AAA": 100}})
    desk = Desk(make_panel(), plan, settings=settings_of(session_end="flatten"))
    desk.run(until=utc(15, 54))
    desk.dealer.share, desk.dealer.lasting = 0.5, True
    desk.run()
    closing = [(at, i.style, i.shares) for at, i in desk.dealer.submitted[1:]]
    assert closing == [
        (utc(15, 55), Style.ADAPTIVE, 100),
        (utc(15, 56, 1), Style.MARKET, 50),
        (utc(15, 57, 1), Style.MARKET, 25),
        (utc(15, 58, 1), Style.MARKET, 13),
        (utc(15, 59, 1), Style.MARKET, 7),
    ]
    assert len({i.id for i in desk.dealer.intents}) == 6


def test_the_closing_auction_is_used_where_there_is_time_for_it():
    plan = script({(9, 35): {"AAA": 100, "BBB": 50}})
    settings = settings_of(session_end="flatten", flatten_minutes=15)
    instruments = {
        **make_instruments(("AAA",)),
        **make_instruments(("BBB", "CCC"), has_close=False),
    }
    desk = Desk(make_panel(), plan, settings=settings, instruments=instruments).run()
    closing = desk.at(utc(15, 45))
    assert [(i.symbol, i.style) for i in closing] == [("AAA", Style.CLOSE), ("BBB", Style.ADAPTIVE)]
    assert closing[0].expires_at > utc(16)


def test_no_decision_reopens_what_the_end_of_the_session_closes():
    settings = settings_of(session_end="flatten", flatten_minutes=15)
    desk = Desk(make_panel(), always(AAA=100), settings=settings).run()
    assert desk.dealer.shares("AAA") == 0
    assert [i.purpose for i in desk.dealer.intents] == [Purpose.ENTER, Purpose.SESSION_END]


# age


@pytest.mark.parametrize("graph_goes_away", [False, True])
def test_old_positions_are_closed_in_session_minutes(graph_goes_away):
    panel = make_panel(DAY, date(2024, 7, 2))
    plan = script({(15, 30): {"AAA": 100}})

    def decide(request):
        if not graph_goes_away and request.time > utc(16):
            return decision_of(request, {})
        if graph_goes_away and request.time > utc(16):
            return away(request)
        return plan(request)

    desk = Desk(panel, decide, settings=settings_of(most_age_minutes=60)).run()
    (closed_at, intent) = desk.dealer.submitted[1]
    assert (intent.purpose, intent.shares) == (Purpose.AGE, 100)
    # bought a moment after 15:30, so it is 60 minutes old just after 10:00 of the next day
    assert closed_at == utc(10, 5, day=date(2024, 7, 2))
    assert len(desk.dealer.submitted) == 2


def test_age_begins_anew_with_the_other_side_and_survives_a_restart():
    plan = script({(9, 35): {"AAA": 100}, (10, 0): {"AAA": -100}})
    settings = settings_of(most_age_minutes=60)
    desk = Desk(make_panel(), plan, settings=settings).run(until=utc(10, 40))
    assert desk.dealer.shares("AAA") == -100
    again = Desk(make_panel(), script({}), settings=settings, first=14, keeper=desk.keeper,
                 dealer=lambda clock: desk.dealer)  # fmt: skip
    desk.dealer.clock = again.clock
    again.run()
    closed_at, intent = desk.dealer.submitted[-1]
    assert (intent.purpose, closed_at) == (Purpose.AGE, utc(11, 5))


# orders that are still working


def test_a_symbol_with_a_live_order_waits():
    plan = script({(9, 35): {"AAA": 100}})
    settings = settings_of(order_seconds=3600)
    desk = Desk(make_panel(), plan, settings=settings)
    desk.dealer.share, desk.dealer.lasting = 0.5, True
    desk.run(until=utc(9, 50))
    (only,) = desk.dealer.intents
    assert only.expires_at == utc(9, 40)  # the next bar decides anew


def test_what_was_tried_of_a_decision_is_not_tried_again():
    desk = Desk(make_panel(), script({(9, 35): {"AAA": 100}}))
    desk.dealer.share = 0.0
    desk.run(until=utc(9, 39))
    assert len(desk.dealer.submitted) == 1


# time


def test_steps_between_bars_ask_nothing():
    desk = Desk(make_panel(), always()).run(until=utc(9, 44))
    assert [b.time for b in desk.of(BarTaken)] == [utc(9, 35), utc(9, 40)]
    assert desk.dealer.beats >= 2


def test_bars_of_no_session_are_not_decided_on():
    panel = make_panel()

    class Astray:
        symbols = panel.names
        newest_tick_at = None
        ended = False
        given = False

        def quotes(self):
            return {}

        def due(self, now):
            if self.given:
                return ()
            self.given = True
            saturday = pd.DatetimeIndex(["2024-07-06 14:00"], tz="UTC")
            row = Panel(saturday, panel.names, panel.prices[:1], panel.mask[:1], "5m", "XNYS")
            return (FeedBar(row, now),)

    saturday = date(2024, 7, 6)
    desk = Desk(panel, always(AAA=100), feed=lambda clock: Astray(), start=utc(10, day=saturday))
    desk.run(until=utc(10, 1, day=saturday))
    assert desk.decider.requests == []
    assert [a.kind for a in desk.of(Alert)] == ["bar-astray"]


@pytest.mark.parametrize("day", [date(2024, 3, 8), date(2024, 11, 1)])
def test_the_change_of_the_clocks_changes_nothing(day):
    """Bars of the Friday before and the Monday after, in New York's time."""
    panel = make_panel(day, day + timedelta(days=3))
    settings = settings_of(session_end="flatten")
    desk = Desk(panel, script({(9, 35): {"AAA": 100}}), settings=settings).run()
    assert len(desk.of(Decided)) == 156
    closed = [at for at, i in desk.dealer.submitted if i.purpose is Purpose.SESSION_END]
    local = [at.astimezone(panel.times.tz_convert("America/New_York").tz) for at in closed]
    assert [(at.hour, at.minute) for at in local] == [(15, 55)] * 2


# nothing of the future


def test_cutting_the_future_changes_nothing_before():
    plan = script({(9, 35): {"AAA": 100, "BBB": -50}, (10, 5): {"AAA": -20}, (11, 0): {"BBB": 0}})
    panel = make_panel(DAY, date(2024, 7, 2), seed=3)
    whole = Desk(panel, plan, first=78).run()
    cut = panel.window(0, 78 + 30)
    part = Desk(cut, plan, first=78).run(until=cut.times[-1].to_pydatetime())
    n = len(part.decider.requests)
    assert n == 30
    for one, other in zip(part.decider.requests, whole.decider.requests, strict=False):
        assert one.time == other.time
        for name in ("bid", "ask", "quote_age_ms", "adv_usd", "shares", "member"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.nav_usd, one.prior_nav_usd) == (other.nav_usd, other.prior_nav_usd)
    sent, all_sent = ([(at, record_of(i)) for at, i in d.dealer.submitted] for d in (part, whole))
    assert sent == all_sent[:5]


def test_expected_costs_are_known_from_the_start_with_bars_of_the_past():
    panel = make_panel(DAY, date(2024, 7, 2))
    costs = []
    for remembers in (False, True):
        desk = Desk(panel, script({(9, 35): {"AAA": 100}}), first=78)
        if remembers:
            desk.engine.remember(desk.feed.past)
        costs.append(desk.run(until=utc(9, 36, day=date(2024, 7, 2))).dealer.intents[0])
    assert math.isnan(costs[0].expected_cost_bps)
    closes = panel.prices[:78, 0]
    sigma_day = math.sqrt(np.mean((closes[1:] / closes[:-1] - 1) ** 2) * 390 / 5)
    intent, traded = costs[1], panel.volume[:78, 0] * panel.prices[:78, 0]
    share = 100 * float(intent.reference) / traded.sum()
    spread_bps = 0.01 / float(intent.reference) * 1e4  # a cent to either side
    config = Settings().costs
    by_hand = spread_bps + config.commission_bps
    by_hand += config.impact_coefficient * sigma_day * math.sqrt(share) * 1e4
    assert intent.expected_cost_bps == pytest.approx(by_hand, rel=1e-9)


# whatever is decided


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.5, 0.0]), st.booleans())
def test_whatever_is_decided_the_rules_hold(seed, share, lasting):
    """Random targets, fills, levels, risk and absences over the last hour and a half of a day."""
    rng = np.random.default_rng(seed)
    panel = make_panel().window(60, 78)
    levels = [Level.RUNNING] * 6 + [Level.PAUSED, Level.FLATTENING]

    def decide(request):
        if rng.random() < 0.1:
            return away(request)
        risk = rng.choice(["NORMAL", "NORMAL", "NORMAL", "REDUCE_ONLY", "FLATTEN"])
        targets = {name: float(rng.integers(-3, 4) * 10) for name in request.names}
        return decision_of(request, targets, str(risk))

    config = settings_of(session_end="flatten", most_age_minutes=30, order_seconds=90)
    desk = Desk(panel, decide, settings=config)
    desk.dealer.share, desk.dealer.lasting = share, lasting
    held_before, checked = {}, []

    def look(now):
        desk.switch.set(levels[int(rng.integers(len(levels)))])
        held_before.clear()
        held_before.update({name: desk.dealer.shares(name) for name in panel.names})

    submit = desk.dealer.submit

    async def checking(intents, quotes):
        now, level = desk.clock.now(), desk.switch.level
        assert level < Level.FLATTENING
        live = {order.intent.symbol for order in desk.dealer.live_orders}
        assert len({i.symbol for i in intents}) == len(intents)
        assert not live & {i.symbol for i in intents}
        bound = {d.decision: d for d in desk.of(Decided)}
        for intent in intents:
            held = desk.dealer.shares(intent.symbol)
            assert now < intent.expires_at
            assert intent.shares > 0
            if intent.purpose.adds:
                assert level is Level.RUNNING
                assert bound[intent.decision].binds == "all"
                assert now < utc(15, 50)
                assert held * intent.side.sign >= 0
            else:
                assert held * intent.side.sign < 0
                assert intent.shares <= abs(held)
            checked.append(intent.id)
        await submit(intents, quotes)

    desk.dealer.submit = checking
    desk.run(each=look)
    assert len(set(checked)) == len(checked)
    by_decision = {d.decision for d in desk.of(Decided)}
    for intent in desk.dealer.intents:
        known = intent.decision in by_decision
        assert known or intent.purpose in (Purpose.AGE, Purpose.SESSION_END)
