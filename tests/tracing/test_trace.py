"""A day through engine, dealer and paper broker, with logs, and each of its ids traced."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.cli import main
from dpa.config import LoggingConfig, Settings
from dpa.market.costs import CostModel
from dpa.serving.store import RowStore
from dpa.serving.wire import to_json
from dpa.telemetry.logs import log_to_files, stop_logging
from dpa.tracing.finding import UnknownId
from dpa.tracing.follow import follow
from dpa.tracing.hops import Kind, Stage, Trace
from dpa.tracing.places import Sources
from dpa.trading.bus import Bus
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.engine import Engine
from dpa.trading.event_log import KINDS as LOGGED
from dpa.trading.event_log import EventLog
from dpa.trading.journal import FILE_NAME, Journal
from dpa.trading.paper import PaperBroker
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.replay_feed import ReplayFeed
from dpa.trading.runner import Runner
from dpa.trading.switch import Switch
from dpa.trading.types import Execution, Intent, Order
from tests.trading.engine_market import (
    DAY,
    ScriptedDecider,
    decision_of,
    make_instruments,
    make_panel,
    utc,
)

HOURS = ((utc(9, 30), utc(16)),)
BARS = 4


@dataclass(frozen=True)
class Day:
    """What a day left."""

    storage: Path
    intents: tuple[Intent, ...]
    orders: tuple[Order, ...]
    executions: tuple[Execution, ...]

    def fill(self) -> Execution:
        """One of an order that was filled."""
        return self.executions[0]

    def of(self, fill: Execution) -> Intent:
        """The intent of a fill."""
        return next(intent for intent in self.intents if intent.id == fill.ref)

    def trace(self, text: str, kind: Kind | None = None) -> Trace:
        return follow(text, Sources(self.storage), kind)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    storage = tmp_path_factory.mktemp("traced")
    handler = log_to_files(LoggingConfig(), storage, "trader")
    try:
        asyncio.run(trade(storage))
    finally:
        stop_logging(handler)
    with Journal.reader(storage / "trading" / FILE_NAME) as journal:
        assert journal.verify() == ()
        yield Day(storage, journal.intents(), journal.orders(), journal.executions())


async def trade(storage: Path) -> None:
    """Hold 100, 200, 300, 0 shares of AAA at four bars, 50 of BBB short all the while."""
    panel, folder = make_panel(DAY).window(0, BARS), storage / "trading"
    folder.mkdir()
    clock = VirtualClock(panel.times[0].to_pydatetime() - timedelta(minutes=5))
    settings = Settings()
    switch, bus = Switch(folder / "switch.json", clock), Bus(clock)
    instruments = make_instruments(panel.names, liquid_hours=HOURS)
    costs = CostModel(settings.costs)
    broker = PaperBroker(folder / "paper.sqlite", clock, costs, instruments, Decimal(1_000_000))
    feed = ReplayFeed(panel, clock, first=0, half_spread_bps=1.0)

    def decide(request: Any) -> dict[str, Any]:
        wanted = {panel.times[k]: shares for k, shares in enumerate((100, 200, 300, 0))}
        decision = decision_of(request, {"AAA": wanted[request.time], "BBB": -50})
        with RowStore(storage / "serving" / "decisions.sqlite", durable=False) as store:
            store.put(f"latest:{decision['account']}", to_json({"decision": decision}))
        return decision

    with Journal(folder / FILE_NAME, clock) as journal:
        bus.subscribe(Recorder(journal).take, KINDS, on_order_path=True)
        bus.subscribe(EventLog().take, LOGGED, name="log")
        dealer = Dealer(broker, journal, switch, clock, settings, bus.publish, instruments)
        await dealer.start()
        await feed.start(panel.names)
        engine = Engine(
            feed, ScriptedDecider(decide), dealer, instruments, switch, journal, clock, settings,
            panel.interval, panel.calendar, bus.publish, patient=True,
        )  # fmt: skip
        runner = Runner(
            engine, dealer, broker, switch, clock, settings, bus.publish,
            uniform=lambda low, high: high,
            before_step=lambda now: broker.on_quotes(feed.quotes(), now),
        )  # fmt: skip
        await runner.run_replay(clock, feed, asyncio.Event())
        await bus.drain()
        assert runner.failures == 0
    await broker.close()


def told_by(trace: Trace, place: str) -> list[str]:
    return [hop.what for hop in trace.hops if hop.source.startswith(place)]


def test_a_decision_is_followed_to_its_fills_and_every_place_agrees(day: Day) -> None:
    intent = day.of(day.fill())
    trace = day.trace(intent.decision)
    of_it = [i for i in day.intents if i.decision == intent.decision]
    assert trace.subject.kind is Kind.DECISION
    assert trace.subject.intents == {i.id for i in of_it}
    # every hop is there, told by the journal, the log and the broker itself
    journal = {hop.stage for hop in trace.hops if hop.source.startswith("journal")}
    assert journal == set(Stage) - {Stage.RUN}
    assert {hop.stage for hop in trace.hops if hop.source == "log of trader"} == journal
    assert {hop.stage for hop in trace.hops if hop.source == "paper broker"} == {
        Stage.ORDER,
        Stage.FILL,
        Stage.END,
    }
    # and the ids are the same from end to end
    fills = {e.exec_id for e in day.executions if e.ref in trace.subject.intents}
    assert fills
    for place in ("journal", "log of trader", "paper broker"):
        hops = [hop for hop in trace.hops if hop.source.startswith(place)]
        found = {hop.ids["exec_id"] for hop in hops if "exec_id" in hop.ids}
        assert found == fills, place
        refs = {hop.ids["intent_id"] for hop in hops if "intent_id" in hop.ids}
        assert refs == trace.subject.intents, place
    for hop in trace.hops:
        assert hop.ids.get("decision_id", intent.decision) == intent.decision
        assert "reconciled" not in hop.what  # belongs to no decision, whenever it was logged
    assert [hop.time for hop in trace.hops] == sorted(hop.time for hop in trace.hops)
    assert {hop.time.date() for hop in trace.hops} == {DAY}  # the market's time everywhere


def test_the_newest_decision_has_its_targets_and_others_say_that_they_are_gone(day: Day) -> None:
    newest, first = day.intents[-1].decision, day.intents[0].decision
    told = told_by(day.trace(newest), "decision store")
    assert told[0].startswith("decided: 1 of 3 symbols traded")
    assert told[1].startswith("AAA: from 300 to 0 shares")
    assert day.trace(newest).notes == ()
    (note,) = day.trace(first).notes
    assert "the service keeps no older" in note


def test_an_execution_an_order_and_an_intent_lead_up_and_down(day: Day) -> None:
    fill = day.fill()
    intent = day.of(fill)
    order = next(o for o in day.orders if o.ref == intent.id)
    by_fill, by_ref = day.trace(fill.exec_id), day.trace(intent.id)
    by_number = day.trace(str(order.order_id), Kind.ORDER)
    for trace in (by_fill, by_ref, by_number):
        assert trace.subject.decisions == {intent.decision}
        assert trace.subject.intents == {intent.id}
        assert fill.exec_id in trace.subject.executions
        assert {Stage.BAR, Stage.DECISION, Stage.INTENT, Stage.FILL} <= {
            hop.stage for hop in trace.hops
        }
    assert by_fill.subject.executions == {fill.exec_id}
    others = {e.exec_id for e in day.executions} - {fill.exec_id}
    assert not any(other in hop.what for hop in by_fill.hops for other in others)


def test_the_beginning_of_an_id_is_enough_and_two_are_named(day: Day) -> None:
    intent = day.intents[0]
    assert day.trace(intent.id[:12]).subject.id == intent.id
    with pytest.raises(UnknownId) as caught:
        day.trace("dpa-")
    assert f"{len(day.intents)} ids begin so: intent dpa-" in str(caught.value)
    assert caught.value.cure.startswith("give more of it")


def test_tracing_changes_nothing(day: Day) -> None:
    def state() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in sorted(day.storage.rglob("*")) if p.is_file()
                and not p.name.endswith(("-shm", "-wal"))}  # fmt: skip

    before = state()
    for path in day.storage.rglob("*.sqlite"):
        os.chmod(path, 0o400)
    day.trace(day.fill().exec_id)
    assert state() == before


def test_the_command_says_it_in_words_and_as_json(
    day: Day, capsys: pytest.CaptureFixture[str]
) -> None:
    where, fill = f"--storage={day.storage}", day.fill()
    assert main(["trace", fill.exec_id, where]) == 0
    words = capsys.readouterr().out
    assert words.startswith(f"execution {fill.exec_id}\n\ntime, UTC")
    assert f"broker: fill {fill.exec_id}: {fill.side} {fill.shares} {fill.symbol}" in words
    assert main(["trace", fill.exec_id, where, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["id"], said["left_out"]) == ("execution", fill.exec_id, 0)
    assert {"time", "stage", "source", "what", "ids"} == set(said["hops"][0])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nobody"], "'nobody': nothing in"),
        ([""], "'': nothing in"),
        (["dpa-"], "ids begin so"),
        (["dpa-", "--kind=run"], "'dpa-': nothing in"),
    ],
)
def test_an_unknown_id_is_one_line_with_a_cure(
    day: Day, words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *words, f"--storage={day.storage}"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert error in shown.err
    assert shown.err.count("\n") == 1
    assert ";" in shown.err


def test_no_storage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "x", f"--storage={tmp_path / 'nowhere'}"]) == 2
    assert "there is no such storage" in capsys.readouterr().err


def test_lines_that_were_cut_and_files_that_are_damaged_are_notes(day: Day, tmp_path: Path) -> None:
    fill = day.fill()
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "trader-1.jsonl").write_text(
        f'{{"exec_id": "{fill.exec_id}", "mess\n["{fill.exec_id}"]\n'
    )
    trace = follow(fill.exec_id, Sources(day.storage, logs))
    assert "trader-1.jsonl: 2 lines cannot be read" in trace.notes
    assert told_by(trace, "journal")
    assert (
        follow(fill.exec_id, Sources(day.storage, tmp_path / "none"))
        .notes[-1]
        .startswith("there are no logs")
    )


def test_of_many_hops_the_first_and_the_last_are_given(day: Day) -> None:
    trace = day.trace(day.of(day.fill()).decision)
    whole, part = trace.to_dict(), trace.to_dict(5)
    assert part["left_out"] == len(whole["hops"]) - 5
    assert part["hops"] == whole["hops"][:3] + whole["hops"][-2:]
