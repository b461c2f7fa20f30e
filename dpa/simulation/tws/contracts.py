"""What the venue lists, and when it trades."""

import bisect
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

import pandas as pd

from dpa.errors import ConfigError
from dpa.market.calendars import TradingCalendar, utc_index
from dpa.simulation.tws.words import Contract

Window = tuple[datetime, datetime]
SHOWN_SESSIONS = 5  # in the hours of a contract
EXTENDED = (time(4), time(20))  # pre-market and after-hours of US stocks, venue's time
_MARGIN = pd.Timedelta(30, "D")


class Hours:
    """Regular sessions of a venue.

    Parameters
    ----------
    calendar : str
        exchange_calendars code.
    first, last : datetime
        UTC; sessions from a month before to a month after are known.
    """

    def __init__(self, calendar: str, first: datetime, last: datetime) -> None:
        venue = TradingCalendar(calendar)
        bars = venue.bars("1d", pd.Timestamp(first) - _MARGIN, pd.Timestamp(last) + _MARGIN)
        self.zone = ZoneInfo(venue.time_zone)
        self.opens: list[datetime] = list(utc_index(bars.opens).to_pydatetime())
        self.closes: list[datetime] = list(utc_index(bars.closes).to_pydatetime())

    def is_open(self, now: datetime) -> bool:
        """Whether orders trade: from the open, before the close."""
        return self.session(now) is not None

    def session(self, now: datetime) -> Window | None:
        """Open and close of the session that runs at `now`."""
        place = bisect.bisect_right(self.opens, now) - 1
        if place < 0 or now >= self.closes[place]:
            return None
        return self.opens[place], self.closes[place]

    def next_close(self, now: datetime) -> datetime:
        """Close of the session that runs, or of the next one."""
        return self.closes[bisect.bisect_right(self.closes, now)]

    def next_open(self, now: datetime) -> datetime:
        """The first open after `now`."""
        return self.opens[bisect.bisect_right(self.opens, now)]

    def sessions_from(self, now: datetime, count: int = SHOWN_SESSIONS) -> tuple[Window, ...]:
        """The session of today, also where it is over, and those after it, `count` in all."""
        midnight = datetime.combine(now.astimezone(self.zone).date(), time(), self.zone)
        first = bisect.bisect_left(self.opens, midnight)
        return tuple(zip(self.opens, self.closes, strict=True))[first : first + count]

    def last_sessions(self, end: datetime, count: int) -> datetime:
        """Open of the `count`-th session back from `end`; the one that runs counts."""
        return self.opens[max(bisect.bisect_left(self.opens, end) - count, 0)]

    def extended(self, window: Window) -> Window:
        """The hours around a session in which the venue takes orders."""
        if self.zone.key != "America/New_York":
            return window
        opens, closes = (moment.astimezone(self.zone) for moment in window)
        half_day = closes.time() < time(16)
        end = time(17) if half_day else EXTENDED[1]
        return (
            datetime.combine(opens.date(), EXTENDED[0], self.zone).astimezone(window[0].tzinfo),
            datetime.combine(closes.date(), end, self.zone).astimezone(window[0].tzinfo),
        )


def tws_symbol(name: str) -> str:
    """``BRK.B`` as TWS writes it: ``BRK B``."""
    return name.replace(".", " ")


@lru_cache(maxsize=100_000)
def _number(symbol: str) -> int:
    return 1_000_000 + zlib.crc32(symbol.encode()) % 800_000_000


class Listing:
    """All contracts of a venue. Numbers are functions of symbols, the same in every listing.

    Parameters
    ----------
    names : sequence of str
        As dpa writes them, in the order of the market's columns.
    hours : Hours
    min_tick, size_increment : Decimal

    Raises
    ------
    ConfigError
        When two names would be the same contract.
    """

    def __init__(
        self,
        names: Sequence[str],
        hours: Hours,
        min_tick: Decimal = Decimal("0.01"),
        size_increment: Decimal = Decimal(1),
    ) -> None:
        self.hours = hours
        self.contracts: list[Contract] = []
        self._place: dict[int, int] = {}
        self._symbols: dict[str, int] = {}
        self._day: date | None = None
        for name in names:
            symbol = tws_symbol(name)
            if symbol in self._symbols:
                raise ConfigError(f"names: {name!r} is listed already", "rename one of them")
            number = _number(symbol)
            while number in self._place:
                number += 1
            self._place[number] = self._symbols[symbol] = len(self.contracts)
            self.contracts.append(
                Contract(number, symbol, "NASDAQ", "NMS", min_tick, size_increment, f"{symbol} INC")
            )

    def __len__(self) -> int:
        return len(self.contracts)

    def new_day(self, now: datetime) -> None:
        """Show the hours of the date of `now` and of the days after it."""
        day = now.astimezone(self.hours.zone).date()
        if day == self._day:
            return
        self._day = day
        liquid = self.hours.sessions_from(now)
        trading = tuple(self.hours.extended(window) for window in liquid)
        self.contracts = [
            replace(contract, liquid_hours=liquid, trading_hours=trading)
            for contract in self.contracts
        ]

    def place(self, con_id: int) -> int:
        """Column of a contract in the market; KeyError for none of ours."""
        return self._place[con_id]

    def find(self, con_id: int, symbol: str) -> Contract | None:
        """By number where there is one, else by symbol, as TWS or as dpa writes it."""
        place = self._place.get(con_id) if con_id else self._symbols.get(tws_symbol(symbol))
        return None if place is None else self.contracts[place]
