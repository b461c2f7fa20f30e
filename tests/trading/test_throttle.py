"""Too many messages a second cost the connection, and a late order is a wrong order."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.throttle import Priority, Throttle

START = datetime(2024, 7, 1, 16, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_cancels_go_first_then_reductions_then_the_rest_each_in_its_order() -> None:
    queue: Throttle[str] = Throttle(100, 10, 100)
    kinds = (Priority.LIMIT, Priority.ADD, Priority.REDUCE, Priority.CANCEL)
    for n in range(2):
        for kind in kinds:
            assert queue.put(f"{kind}{n}", kind, f"{kind.name}{n}", START)
    taken = [queue.take(START).item for _ in range(8)]
    expected = [f"{kind.name}{n}" for kind in reversed(kinds) for n in range(2)]
    assert taken == expected
    assert queue.take(START) is None


@given(
    rate=st.sampled_from([0.5, 1.0, 3.0, 45.0]),
    waits=st.lists(st.floats(0, 1.5), min_size=1, max_size=80),
    burst=st.integers(1, 60),
)
def test_no_second_ever_has_more_than_it_may(rate: float, waits: list[float], burst: int) -> None:
    queue: Throttle[int] = Throttle(rate, 1e9, 10**6)
    sent, now, number = [], START, 0
    for wait in waits:
        now += timedelta(seconds=wait)
        for _ in range(burst):
            number += 1
            queue.put(str(number), Priority.ADD, number, now)
        while queue.take(now) is not None:
            sent.append(now)
    window = timedelta(seconds=max(1, int(rate)) / rate)
    for n, moment in enumerate(sent):
        within = [m for m in sent[n:] if m - moment < window]
        assert len(within) <= max(1, int(rate))


def test_next_at_is_when_the_next_may_go() -> None:
    queue: Throttle[int] = Throttle(2, 10, 10)
    assert queue.next_at(START) is None
    for n in range(3):
        queue.put(str(n), Priority.ADD, n, START)
    assert queue.next_at(START) == START
    queue.take(START)
    queue.take(at(0.25))
    assert queue.take(at(0.5)) is None
    assert queue.next_at(at(0.5)) == at(1)
    assert queue.take(at(1)).item == 2


def test_what_waits_too_long_is_given_up_but_never_a_cancel() -> None:
    queue: Throttle[str] = Throttle(1, 10, 10)
    queue.put("a", Priority.ADD, "add", START)
    queue.put("a", Priority.CANCEL, "cancel", START)
    assert queue.expired(at(10)) == ()
    assert [w.item for w in queue.expired(at(10.1))] == ["add"]
    assert queue.take(at(1000)).item == "cancel"


def test_the_queue_is_bounded_but_takes_every_cancel() -> None:
    queue: Throttle[int] = Throttle(1, 10, 2)
    assert queue.put("a", Priority.ADD, 1, START)
    assert queue.put("b", Priority.ADD, 2, START)
    assert not queue.put("c", Priority.ADD, 3, START)
    assert queue.put("c", Priority.CANCEL, 4, START)
    assert len(queue) == 3


def test_a_newer_limit_takes_the_place_of_one_that_waits() -> None:
    queue: Throttle[int] = Throttle(10, 10, 10)
    queue.put("a", Priority.LIMIT, 1, START)
    queue.put("a", Priority.LIMIT, 2, at(1))
    assert queue.take(at(1)).item == 2
    assert queue.take(at(1)) is None


def test_only_the_urgent_is_taken_where_nothing_else_is_asked_for() -> None:
    queue: Throttle[str] = Throttle(10, 10, 10)
    queue.put("a", Priority.ADD, "add", START)
    assert queue.take(START, Priority.CANCEL) is None
    queue.put("a", Priority.CANCEL, "cancel", START)
    assert queue.take(START, Priority.CANCEL).item == "cancel"
    assert queue.take(START, Priority.CANCEL) is None
    assert queue.take(START).item == "add"


def test_a_clock_that_is_set_back_does_not_stop_messages_for_ever() -> None:
    queue: Throttle[int] = Throttle(1, 1e6, 10)
    queue.put("a", Priority.ADD, 1, at(3600))
    queue.put("b", Priority.ADD, 2, at(3600))
    assert queue.take(at(3600)).item == 1
    assert queue.take(START) is None
    assert queue.take(START + SECOND).item == 2
