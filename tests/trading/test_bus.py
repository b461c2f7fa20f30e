"""Handlers of the bus: isolated, in order, bounded; those of the order path halt trading."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.trading.bus import Bus
from dpa.trading.events import Alert, BarTaken, LevelChanged, LinkWent, Severity

NOW = datetime(2024, 7, 1, 13, 35, tzinfo=UTC)


def make_bus(**options):
    return Bus(FixedClock(NOW), **options)


def link(number: int) -> LinkWent:
    return LinkWent(NOW, True, str(number))


def test_a_handler_gets_the_kinds_it_asked_for():
    bus, all_kinds, one_kind = make_bus(), [], []
    bus.subscribe(all_kinds.append)
    end = bus.subscribe(one_kind.append, (LevelChanged,))
    level = LevelChanged(NOW, "PAUSED", "ann", "lunch")
    bus.publish(link(1))
    bus.publish(level)
    end()
    bus.publish(level)
    assert all_kinds == [link(1), level, level]
    assert one_kind == [level]


def test_a_handler_that_raises_hurts_nobody_and_is_reported(caplog):
    bus, seen = make_bus(), []

    def broken(event):
        raise ValueError("no")

    bus.subscribe(broken, (LinkWent,))
    bus.subscribe(seen.append)
    bus.publish(link(1))
    bus.publish(link(2))
    kinds = [type(event) for event in seen]
    assert kinds == [LinkWent, Alert, LinkWent, Alert]
    assert seen[1].severity is Severity.WARNING
    assert "ValueError: no" in seen[1].what
    assert sum(bus.failures.values()) == 2
    assert "Traceback" in caplog.text


def test_a_handler_of_the_order_path_that_raises_halts(caplog):
    halted, seen = [], []
    bus = make_bus(halt=halted.append)

    def ledger(event):
        raise KeyError("x")

    bus.subscribe(ledger, (LinkWent,), name="ledger", on_order_path=True)
    bus.subscribe(seen.append, (Alert,))
    bus.publish(link(1))
    assert len(halted) == 1
    assert halted[0].startswith("ledger failed on LinkWent")
    assert seen[0].severity is Severity.CRITICAL


def test_a_halt_that_fails_is_logged_and_publishing_goes_on(caplog):
    def halt(why):
        raise OSError("disk full")

    bus, seen = make_bus(halt=halt), []

    def ledger(event):
        raise KeyError("x")

    bus.subscribe(ledger, (LinkWent,), on_order_path=True)
    bus.subscribe(seen.append, (LinkWent,))
    bus.publish(link(1))
    assert seen == [link(1)]
    assert "could not be halted" in caplog.text


def test_a_failing_handler_of_alerts_does_not_alert_for_ever(caplog):
    bus = make_bus()

    def broken(event):
        raise ValueError("no")

    bus.subscribe(broken)
    bus.publish(link(1))
    assert sum(bus.failures.values()) == 2  # the event and the alert about it


def test_an_event_published_by_a_handler_follows_after_the_one_in_hand():
    bus, first, second = make_bus(), [], []

    def answer(event):
        first.append(event)
        if isinstance(event, LinkWent):
            bus.publish(LevelChanged(NOW, "PAUSED", "x", ""))

    bus.subscribe(answer)
    bus.subscribe(second.append)
    bus.publish(link(1))
    assert first == second
    assert [type(event) for event in second] == [LinkWent, LevelChanged]


@given(st.lists(st.sampled_from(["bar", "link"]), max_size=30), st.integers(1, 5))
def test_coroutine_handlers_get_everything_in_order_beside_each_other(kinds, n_handlers):
    async def run():
        bus, seen = make_bus(), [[] for _ in range(n_handlers)]
        for number in range(n_handlers):

            def subscribe(mine):
                async def handle(event):
                    await asyncio.sleep(0)
                    mine.append(event)

                bus.subscribe(handle)

            subscribe(seen[number])
        events = [link(k) if kind == "link" else BarTaken(NOW, NOW, k)
                  for k, kind in enumerate(kinds)]  # fmt: skip
        for event in events:
            bus.publish(event)
        await bus.drain()
        assert seen == [events] * n_handlers

    asyncio.run(run())


def test_a_slow_handler_loses_the_oldest_and_the_publisher_never_waits():
    async def run():
        halted, alerts, seen = [], [], []
        bus = make_bus(halt=halted.append, most_waiting=3)
        gate = asyncio.Event()

        async def slow(event):
            await gate.wait()
            seen.append(event)

        bus.subscribe(slow, (LinkWent,), name="slow", on_order_path=True)
        bus.subscribe(alerts.append, (Alert,))
        for number in range(10):
            bus.publish(link(number))
        assert bus.dropped == {"slow": 7}
        assert halted == ["slow is too slow: events are dropped"]
        assert len(alerts) == 1
        gate.set()
        await bus.drain()
        assert seen == [link(7), link(8), link(9)]

    asyncio.run(run())


def test_a_slow_handler_of_everything_does_not_alert_for_ever():
    async def run():
        bus = make_bus(most_waiting=1)

        async def slow(event):
            await asyncio.sleep(0)

        bus.subscribe(slow, name="slow")
        for number in range(5):
            bus.publish(link(number))
        await bus.drain()
        assert bus.dropped["slow"] < 10

    asyncio.run(run())


def test_a_coroutine_handler_that_raises_gets_the_events_after(caplog):
    async def run():
        bus, seen, alerts = make_bus(), [], []

        async def broken(event):
            seen.append(event)
            raise ValueError("no")

        bus.subscribe(broken, (LinkWent,), name="broken")
        bus.subscribe(alerts.append, (Alert,))
        bus.publish(link(1))
        bus.publish(link(2))
        await bus.drain()
        assert seen == [link(1), link(2)]
        assert bus.failures == {"broken": 2}
        assert [alert.kind for alert in alerts] == ["handler-failed"] * 2

    asyncio.run(run())


def test_events_published_without_a_loop_wait_for_one():
    bus, seen = make_bus(), []

    async def keep(event):
        seen.append(event)

    bus.subscribe(keep)
    bus.publish(link(1))
    assert seen == []
    asyncio.run(bus.drain())
    assert seen == [link(1)]


@pytest.mark.parametrize("n_events", [1, 50])
def test_what_was_published_is_counted(n_events):
    bus = make_bus()
    for number in range(n_events):
        bus.publish(link(number))
    assert bus.published == n_events
