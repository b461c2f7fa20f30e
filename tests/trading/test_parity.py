"""A planted day through engine, dealer and paper broker, against pipeline and slow loops."""

import asyncio
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpa.config import Settings
from dpa.decision.pipeline import decide, start_state
from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.serving.wire import to_json
from dpa.trading.bus import Bus
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.decider import DeskDecider
from dpa.trading.engine import Engine
from dpa.trading.events import Alert, Decided, Filled, Intended, Refused, Severity
from dpa.trading.intents import record_of
from dpa.trading.journal import Journal
from dpa.trading.paper import PaperBroker
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.replay_feed import ReplayFeed
from dpa.trading.report import SessionReport, lines, read_facts, write_report
from dpa.trading.runner import Runner
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Instrument, Purpose
from tests.serving.served import BEGUN, Bundles, make_bundles, open_graph, served_settings

BARS = 78
HALF_SPREAD_BPS = 0.2


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Bundles:
    return make_bundles(tmp_path_factory.mktemp("served"))


def listed(panel) -> dict[str, Instrument]:
    calendar = TradingCalendar("XNYS")
    days = calendar.bars("1d", panel.times[0] - pd.Timedelta(1, "D"), panel.times[-1])
    hours = tuple(
        (pd.Timestamp(a, tz="UTC").to_pydatetime(), pd.Timestamp(b, tz="UTC").to_pydatetime())
        for a, b in zip(days.opens, days.closes, strict=True)
    )
    return {
        name: Instrument(name, k, "SMART", "NYSE", "USD", Decimal("0.01"), 1, "America/New_York",
                         hours)
        for k, name in enumerate(panel.names, 1)
    }  # fmt: skip


class Recording(DeskDecider):
    """Keeps what it was asked."""

    def __init__(self, desk):
        super().__init__(desk)
        self.requests, self.answers = [], []

    async def decide(self, request):
        answer = await super().decide(request)
        self.requests.append(request)
        self.answers.append(to_json(answer))
        return answer


@dataclass
class Day:
    """What came of a day."""

    requests: list[Any]
    answers: list[bytes]
    events: list[Any]
    journal: Path
    ledger: Any
    level: Level
    broker_positions: dict[str, Decimal]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def intents(self):
        return [intent for event in self.of(Intended) for intent in event.intents]


def trade(bundles: Bundles, folder: Path, settings: Settings, n_bars: int = BARS) -> Day:
    """Trade the session after the bars that the graph begins with."""
    panel = bundles.panel.window(0, BEGUN + n_bars)
    opens = panel.times[BEGUN].to_pydatetime() - timedelta(minutes=5)
    clock, events = VirtualClock(opens), []
    switch = Switch(folder / "switch", clock)
    bus = Bus(clock, lambda why: switch.halt("bus", why))
    bus.subscribe(events.append, on_order_path=True)
    instruments = listed(panel)
    broker = PaperBroker(folder / "paper.sqlite", clock, CostModel(settings.costs), instruments)
    feed = ReplayFeed(panel, clock, first=BEGUN, half_spread_bps=HALF_SPREAD_BPS)

    async def go() -> Day:
        graph = open_graph(bundles, folder / "graph", settings)
        await graph.begin()
        decider = Recording(graph)
        with Journal(folder / "journal.sqlite", clock) as journal:
            bus.subscribe(Recorder(journal).take, KINDS, on_order_path=True)
            dealer = Dealer(broker, journal, switch, clock, settings, bus.publish, instruments)
            await dealer.start()
            await feed.start(panel.names)
            engine = Engine(feed, decider, dealer, instruments, switch, journal, clock, settings,
                            panel.interval, panel.calendar, bus.publish, patient=True)  # fmt: skip
            engine.remember(feed.past)
            runner = Runner(
                engine,
                dealer,
                broker,
                switch,
                clock,
                settings,
                bus.publish,
                uniform=lambda low, high: high,
                before_step=lambda now: broker.on_quotes(feed.quotes(), now),
            )
            await runner.run_replay(clock, feed, asyncio.Event())
            assert runner.failures == 0
            positions = {p.symbol: p.shares for p in (await broker.snapshot()).positions}
            assert journal.verify() == ()
            day = Day(decider.requests, decider.answers, events, folder / "journal.sqlite",
                      dealer.ledger, switch.level, positions)  # fmt: skip
        await broker.close()
        return day

    return asyncio.run(go())


@pytest.fixture(scope="module")
def settings() -> Settings:
    return served_settings(
        trading={"session_end": "flatten"},
        risk={"max_orders_per_minute": 1000},
        costs={"commission_bps": 0.3, "impact_coefficient": 0.0},
    )


@pytest.fixture(scope="module")
def day(bundles, settings, tmp_path_factory) -> Day:
    return trade(bundles, tmp_path_factory.mktemp("day"), settings)


def test_the_day_trades_both_ways_and_ends_flat(day):
    purposes = {intent.purpose for intent in day.intents}
    assert {Purpose.ENTER, Purpose.EXIT, Purpose.SESSION_END} <= purposes
    assert {intent.side for intent in day.intents if intent.purpose is Purpose.ENTER} == {
        "buy",
        "sell",
    }
    assert len(day.of(Filled)) > 20
    assert day.ledger.positions == {}
    assert {symbol: shares for symbol, shares in day.broker_positions.items() if shares} == {}
    assert day.level is Level.RUNNING
    assert [a for a in day.of(Alert) if a.severity is Severity.CRITICAL] == []


def test_decisions_are_those_of_the_pure_pipeline_byte_for_byte(day, bundles, settings, tmp_path):
    assert [request.time for request in day.requests] == list(
        bundles.panel.times[BEGUN : BEGUN + BARS]
    )

    async def again():
        graph = open_graph(bundles, tmp_path, settings)
        await graph.begin()
        return [await graph.decide(request) for request in day.requests]

    decisions = asyncio.run(again())
    assert [to_json(decision.to_dict(trace=False)) for decision in decisions] == day.answers
    published = [to_json(event.content) for event in day.of(Decided)]
    assert published == day.answers


def test_decisions_are_those_of_the_pure_function(day, bundles, tmp_path):
    """Without a record of the past, which the pure function would have to be handed."""
    settings = served_settings(serving={"warm_sessions": 0})

    async def fed():
        graph = open_graph(bundles, tmp_path, settings)
        await graph.begin()
        return [await graph.decide(request) for request in day.requests]

    state = None
    for decision in asyncio.run(fed()):
        state = start_state(decision.snapshot) if state is None else state
        pure = decide(decision.snapshot, state, settings)
        assert to_json(pure.to_dict(trace=False)) == to_json(decision.to_dict(trace=False))
        state = pure.state


# intents by a slow loop


def slow_id(account, decision, symbol, side, purpose) -> str:
    text = json.dumps([account, decision, symbol, side, purpose]).encode()
    return "dpa-" + hashlib.sha256(text).hexdigest()[:24]


def slow_limit(mid: Decimal, sign: int, collar_bps: str) -> str:
    """The collar in whole cents, towards the mid."""
    hundred_thousandths = mid * (10_000 + sign * Decimal(collar_bps)) / 10_000
    cents = hundred_thousandths * 100
    whole = math.floor(cents) if sign > 0 else math.ceil(cents)
    return f"{whole // 100}.{whole % 100:02d}"


def slow_steps(held: int, target: int) -> list[tuple[int, str]]:
    if target == held:
        return []
    if held == 0:
        return [(target, "enter")]
    if target == 0 or (target > 0) != (held > 0):
        return [(-held, "exit")] + ([(target, "enter")] if target else [])
    return [(target - held, "increase" if abs(target) > abs(held) else "reduce")]


def slow_intents(request, decision, closes, settings) -> list[dict[str, Any]]:
    """What a decision asks for, symbol by symbol; entries after an exit too."""
    trading = settings.trading
    now = request.moment
    if now >= closes:
        return []
    may_add = now < closes - pd.Timedelta(trading.quiet_minutes, "min")
    flattens = closes - pd.Timedelta(trading.flatten_minutes, "min")
    if now >= flattens:
        return []
    expires = min(now + pd.Timedelta(trading.order_seconds, "s"), flattens)
    found = []
    for k, record in enumerate(decision["symbols"]):
        assert record["symbol"] == request.names[k]
        for shares, purpose in slow_steps(int(request.shares[k]), int(record["target_shares"])):
            if purpose in ("enter", "increase") and not may_add:
                continue
            bid, ask = (Decimal(repr(float(x[k]))) for x in (request.bid, request.ask))
            mid, side = (bid + ask) / 2, "buy" if shares > 0 else "sell"
            found.append({
                "id": slow_id("PAPER", decision["id"], record["symbol"], side, purpose),
                "account": "PAPER",
                "decision": decision["id"],
                "symbol": record["symbol"],
                "side": side,
                "shares": abs(shares),
                "style": "adaptive",
                "purpose": purpose,
                "decided_at": now.to_pydatetime().isoformat(),
                "expires_at": expires.to_pydatetime().isoformat(),
                "reference": str(mid),
                "limit": slow_limit(mid, 1 if shares > 0 else -1, str(trading.collar_bps)),
                "cost": float((ask - bid) / mid) / 2 * 1e4 + settings.costs.commission_bps,
            })  # fmt: skip
    return found


def test_intents_are_those_of_a_slow_loop_byte_for_byte(day, settings):
    closes = day.requests[-1].time
    wanted = {}
    for request, answer in zip(day.requests, day.answers, strict=True):
        for record in slow_intents(request, json.loads(answer), closes, settings):
            wanted[record["id"]] = record
    made = [record_of(i) for i in day.intents if i.purpose is not Purpose.SESSION_END]
    assert len({record["id"] for record in made}) == len(made)
    for record in made:
        slow = dict(wanted[record["id"]])
        assert record.pop("expected_cost_bps") == pytest.approx(slow.pop("cost"), rel=1e-9)
        reference = Decimal(record.pop("reference"))
        assert reference == Decimal(slow.pop("reference"))
        assert json.dumps(record) == json.dumps(slow)
    # none is left out but entries after an exit that was not done in time
    exits = {(r["decision"], r["symbol"]) for r in wanted.values() if r["purpose"] == "exit"}
    left_out = [r for ref, r in wanted.items() if ref not in {m["id"] for m in made}]
    assert all(r["purpose"] == "enter" for r in left_out)
    assert all((r["decision"], r["symbol"]) in exits for r in left_out)
    assert len(made) > 20


def test_fills_name_their_decisions_and_add_up_to_the_ledger(day):
    known = {intent.id: intent for intent in day.intents}
    shares: dict[str, Decimal] = {}
    for event in day.of(Filled):
        intent = known[event.execution.ref]
        assert event.decision == intent.decision
        assert event.execution.side is intent.side
        sign = 1 if event.execution.side == "buy" else -1
        symbol = event.execution.symbol
        shares[symbol] = shares.get(symbol, Decimal(0)) + sign * event.execution.shares
    assert {symbol: held for symbol, held in shares.items() if held} == {}
    assert {r.intent.decision for r in day.of(Refused)} <= {i.decision for i in day.intents}


def test_the_report_adds_up_to_the_account(day, settings, tmp_path):
    begun = day.requests[0].time.to_pydatetime() - timedelta(hours=1)
    with Journal.reader(day.journal) as journal:
        facts = read_facts(journal, "PAPER", begun, begun + timedelta(days=1))
    report = SessionReport.of(facts, settings)
    assert report.fees is not None
    assert report.realised - report.fees == day.ledger.cash - 1_000_000
    assert report.unrealised == 0
    assert sum((t.realised for t in report.trades), Decimal(0)) == report.realised
    assert report.bars == BARS
    assert sum(report.bound.values()) == BARS
    assert len(facts.fills) == len(day.of(Filled))
    assert len(report.refusals) == len(day.of(Refused))
    # paper orders cross the spread that the model expects, and pay its commission
    assert report.compared.total_bps == pytest.approx(report.compared.expected_bps, abs=0.2)
    assert report.link_share == 1
    document, page = write_report(report, tmp_path)
    assert json.loads(document.read_text())["bars"] == BARS
    assert "What orders cost" in page.read_text()
    assert "unknown" not in "\n".join(lines(report))


def test_cutting_the_future_changes_nothing_before(day, bundles, settings, tmp_path):
    n_bars = 30
    part = trade(bundles, tmp_path, settings, n_bars)
    assert part.answers == day.answers[:n_bars]
    for one, other in zip(part.requests, day.requests, strict=False):
        for name in ("bid", "ask", "quote_age_ms", "adv_usd", "shares"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.nav_usd, one.prior_nav_usd) == (other.nav_usd, other.prior_nav_usd)
    until = part.requests[-1].time + pd.Timedelta(61, "s")
    before = [i for i in day.intents if i.decided_at <= until]
    assert [json.dumps(record_of(i)) for i in part.intents] == [
        json.dumps(record_of(i)) for i in before
    ]
