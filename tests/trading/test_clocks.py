"""The clock that a keeper of time moves."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dpa.errors import DataError
from dpa.trading.clocks import VirtualClock

START = datetime(2024, 7, 1, 13, 30, tzinfo=UTC)


def test_it_stands_still_until_it_is_moved():
    clock = VirtualClock(START)
    assert clock.now() == clock.now() == START
    clock.move_to(START + timedelta(seconds=90))
    assert clock.now() == START + timedelta(seconds=90)
    assert clock.elapsed() == 90


def test_a_moment_in_another_zone_is_the_same_moment():
    east = timezone(timedelta(hours=9))
    assert VirtualClock(START.astimezone(east)).now().tzinfo is UTC


def test_it_never_runs_backwards():
    clock = VirtualClock(START)
    with pytest.raises(DataError, match="before"):
        clock.move_to(START - timedelta(microseconds=1))
    assert clock.now() == START


def test_a_moment_without_a_zone_is_refused():
    with pytest.raises(DataError, match="time zone"):
        VirtualClock(datetime(2024, 7, 1))  # noqa: DTZ001
