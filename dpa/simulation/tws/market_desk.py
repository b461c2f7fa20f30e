"""Market data of one client: quotes, ticks, bars and history."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from dpa.clock import Clock
from dpa.simulation.tws import replies, requests
from dpa.simulation.tws.history import HistoryError, bar_seconds, end_of, seconds_of
from dpa.simulation.tws.replies import Message
from dpa.simulation.tws.requests import Asked
from dpa.simulation.tws.streams import (
    DELAYED,
    DELAYED_FROZEN,
    FROZEN,
    LIVE,
    BarLine,
    HistoryLine,
    MarketLine,
    TickLine,
    Window,
)
from dpa.simulation.tws.words import Contract, Refused, SimBar, SimQuote, Venue

VALIDATING = "Error validating request.-'bW' : cause - "
PROCESSING = "Error processing request.-'bW' : cause - "

_HISTORY = "Historical Market Data Service error message:"
_BAR_KINDS = ("TRADES", "MIDPOINT", "BID", "ASK")
_HISTORY_KINDS = (*_BAR_KINDS, "BID_ASK", "ADJUSTED_LAST")
_AGES = 40 * 365 * 86_400  # seconds; older than any history


class Teller(Protocol):
    """Who speaks to the client."""

    @property
    def version(self) -> int: ...
    def send(self, message: Message) -> None: ...
    def error(self, request_id: int, code: int, message: str) -> None: ...


class _Line(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def contract(self) -> Contract: ...


L = TypeVar("L", bound=_Line)


class Lines(Generic[L]):
    """Subscriptions by the id of their request and by contract."""

    def __init__(self) -> None:
        self._by_number: dict[int, L] = {}
        self._by_contract: dict[int, dict[int, L]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def add(self, line: L) -> None:
        """Follow one more."""
        self._by_number[line.number] = line
        self._by_contract.setdefault(line.contract.con_id, {})[line.number] = line

    def drop(self, number: int) -> bool:
        """Follow it no more; whether it was followed."""
        line = self._by_number.pop(number, None)
        if line is not None:
            del self._by_contract[line.contract.con_id][number]
        return line is not None

    def of(self, contract: Contract) -> Collection[L]:
        """Those of a contract."""
        return self._by_contract.get(contract.con_id, {}).values()


class MarketDesk:
    """Market data lines of a client.

    Parameters
    ----------
    teller : Teller
    venue : Venue
    history : Window
        Historical requests of all clients in the last ten minutes.
    pacing : Clock
        What they are counted by.
    """

    def __init__(self, teller: Teller, venue: Venue, history: Window, pacing: Clock) -> None:
        self._teller = teller
        self._venue = venue
        self._recent = history
        self._pacing = pacing
        self._data_type = LIVE
        self.forget()

    def forget(self) -> None:
        """Follow nothing."""
        self._market: Lines[MarketLine] = Lines()
        self._ticks: Lines[TickLine] = Lines()
        self._bars: Lines[BarLine] = Lines()
        self._history: Lines[HistoryLine] = Lines()

    @property
    def lines(self) -> int:
        """Market data lines in use: quotes, ticks and real-time bars."""
        return len(self._market) + len(self._ticks) + len(self._bars)

    def quote(self, contract: Contract, quote: SimQuote) -> None:
        """The market moved."""
        for line in self._market.of(contract):
            kind = self._kind(line.asked, contract)
            if kind:
                self._tell(line.messages(quote, kind))
        for ticks in self._ticks.of(contract):
            self._tell(ticks.messages(quote))

    def realtime_bar(self, contract: Contract, bar: SimBar) -> None:
        """A bar of five seconds ended."""
        for line in self._bars.of(contract):
            self._teller.send(replies.realtime_bar(line.number, bar))

    def history_bar(self, contract: Contract, bar: SimBar) -> None:
        """A bar of five seconds ended, for histories that are kept up to date."""
        for line in self._history.of(contract):
            self._tell(line.messages(bar))

    def follows_bars(self, contract: Contract) -> bool:
        """Whether the client wants five-second bars of a contract, or bars made of them."""
        return bool(self._bars.of(contract)) or bool(self._history.of(contract))

    def follows_quotes(self, contract: Contract) -> bool:
        """Whether the client wants quotes or ticks of a contract."""
        return bool(self._market.of(contract)) or bool(self._ticks.of(contract))

    def contract(self, number: int, asked: Asked) -> Contract | None:
        """What a client means; 200 where that is nothing."""
        found = None
        if asked.sec_type in ("", "STK") and asked.currency in ("", "USD"):
            found = self._venue.find(asked.con_id, asked.symbol)
        if found is None:
            words = "No security definition has been found for the request"
            self._teller.error(number, 200, words)
        return found

    def contract_data(self, request: requests.ContractData) -> None:
        """What is known of a contract."""
        contract = self.contract(request.id, request.asked)
        if contract is not None:
            where, version = request.asked.exchange, self._teller.version
            self._teller.send(replies.contract_details(request.id, contract, where, version))
            self._teller.send((52, 1, request.id))

    def data_type(self, request: requests.MarketDataType) -> None:
        """Kind of data that later requests get."""
        if LIVE <= request.kind <= DELAYED_FROZEN:
            self._data_type = request.kind
        else:
            self._teller.error(-1, 321, f"{VALIDATING}Invalid market data type: {request.kind}")

    def market_data(self, request: requests.MarketData) -> None:
        """Follow quotes, or tell the one there is."""
        number = request.id
        find = self.contract if request.snapshot else self._line
        contract = find(number, request.asked)
        if contract is None:
            return
        kind = self._kind(self._data_type, contract)
        missing = "Requested market data is not subscribed."
        if not kind:
            self._teller.error(number, 354, f"{missing} Delayed market data is available.")
            return
        if kind in (DELAYED, DELAYED_FROZEN):
            self._teller.error(number, 10167, f"{missing} Displaying delayed market data.")
        line = MarketLine(number, contract, request.generic, self._data_type)
        self._teller.send(line.start())
        quote = self._venue.quote(contract)
        if quote is not None:
            self._tell(line.messages(quote, kind))
        if request.snapshot:
            self._teller.send((57, 1, number))
        else:
            self._market.add(line)

    def tick_by_tick(self, request: requests.TickByTick) -> None:
        """Follow every tick."""
        number = request.id
        if not TickLine.knows(request.kind):
            self._invalid(number, f"Invalid tick-by-tick type: {request.kind}")
            return
        contract = self._line(number, request.asked)
        if contract is None:
            return
        if not self._venue.traits.subscribed:
            words = f"Failed to request tick-by-tick data:{_no_permission(contract)}"
            self._teller.error(number, 10189, words)
            return
        line = TickLine(number, contract, request.kind)
        self._ticks.add(line)
        quote = self._venue.quote(contract)
        if quote is not None:
            self._tell(line.messages(quote))

    def real_time_bars(self, request: requests.RealTimeBars) -> None:
        """Follow bars of five seconds."""
        number = request.id
        if request.seconds != 5 or request.what not in _BAR_KINDS:
            words = f"bars of {request.seconds} seconds of {request.what}"
            self._invalid(number, f"Invalid real-time query: {words}")
            return
        contract = self._line(number, request.asked)
        if contract is None:
            return
        if not self._venue.traits.subscribed:
            words = f"Invalid Real-time Query:{_no_permission(contract)}"
            self._teller.error(number, 420, words)
            return
        self._bars.add(BarLine(number, contract))

    def history(self, request: requests.History) -> None:
        """Tell bars of the past and, where asked for, keep them up to date."""
        contract = self.contract(request.id, request.asked)
        if contract is None:
            return
        try:
            bars, length, end = self._past(request, contract)
        except HistoryError as error:
            self._teller.error(request.id, error.code, error.what)
            return
        dates = [replies.bar_date(bar, length, request.epoch) for bar in bars]
        first = bars[0].time if bars else end
        self._teller.send(replies.history(request.id, first, end, bars, dates))
        if request.keep_up_to_date:
            newest = bars[-1] if bars else None
            self._history.add(HistoryLine(request.id, contract, length, request.epoch, newest))

    def head_timestamp(self, request: requests.HeadTimestamp) -> None:
        """Since when there is history."""
        contract = self.contract(request.id, request.asked)
        if contract is None:
            return
        now = self._venue.clock.now()
        bars = self._venue.history(contract, now, _AGES, 86_400, request.regular_hours)
        if isinstance(bars, Refused):
            self._teller.error(request.id, bars.code, bars.message)
        elif not bars:
            self._teller.error(request.id, 162, f"{_HISTORY}No head time stamp")
        else:
            first = bars[0].time
            text = str(int(first.timestamp())) if request.epoch else f"{first:%Y%m%d-%H:%M:%S}"
            self._teller.send((88, request.id, text))

    def cancel(self, number: int) -> None:
        """Follow a line no more; 300 where there is none."""
        dropped = [lines.drop(number) for lines in (self._market, self._ticks, self._bars)]
        if not any(dropped):
            self._teller.error(number, 300, f"Can't find EId with tickerId:{number}")

    def cancel_history(self, number: int) -> None:
        """Keep a history up to date no more; 162 tells that, 366 that there is none."""
        if self._history.drop(number):
            words = f"{_HISTORY}API historical data query cancelled: {number}"
            self._teller.error(number, 162, words)
        else:
            words = f"No historical data query found for ticker id:{number}"
            self._teller.error(number, 366, words)

    def _kind(self, asked: int, contract: Contract) -> int:
        """Kind of data a client gets that asked for a kind; 0: none."""
        frozen = asked in (FROZEN, DELAYED_FROZEN) and self._is_closed(contract)
        if self._venue.traits.subscribed:
            return FROZEN if frozen else LIVE
        if asked in (LIVE, FROZEN):
            return 0
        return DELAYED_FROZEN if frozen else DELAYED

    def _is_closed(self, contract: Contract) -> bool:
        now = self._venue.clock.now()
        return not any(opens <= now < closes for opens, closes in contract.liquid_hours)

    def _line(self, number: int, asked: Asked) -> Contract | None:
        """The contract of a new line, unless there may be no more."""
        contract = self.contract(number, asked)
        if contract is None:
            return None
        if number in self._market or number in self._ticks or number in self._bars:
            self._teller.error(number, 322, f"{PROCESSING}Duplicate ticker id")
            return None
        if self.lines >= self._venue.traits.lines:
            self._teller.error(number, 101, "Max number of tickers has been reached")
            return None
        return contract

    def _past(
        self, request: requests.History, contract: Contract
    ) -> tuple[tuple[SimBar, ...], int, datetime]:
        """Bars asked for, their length in seconds and their end."""
        traits = self._venue.traits
        if request.id in self._history:
            raise HistoryError(322, f"{PROCESSING}Duplicate ticker id")
        if request.what not in _HISTORY_KINDS:
            raise HistoryError(321, f"{VALIDATING}Invalid historical query: {request.what}")
        if request.keep_up_to_date and request.written_end:
            raise HistoryError(321, f"{VALIDATING}End Date not supported with keepUpToDate")
        length, span = bar_seconds(request.bar_size), seconds_of(request.duration)
        end = end_of(request.written_end, self._venue.clock.now())
        if self._recent.add(self._pacing.elapsed()) > traits.history_requests:
            violation = "Historical data request pacing violation"
            raise HistoryError(162, f"{_HISTORY}{violation}")
        bars = self._venue.history(contract, end, span, length, request.regular_hours)
        if isinstance(bars, Refused):
            raise HistoryError(bars.code, bars.message)
        if not bars and not request.keep_up_to_date:
            words = f"{contract.symbol}@SMART {request.what.title()}"
            raise HistoryError(162, f"{_HISTORY}HMDS query returned no data: {words}")
        return bars, length, end

    def _invalid(self, number: int, words: str) -> None:
        self._teller.error(number, 321, f"{VALIDATING}{words}")

    def _tell(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._teller.send(message)


def _no_permission(contract: Contract) -> str:
    return f"No market data permissions for {contract.primary_exchange} STK"
