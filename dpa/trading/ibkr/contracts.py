"""Symbols and what TWS says of them: numbers, ticks, lots, hours."""

import asyncio
import logging
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dpa.errors import DataError, TransientError
from dpa.trading.ibkr.callbacks import RequestFailed
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.codes import NO_CONTRACT
from dpa.trading.types import Instrument

CURRENCY = "USD"
EXCHANGE = "SMART"
_OLD_ZONES = {"EST": "America/New_York", "EST5EDT": "America/New_York", "EDT": "America/New_York"}
_log = logging.getLogger(__name__)


def to_tws(symbol: str) -> str:
    """``BRK.B`` as TWS writes it: ``BRK B``."""
    return symbol.replace(".", " ")


def from_tws(symbol: str) -> str:
    """``BRK B`` as dpa writes it: ``BRK.B``."""
    return symbol.replace(" ", ".")


def decimal(value: float | str) -> Decimal:
    """A number of the wire, exactly as it was written there."""
    number = Decimal(str(value))
    return number.quantize(Decimal(1)) if number == number.to_integral_value() else number


def parse_zone(name: str) -> ZoneInfo:
    """Time zone as TWS names it, such as ``US/Eastern`` or ``EST (Eastern Standard Time)``.

    Raises
    ------
    DataError
        Nobody knows it.
    """
    short = name.split(" (")[0].strip()
    try:
        return ZoneInfo(_OLD_ZONES.get(short, short))
    except (ZoneInfoNotFoundError, ValueError) as e:
        raise DataError(f"TWS: time zone {name!r} is not known") from e


def parse_hours(text: str, zone: ZoneInfo) -> tuple[tuple[datetime, datetime], ...]:
    """Sessions in UTC, sorted, from text such as
    ``20251128:0930-20251128:1300;20251129:CLOSED`` or the older ``20251128:0930-1300``.

    Raises
    ------
    DataError
        The text has another form.
    """
    spans: set[tuple[datetime, datetime]] = set()
    for day in filter(None, text.split(";")):
        date, _, times = day.partition(":")
        if times == "CLOSED":
            continue
        try:
            for span in times.split(","):
                first, _, last = span.partition("-")
                last_date, _, last_time = last.rpartition(":")
                begin = _moment(date, first.rpartition(":")[2], zone)
                end = _moment(last_date or date, last_time, zone)
                spans.add((begin, end if end > begin else end + timedelta(days=1)))
        except ValueError as e:
            raise DataError(f"TWS: hours {day!r} are not understood") from e
    return tuple(sorted(spans))


def _moment(date: str, time: str, zone: ZoneInfo) -> datetime:
    if not re.fullmatch("[0-9]{8}[0-9]{4}", date + time):
        raise ValueError(f"{date}:{time}")
    local = datetime.strptime(date + time, "%Y%m%d%H%M").replace(tzinfo=zone)
    return local.astimezone(UTC)


def read_instrument(details: Any) -> Instrument:
    """An instrument from the library's ContractDetails.

    Raises
    ------
    DataError
        Tick, time zone or hours make no sense.
    """
    contract = details.contract
    zone = parse_zone(details.timeZoneId)
    tick = decimal(details.minTick)
    if not tick > 0:
        raise DataError(f"TWS: {contract.symbol} has a tick of {tick}")
    increment = getattr(details, "sizeIncrement", 0) or 0
    lot = math.ceil(decimal(increment)) if 0 < increment < 1e9 else 1
    return Instrument(
        symbol=from_tws(contract.symbol),
        con_id=int(contract.conId),
        exchange=EXCHANGE,
        primary_exchange=contract.primaryExchange,
        currency=contract.currency,
        min_tick=tick,
        lot=max(lot, 1),
        time_zone=zone.key,
        liquid_hours=parse_hours(details.liquidHours, zone),
        has_close="MOC" in details.orderTypes.split(","),
    )


class Contracts:
    """What is known of symbols on one connection; asked for once, and again when told.

    Parameters
    ----------
    client : TwsClient
    """

    def __init__(self, client: TwsClient) -> None:
        self._client = client
        self._instruments: dict[str, Instrument] = {}
        self._symbols: dict[int, str] = {}

    def get(self, symbol: str) -> Instrument | None:
        """What was learned of a symbol."""
        return self._instruments.get(symbol)

    def symbol(self, contract: Any) -> str:
        """Symbol of a contract that TWS names, by its number where that is known.

        What is no stock gets a name that no stock has, and so does a listing elsewhere of a
        company that is traded here: its shares are others, at prices of another currency.
        """
        number = int(contract.conId)
        if contract.secType not in ("STK", ""):
            return f"{contract.secType}:{contract.localSymbol or contract.conId}"
        symbol = self._symbols.get(number) or from_tws(contract.symbol)
        foreign = contract.currency not in (CURRENCY, "")
        if number not in self._symbols and (foreign or symbol in self._symbols.values()):
            return f"STK:{symbol}:{contract.currency or 'unknown'}:{number}"
        return symbol

    def contract(self, symbol: str) -> Any:
        """The library's contract of a symbol.

        Raises
        ------
        DataError
            The symbol was not looked up before, or TWS does not know it.
        """
        instrument = self._instruments.get(symbol)
        if instrument is None or self._client.library is None:
            raise DataError(f"{symbol}: TWS was not asked about it or does not know it")
        return self._client.library.contract(
            secType="STK",
            conId=instrument.con_id,
            symbol=to_tws(symbol),
            exchange=instrument.exchange,
            primaryExchange=instrument.primary_exchange,
            currency=instrument.currency,
        )

    async def learn(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Ask about symbols; those that TWS does not know, or not clearly, are left out.

        Raises
        ------
        TransientError
            No answer.
        """
        found = await asyncio.gather(*(self._ask(symbol) for symbol in symbols))
        learned = {s: i for s, i in zip(symbols, found, strict=True) if i is not None}
        self._instruments |= learned
        self._symbols |= {i.con_id: s for s, i in learned.items()}
        return learned

    async def _ask(self, symbol: str) -> Instrument | None:
        library = self._client.library
        if library is None:
            raise TransientError("TWS: not connected")
        contract = library.contract(
            secType="STK", symbol=to_tws(symbol), exchange=EXCHANGE, currency=CURRENCY
        )
        try:
            answer = await self._client.ask(self._client.new_id(), "reqContractDetails", contract)
        except RequestFailed as e:
            if e.code != NO_CONTRACT:
                raise TransientError(f"{symbol}: {e.what}") from e
            _log.warning("%s is left out: TWS does not know it", symbol)
            return None
        return _choose(symbol, answer)


def _choose(symbol: str, answer: Sequence[Any]) -> Instrument | None:
    same = [d for d in answer if d.contract.symbol == to_tws(symbol)]
    same = [d for d in same if d.contract.currency == CURRENCY]
    if len({d.contract.conId for d in same}) != 1:
        _log.warning("%s is left out: TWS knows %d of that name", symbol, len(same))
        return None
    try:
        return read_instrument(same[0])
    except DataError as e:
        _log.warning("%s is left out: %s", symbol, e)
        return None
