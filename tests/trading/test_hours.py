"""When a venue trades, against its published hours."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.hours import Hours
from dpa.trading.types import Instrument

NEW_YORK = ZoneInfo("America/New_York")
XNYS = Hours("XNYS")


def in_new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


@pytest.mark.parametrize(
    ("moment", "trades"),
    [
        ("2024-07-01T09:29:59", False),
        ("2024-07-01T09:30:00", True),
        ("2024-07-01T15:59:59.999999", True),
        ("2024-07-01T16:00:00", False),
        ("2024-07-03T12:59:59", True),  # half day
        ("2024-07-03T13:00:00", False),
        ("2024-07-03T13:05:00", False),
        ("2024-07-04T11:00:00", False),  # holiday
        ("2024-07-06T11:00:00", False),  # Saturday
        ("2024-03-08T09:30:00", True),  # before the clocks changed, 14:30 UTC
        ("2024-03-11T09:30:00", True),  # after it, 13:30 UTC
        ("2024-03-11T09:29:59", False),
        ("2024-11-01T15:59:59", True),
        ("2024-11-04T16:00:00", False),
    ],
)
def test_new_york_trades_at(moment, trades):
    now = in_new_york(moment)
    assert (XNYS.at(now) is not None) == trades
    assert (XNYS.closes_at(None, now) is not None) == trades


def test_the_end_of_a_half_day_and_of_a_whole_one():
    assert XNYS.session_close(in_new_york("2024-07-03T10:00")) == in_new_york("2024-07-03T13:00")
    assert XNYS.session_close(in_new_york("2024-07-05T10:00")) == in_new_york("2024-07-05T16:00")
    assert XNYS.session_close(in_new_york("2024-07-04T10:00")) is None
    assert XNYS.session_close(in_new_york("2024-07-05T09:00")) is None


def test_the_session_of_a_bar_is_the_venues_date():
    assert XNYS.session_of(in_new_york("2024-07-01T16:00")) == date(2024, 7, 1)
    assert XNYS.session_of(in_new_york("2024-07-01T09:30")) is None
    tokyo = Hours("XTKS")  # the session of the 2nd begins at midnight UTC
    assert tokyo.session_of(datetime(2024, 7, 2, 0, 5, tzinfo=UTC)) == date(2024, 7, 2)
    sydney = Hours("XASX")  # and in Sydney in the evening before
    assert sydney.session_of(datetime(2024, 1, 1, 23, 5, tzinfo=UTC)) == date(2024, 1, 2)


def test_a_break_is_no_trading_and_belongs_to_its_session():
    tokyo = Hours("XTKS")
    lunch = datetime(2024, 7, 2, 2, 45, tzinfo=UTC)
    assert tokyo.at(lunch) is None
    assert tokyo.session_close(lunch) == datetime(2024, 7, 2, 6, 0, tzinfo=UTC)
    morning = tokyo.at(datetime(2024, 7, 2, 2, 0, tzinfo=UTC))
    assert morning is not None
    assert not morning.ends_session


def test_minutes_count_trading_only():
    before, after = in_new_york("2024-07-02T15:30"), in_new_york("2024-07-03T10:00")
    assert XNYS.minutes_between(before, after) == 60
    assert XNYS.minutes_between(after, before) == 0
    week = XNYS.minutes_between(in_new_york("2024-07-01T00:00"), in_new_york("2024-07-06T00:00"))
    assert week == 3 * 390 + 210
    clocks = XNYS.minutes_between(in_new_york("2024-03-08T15:00"), in_new_york("2024-03-11T10:30"))
    assert clocks == 120
    assert (
        Hours("XTKS").minutes_between(
            datetime(2024, 7, 2, 2, 0, tzinfo=UTC), datetime(2024, 7, 2, 4, 0, tzinfo=UTC)
        )
        == 60
    )  # 30 before the break, 30 after it


@given(st.lists(st.integers(0, 14 * 24 * 60), min_size=3, max_size=3))
def test_minutes_of_parts_add_up(offsets):
    start = datetime(2024, 6, 27, tzinfo=UTC)
    one, two, three = (start + timedelta(minutes=m) for m in sorted(offsets))
    whole = XNYS.minutes_between(one, three)
    parts = XNYS.minutes_between(one, two) + XNYS.minutes_between(two, three)
    assert whole == pytest.approx(parts)


def make_instrument(*hours):
    told = tuple((in_new_york(opens), in_new_york(closes)) for opens, closes in hours)
    return Instrument("AAA", 1, "SMART", "NYSE", "USD", Decimal("0.01"), 1, "US/Eastern", told)


def test_the_earlier_end_counts_where_calendar_and_broker_differ():
    early = make_instrument(("2024-07-01T09:30", "2024-07-01T14:00"))
    assert XNYS.closes_at(early, in_new_york("2024-07-01T10:00")) == in_new_york("2024-07-01T14:00")
    assert XNYS.closes_at(early, in_new_york("2024-07-01T14:30")) is None
    long = make_instrument(("2024-07-03T09:30", "2024-07-03T16:00"))  # knows no half days
    assert XNYS.closes_at(long, in_new_york("2024-07-03T12:00")) == in_new_york("2024-07-03T13:00")


def test_hours_told_weeks_ago_say_nothing_of_today():
    old = make_instrument(("2024-06-03T09:30", "2024-06-03T16:00"))
    assert XNYS.closes_at(old, in_new_york("2024-07-01T10:00")) == in_new_york("2024-07-01T16:00")


def test_the_next_open_is_after_the_weekend():
    assert XNYS.next_open(in_new_york("2024-07-05T16:00")) == in_new_york("2024-07-08T09:30")
