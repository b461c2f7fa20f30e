"""Frames and fields: what is written is read back, whatever else comes is refused in words."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.simulation.tws.wire import (
    MAX_FRAME,
    UNSET_INTEGER,
    UNSET_NUMBER,
    Cursor,
    Frames,
    WireError,
    eastern,
    fields,
    frame,
    read_moment,
    text,
)

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=5), max_size=5), st.data())
def test_frames_come_back_whole_however_the_bytes_are_cut(
    messages: list[list[str]], data: st.DataObject
) -> None:
    stream = b"".join(frame(*message) for message in messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    frames, read = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames.feed(stream[start:end])
        read += [fields(body) for body in frames]
    assert read == messages


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 2**32 - 1])
def test_a_frame_that_is_empty_or_too_long_is_refused_before_it_is_awaited(length: int) -> None:
    frames = Frames()
    frames.feed(length.to_bytes(4, "big"))
    with pytest.raises(WireError, match=f"a frame of {length} bytes"):
        next(iter(frames))


@pytest.mark.parametrize(("body", "reason"), [(b"9\x001", "zero byte"), (b"\xff\0", "UTF-8")])
def test_a_body_that_is_no_list_of_fields_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        fields(body)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, ""),
        (True, "1"),
        (False, "0"),
        (7, "7"),
        (Decimal("1E+2"), "100"),
        (Decimal("0.00000001"), "0.00000001"),
        (Decimal("12.500"), "12.5"),
        (1e-7, "0.0000001"),
        (2.0, "2"),
        (math.inf, "Infinity"),
        ("a\0b", "a b"),
    ],
)
def test_values_are_written_as_clients_read_them(value: object, written: str) -> None:
    assert text(value) == written  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=8, max_value=10**12))
def test_a_decimal_is_written_exactly_and_without_exponent(value: Decimal) -> None:
    written = text(value)
    assert Decimal(written) == value
    assert "E" not in written


def test_a_cursor_names_the_message_and_the_field_that_is_missing_or_unread() -> None:
    cursor = Cursor("REQ_IDS", ["1"])
    assert cursor.integer("version") == 1
    with pytest.raises(WireError, match=r"REQ_IDS: field 2 \(numIds\) is missing"):
        cursor.integer("numIds")
    cursor = Cursor("REQ_IDS", ["1", "2", "odd"])
    cursor.integer("version")
    with pytest.raises(WireError, match=r"REQ_IDS: 2 unread fields from field 2 on: .*odd"):
        cursor.end()


@pytest.mark.parametrize("unset", ["", UNSET_INTEGER, UNSET_NUMBER, "1.7976931348623157e+308"])
def test_unset_numbers_are_empty(unset: str) -> None:
    assert Cursor("M", [unset]).number_text("limit") == ""


@pytest.mark.parametrize("wrong", ["nan", "1_000", "1e999", "-1e301", "0x1", "٣", " 1", "1,5"])
def test_what_is_no_number_is_refused(wrong: str) -> None:
    with pytest.raises(WireError, match=r"M: field 1 \(limit\)"):
        Cursor("M", [wrong]).number_text("limit")
    with pytest.raises(WireError, match="a whole number"):
        Cursor("M", [wrong]).integer("count")
    with pytest.raises(WireError, match="0 or 1"):
        Cursor("M", [wrong]).flag("switch")


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, max_value=1e299, min_value=-1e299))
def test_every_float_a_client_writes_is_read(value: float) -> None:
    assert float(Cursor("M", [str(value)]).number_text("limit")) == value


@settings(deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_a_moment_is_read_as_it_was_written(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    assert read_moment(f"{moment:%Y%m%d-%H:%M:%S}") == moment
    assert read_moment(f"{moment:%Y%m%d %H:%M:%S} UTC") == moment
    read = read_moment(eastern(moment))
    repeated_hour = moment.astimezone(UTC) != read
    assert read == moment or (repeated_hour and moment.month in (10, 11))


def test_a_moment_without_a_zone_is_new_yorks() -> None:
    assert read_moment("20251121 10:00:00") == datetime(2025, 11, 21, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "wrong", ["", "today", "20251121", "20251121 25:00:00", "20251121 10:00:00 ../etc", "x x x/y"]
)
def test_what_is_no_moment_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"zone|ZoneInfo|not match|unconverted"):
        read_moment(wrong)
