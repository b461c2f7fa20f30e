"""Exits that no forecast asks for, and exits for which no quote comes.

What closes positions that are old, and all at the end of a session, is pure. :class:`Unquoted`
keeps since when a position has had no quote: an exit by a limit needs one, and where none comes
there is a choice. A limit at the last price and the collar is the default: it never sells far below
what was seen last, as an order at the market may where nobody quotes, and it does not wait for a
person, as no order does.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from dpa.config import TradingConfig
from dpa.trading.hours import Hours
from dpa.trading.intents import Target
from dpa.trading.types import Instrument, Purpose, Quote, Style

BLIND_STYLES = (Style.ADAPTIVE, Style.LIMIT)  # of orders that need a quote
AUCTION_CUTOFF = timedelta(minutes=10)  # orders for a close must be in; NYSE: 15:50 for 16:00
AFTER_AUCTION = timedelta(minutes=5)  # until then fills of an auction are waited for


@dataclass(frozen=True)
class Exits:
    """The rules of a session.

    Parameters
    ----------
    config : TradingConfig
    hours : Hours
    """

    config: TradingConfig
    hours: Hours

    def is_quiet(self, instrument: Instrument | None, now: datetime) -> bool:
        """Whether it is too near the close, or not the time, for new risk in an instrument."""
        closes = self.hours.closes_at(instrument, now)
        return closes is None or now >= closes - timedelta(minutes=self.config.quiet_minutes)

    def is_old(self, opened_at: datetime | None, now: datetime) -> bool:
        """Whether a position has been held for too long, session minutes counted."""
        most = self.config.most_age_minutes
        if most is None or opened_at is None:
            return False
        return self.hours.minutes_between(opened_at, now) >= most

    def ends(self, now: datetime) -> datetime:
        """When orders decided now end: their life, the close, and what flattening needs."""
        ends = now + timedelta(seconds=self.config.order_seconds)
        closes = self.hours.session_close(now)
        if closes is None:
            return ends
        flattens = self._flattens_at(closes)
        return min(ends, flattens if now < flattens else closes)

    def _flattens_at(self, closes: datetime) -> datetime:
        if self.config.session_end == "hold":
            return closes
        return closes - timedelta(minutes=self.config.flatten_minutes)

    def next_change(self, now: datetime) -> datetime | None:
        """When the rules change next in the session of `now`; none outside sessions."""
        closes = self.hours.session_close(now)
        if closes is None:
            return None
        quiet = closes - timedelta(minutes=self.config.quiet_minutes)
        moments = [quiet, self._flattens_at(closes), closes]
        return min((moment for moment in moments if moment > now), default=None)

    def at_session_end(
        self,
        held: Mapping[str, int],
        instruments: Mapping[str, Instrument],
        now: datetime,
    ) -> tuple[Target, ...]:
        """Targets that close everything before the session ends; empty when it is not time yet.

        One order after another, each for the life of an order: the first in the usual style, or
        for the closing auction where there is one and time enough for it; those after it at the
        market, since by then being flat matters more than the price.

        Parameters
        ----------
        held : mapping of str to int
            Shares, not 0.
        instruments : mapping of str to Instrument
        now : datetime
        """
        if self.config.session_end == "hold":
            return ()
        found = []
        for symbol in sorted(held):
            instrument = instruments.get(symbol)
            closes = self.hours.closes_at(instrument, now)
            if closes is not None and now >= self._flattens_at(closes):
                found.append(self._closing(symbol, instrument, closes, now))
        return tuple(found)

    def _closing(
        self, symbol: str, instrument: Instrument | None, closes: datetime, now: datetime
    ) -> Target:
        began = self._flattens_at(closes)
        life = timedelta(seconds=self.config.order_seconds)
        number = int((now - began) / life)
        auction = instrument is not None and instrument.has_close
        at_close = number == 0 and auction and closes - now > AUCTION_CUTOFF
        style = Style.CLOSE if at_close else Style(self.config.style)
        ends = closes + AFTER_AUCTION if at_close else min(began + (number + 1) * life, closes)
        return Target(
            closing_id(self._date(now), number),
            symbol,
            0,
            now,
            ends,
            Purpose.SESSION_END,
            False,
            Style.MARKET if number else style,
        )

    def _date(self, now: datetime) -> date:
        stretch = self.hours.at(now)
        return now.date() if stretch is None else stretch.session


class Unquoted:
    """Since when positions have had no quote to trade on.

    Parameters
    ----------
    config : TradingConfig
    """

    def __init__(self, config: TradingConfig) -> None:
        self._config = config
        self._since: dict[str, datetime] = {}
        self._told: set[str] = set()

    @property
    def style(self) -> Style | None:
        """Of an exit that has waited for long enough; none: it goes on waiting."""
        return {"collar": Style.LIMIT, "market": Style.MARKET}.get(self._config.unquoted_exit)

    def usable(self, quote: Quote | None, now: datetime) -> Quote | None:
        """A quote that can be traded on now, else none."""
        if quote is None or not quote.sound:
            return None
        young = now - quote.time <= timedelta(seconds=self._config.quote_seconds)
        return quote if young else None

    def see(self, held: Collection[str], quotes: Mapping[str, Quote], now: datetime) -> None:
        """Look at what is held while its market is open."""
        without = [s for s in held if self.usable(quotes.get(s), now) is None]
        self._since = {symbol: self._since.get(symbol, now) for symbol in without}
        self._told.intersection_update(without)

    def is_overdue(self, symbol: str, now: datetime) -> bool:
        """Whether a quote was waited for long enough."""
        since = self._since.get(symbol)
        return since is not None and now - since >= timedelta(seconds=self._config.unquoted_seconds)

    def tell(self, symbol: str) -> bool:
        """Whether it was not said yet that a symbol has no quote; from now on it was."""
        new = symbol not in self._told
        self._told.add(symbol)
        return new


def closing_id(session: date, number: int) -> str:
    """What stands for a decision where the end of a session closes positions."""
    return f"session-end:{session.isoformat()}:{number}"


def ageing_id(bar: datetime) -> str:
    """What stands for a decision where age closes positions and the graph is away."""
    return f"age:{bar.isoformat()}"
