"""Frames and fields as TWS writes them: a length, then texts that each end with a zero byte."""

import math
import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from dpa.errors import DpaError

MAX_FRAME = 2**20  # bytes; no request comes near it
UNSET_INTEGER = "2147483647"
UNSET_NUMBER = "1.7976931348623157E308"
INFINITY = "Infinity"
EASTERN = "US/Eastern"  # the name TWS writes

_NEW_YORK = ZoneInfo("America/New_York")
_LENGTH = struct.Struct(">I")
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_LARGEST = 1e300

Value = str | int | float | Decimal | bool | None


class WireError(DpaError):
    """What a client sent is not the protocol; names the message and the field."""


def text(value: Value) -> str:
    """A value as a field: booleans 0 and 1, numbers without exponent, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("\0", " ")
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return INFINITY if value > 0 else "-" + INFINITY
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    written = format(exact, "f")
    return written.rstrip("0").rstrip(".") if "." in written else written


def frame(*values: Value) -> bytes:
    """A whole message; the first value is its id."""
    body = ("\0".join([text(value) for value in values]) + "\0").encode()
    return _LENGTH.pack(len(body)) + body


def fields(body: bytes) -> list[str]:
    """Texts of a frame's body.

    Raises
    ------
    WireError
        When it is empty, does not end with a zero byte or is no UTF-8.
    """
    if not body.endswith(b"\0"):
        raise WireError(f"a frame of {len(body)} bytes does not end with a zero byte")
    try:
        return body[:-1].decode().split("\0")
    except UnicodeDecodeError as error:
        raise WireError(f"a frame of {len(body)} bytes is no UTF-8: {error}") from error


class Frames:
    """Cuts a stream of bytes into frames.

    Parameters
    ----------
    largest : int
        Bytes; a longer frame is an error.
    """

    def __init__(self, largest: int = MAX_FRAME) -> None:
        self._largest = largest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._buffer += data

    def take(self, count: int) -> bytes | None:
        """The first `count` bytes, outside any frame; None until they are all there."""
        if len(self._buffer) < count:
            return None
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def __iter__(self) -> Iterator[bytes]:
        """Bodies of the frames that are complete."""
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 0 < length <= self._largest:
                raise WireError(f"a frame of {length} bytes; 1 to {self._largest} are allowed")
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            yield body


class Cursor:
    """Reads the fields of one request in order; every field must be read.

    Parameters
    ----------
    message : str
        Name of the request, for errors.
    values : list of str
    """

    def __init__(self, message: str, values: list[str]) -> None:
        self.message = message
        self._values = values
        self._at = 0

    def text(self, name: str) -> str:
        """The next field as it is."""
        if self._at >= len(self._values):
            raise WireError(
                f"{self.message}: field {self._at + 1} ({name}) is missing",
                "the client speaks another version",
            )
        self._at += 1
        return self._values[self._at - 1]

    def integer(self, name: str) -> int:
        """A whole number; 0 where it is unset."""
        return int(self.integer_text(name) or 0)

    def flag(self, name: str) -> bool:
        """A boolean; False where it is unset."""
        return self.flag_text(name) == "1"

    def integer_text(self, name: str) -> str:
        """A whole number as text; empty where it is unset."""
        value = self.text(name)
        if value in ("", UNSET_INTEGER):
            return ""
        if not _INTEGER.fullmatch(value):
            raise self._wrong(name, value, "a whole number")
        return value

    def number_text(self, name: str) -> str:
        """A number as text; empty where it is unset, ``Infinity`` where it is infinite."""
        value = self.text(name)
        if value in ("", UNSET_INTEGER):
            return ""
        if value in ("Infinite", INFINITY, "inf"):
            return INFINITY
        if not _NUMBER.fullmatch(value):
            raise self._wrong(name, value, "a number")
        size = abs(float(value))
        if size > _LARGEST:
            if float(value) == float(UNSET_NUMBER):
                return ""
            raise self._wrong(name, value, f"a number below {_LARGEST}")
        return value

    def flag_text(self, name: str) -> str:
        """A boolean as ``0`` or ``1``."""
        value = self.text(name)
        if value not in ("", "0", "1"):
            raise self._wrong(name, value, "0 or 1")
        return value or "0"

    def count(self, name: str, most: int = 1000) -> int:
        """How many entries follow, between 0 and `most`; never unset."""
        value = self.integer_text(name)
        if not value or not 0 <= int(value) <= most:
            raise self._wrong(name, value, f"0 to {most}")
        return int(value)

    def end(self) -> None:
        """Nothing may be left.

        Raises
        ------
        WireError
            When fields were not read.
        """
        left = self._values[self._at :]
        if left:
            raise WireError(
                f"{self.message}: {len(left)} unread fields from field {self._at + 1} on: "
                f"{[value[:40] for value in left[:8]]}",
                "the client speaks another version",
            )

    def _wrong(self, name: str, value: str, wanted: str) -> WireError:
        return WireError(
            f"{self.message}: field {self._at} ({name}) is {value[:80]!r}, not {wanted}"
        )


def new_york(moment: datetime) -> datetime:
    """A moment by New York's clock."""
    return moment.astimezone(_NEW_YORK)


def eastern(moment: datetime) -> str:
    """A moment as TWS writes it, such as ``20251121 10:00:00 US/Eastern``."""
    return f"{new_york(moment):%Y%m%d %H:%M:%S} {EASTERN}"


def read_moment(written: str) -> datetime:
    """A moment as clients write it, UTC.

    Parameters
    ----------
    written : str
        ``20251121 10:00:00 US/Eastern`` (any zone), ``20251121-15:00:00`` (UTC), or without a
        zone, which means New York.

    Raises
    ------
    ValueError
        When it is none of these.
    """
    if len(written) > 8 and written[8] == "-":
        return datetime.strptime(written, "%Y%m%d-%H:%M:%S").replace(tzinfo=UTC)
    date, _, rest = written.strip().partition(" ")
    clock, *zones = rest.split(maxsplit=1) or [""]
    try:
        zone = ZoneInfo(zones[0]) if zones else _NEW_YORK
    except (OSError, KeyError) as error:  # what an unknown or odd name raises
        raise ValueError(f"no time zone {zones[0]!r}") from error
    local = datetime.strptime(f"{date} {clock}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone)
    return local.astimezone(UTC)
