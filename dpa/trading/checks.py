"""Pre-trade checks, the last thing before an order is sent. Pure: everything known comes in.

An intent *reduces* when it is against the position and no larger. A reduction passes every limit
on risk; it does not pass what would make it a mistake: a price that is no number, a halted switch,
an account or a symbol that is not ours to trade, shares that are no whole lots, a closed market,
an order already working. Reductions at the market need no quote, and a reference of 0 (not known)
will do, so that closing a position never waits for data. What the purpose says is not believed: an
exit larger than the position would open one the other way, and is refused.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from dpa.config import Settings
from dpa.trading.hours import speak_of
from dpa.trading.pricing import collar
from dpa.trading.switch import Level
from dpa.trading.types import Instrument, Intent, Money, Purpose, Quote, Side, Style

WEIGHT_SLACK = 1.1  # NAV and prices move between a decision and its check


class RefusalCode(StrEnum):
    """Why nothing was sent."""

    NOT_A_NUMBER = "not-a-number"
    ACCOUNT = "account"
    DUPLICATE = "duplicate"
    EXPIRED = "expired"
    LEVEL = "level"
    NOT_READY = "not-ready"
    SYMBOL_BUSY = "symbol-busy"
    INSTRUMENT = "instrument"
    LOT = "lot"
    SESSION = "session"
    NOT_REDUCING = "not-reducing"
    QUOTE = "quote"
    COLLAR = "collar"
    SHORT = "short"
    ORDER_VALUE = "order-value"
    WEIGHT = "weight"
    RATE = "rate"
    WORKING = "working"
    MARGIN = "margin"
    QUEUE = "queue"


@dataclass(frozen=True)
class Refusal:
    """An intent that was not sent, why, and what would help.

    Parameters
    ----------
    intent : Intent
    code : RefusalCode
    what, cure : str
    """

    intent: Intent
    code: RefusalCode
    what: str
    cure: str = ""


@dataclass(frozen=True)
class Situation:
    """All that checks look at besides the intent.

    Parameters
    ----------
    now : datetime
    level : Level
        Of the switch.
    ready : bool
        The broker is connected and reconciled.
    account : str
    positions : mapping of str to Decimal
        Shares by symbol, from the ledger.
    busy : collection of str
        Symbols with an order that may fill.
    working : int
        How many orders that is.
    known : collection of str
        Ids of intents there were before.
    instruments : mapping of str to Instrument
    quotes : mapping of str to Quote
    added_lately, added_in_session : int
        Orders that added risk: in the last 60 seconds, and in the session.
    nav : Decimal, optional
        USD, as the broker said last; none: not said, and no risk is added.
    """

    now: datetime
    level: Level
    ready: bool
    account: str
    positions: Mapping[str, Decimal]
    busy: Collection[str]
    working: int
    known: Collection[str]
    instruments: Mapping[str, Instrument]
    quotes: Mapping[str, Quote]
    added_lately: int = 0
    added_in_session: int = 0
    nav: Money | None = None


@dataclass
class Exposure:
    """What is held once all that works and all that was let through is filled.

    Parameters
    ----------
    shares : dict of str to Decimal
        Signed, by symbol.
    prices : mapping of str to Decimal
        USD a share.
    """

    shares: dict[str, Decimal]
    prices: dict[str, Money] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gross = sum((abs(self.value(s)) for s in self.shares), Decimal(0))
        self.net = sum((self.value(s) for s in self.shares), Decimal(0))

    def value(self, symbol: str) -> Money:
        """Signed value of a symbol, USD; 0 without a price."""
        return self.shares.get(symbol, Decimal(0)) * self.prices.get(symbol, Decimal(0))

    def with_(self, intent: Intent) -> tuple[Money, Money, Money]:
        """Return gross, net and the symbol's value, USD, with an intent filled too."""
        price = self.prices.get(intent.symbol, intent.reference)
        held = self.shares.get(intent.symbol, Decimal(0))
        before, after = held * price, (held + intent.signed_shares) * price
        return self.gross + abs(after) - abs(before), self.net + after - before, after

    def add(self, intent: Intent) -> None:
        """Count an intent that was let through."""
        self.prices.setdefault(intent.symbol, intent.reference)
        self.gross, self.net, _ = self.with_(intent)
        held = self.shares.get(intent.symbol, Decimal(0))
        self.shares[intent.symbol] = held + intent.signed_shares


def reduces(intent: Intent, position: Decimal) -> bool:
    """Whether an intent is against a position and no larger."""
    return position * intent.side.sign < 0 and intent.shares <= abs(position)


def check(
    intent: Intent, situation: Situation, settings: Settings, exposure: Exposure | None = None
) -> Refusal | None:
    """Return why an intent may not be sent now; None when it may.

    Parameters
    ----------
    intent : Intent
    situation : Situation
    settings : Settings
        ``trading`` and ``risk`` of it.
    exposure : Exposure, optional
        Without one, weights are not looked at.
    """
    position = situation.positions.get(intent.symbol, Decimal(0))
    reducing = reduces(intent, position)
    found = _for_all(intent, situation, reducing, position)
    if found is None and not reducing:
        found = _for_risk(intent, situation, settings)
        if found is None and exposure is not None:
            found = _weights(intent, situation.nav, settings, exposure)
    return found or _price(intent, situation, settings, reducing)


def _for_all(
    intent: Intent, situation: Situation, reducing: bool, position: Decimal
) -> Refusal | None:
    def no(code: RefusalCode, what: str, cure: str = "") -> Refusal:
        return Refusal(intent, code, f"{intent.symbol}: {what}", cure)

    if not _numbers(intent, reducing):
        what = f"reference {intent.reference} or limit {intent.limit} is not a price above 0"
        return no(RefusalCode.NOT_A_NUMBER, what)
    if intent.shares != int(intent.shares) or intent.shares <= 0:
        return no(RefusalCode.LOT, f"{intent.shares} shares", "trade whole shares above 0")
    if intent.account != situation.account:
        what = f"intended for account {intent.account!r}, and {situation.account!r} is traded"
        return no(RefusalCode.ACCOUNT, what)
    if intent.id in situation.known:
        return no(RefusalCode.DUPLICATE, f"intent {intent.id} is known already")
    if situation.now >= intent.expires_at:
        return no(RefusalCode.EXPIRED, f"it expired at {intent.expires_at.isoformat()}")
    if situation.level >= Level.HALTED:
        return no(RefusalCode.LEVEL, "trading is halted", "look why, then resume")
    if not situation.ready:
        what = "the broker is away or not reconciled with the ledger"
        return no(RefusalCode.NOT_READY, what)
    if intent.symbol in situation.busy:
        return no(RefusalCode.SYMBOL_BUSY, "it has a live order")
    instrument = situation.instruments.get(intent.symbol)
    if instrument is None:
        return no(RefusalCode.INSTRUMENT, "the broker does not know it")
    if intent.shares % instrument.lot and abs(position) != intent.shares:
        what = f"{intent.shares} shares are no multiple of the lot, {instrument.lot}"
        return no(RefusalCode.LOT, what)
    if not in_session(instrument, situation.now):
        return no(RefusalCode.SESSION, "its market is closed")
    if intent.style is Style.CLOSE and not instrument.has_close:
        return no(RefusalCode.INSTRUMENT, "its venue has no closing auction", "trade at the market")
    if not reducing and not intent.purpose.adds and intent.purpose is not Purpose.MANUAL:
        what = f"{intent.side} {intent.shares} to {intent.purpose} does not reduce {position}"
        return no(RefusalCode.NOT_REDUCING, what)
    return None


def _for_risk(intent: Intent, situation: Situation, settings: Settings) -> Refusal | None:
    def no(code: RefusalCode, what: str, cure: str = "") -> Refusal:
        return Refusal(intent, code, f"{intent.symbol}: {what}", cure)

    risk, trading = settings.risk, settings.trading
    if situation.level >= Level.PAUSED:
        return no(RefusalCode.LEVEL, f"trading is {situation.level.name.lower()}: no new risk")
    value = intent.shares * intent.reference
    if value > Decimal(str(risk.max_order_usd)):
        what = f"{value:.0f} USD are above risk.max_order_usd, {risk.max_order_usd:g}"
        return no(RefusalCode.ORDER_VALUE, what)
    if situation.added_lately >= risk.max_orders_per_minute:
        what = f"{situation.added_lately} orders that add risk in a minute"
        return no(RefusalCode.RATE, what, "risk.max_orders_per_minute is the limit")
    if situation.added_in_session >= trading.most_orders_per_session:
        what = f"{situation.added_in_session} orders that add risk in this session"
        return no(RefusalCode.RATE, what, "trading.most_orders_per_session is the limit")
    if situation.working >= trading.most_working:
        what = f"{situation.working} orders are at the broker"
        return no(RefusalCode.WORKING, what, "trading.most_working is the limit")
    quote = situation.quotes.get(intent.symbol)
    position = situation.positions.get(intent.symbol, Decimal(0))
    if quote is not None and not quote.shortable and position + intent.signed_shares < 0:
        return no(RefusalCode.SHORT, "no shares can be borrowed")
    return None


def _weights(
    intent: Intent, nav: Money | None, settings: Settings, exposure: Exposure
) -> Refusal | None:
    risk = settings.risk
    if nav is None:
        what = f"{intent.symbol}: the NAV is not known, so no weight is"
        cure = "wait until the broker tells it; reductions pass"
        return Refusal(intent, RefusalCode.NOT_A_NUMBER, what, cure)
    if not nav.is_finite() or nav <= 0:
        what = f"{intent.symbol}: the NAV is {nav}"
        return Refusal(intent, RefusalCode.NOT_A_NUMBER, what)
    before_gross, before_net = exposure.gross, exposure.net
    gross, net, name = exposure.with_(intent)
    for what, value, before, limit in (
        ("max_name_weight", abs(name), Decimal(0), risk.max_name_weight),
        ("max_gross", gross, before_gross, risk.max_gross),
        ("max_net", abs(net), abs(before_net), risk.max_net),
    ):
        if value > before and float(value / nav) > limit * WEIGHT_SLACK:
            said = (
                f"{intent.symbol}: {float(value / nav):.3f} of NAV is above risk.{what}, {limit:g}"
            )
            return Refusal(intent, RefusalCode.WEIGHT, said)
    return None


def _price(
    intent: Intent, situation: Situation, settings: Settings, reducing: bool
) -> Refusal | None:
    def no(code: RefusalCode, what: str) -> Refusal:
        return Refusal(intent, code, f"{intent.symbol}: {what}")

    quote = situation.quotes.get(intent.symbol)
    at_market = intent.style in (Style.MARKET, Style.CLOSE)
    if quote is not None and quote.halted:
        return no(RefusalCode.QUOTE, "it is halted")
    if not (reducing and (at_market or intent.style is Style.LIMIT)):
        seconds = settings.trading.quote_seconds
        if quote is None:
            return no(RefusalCode.QUOTE, "no quote")
        if not quote.sound:
            return no(RefusalCode.QUOTE, f"its quote is unsound: {quote.bid} to {quote.ask}")
        if not fresh(quote, situation.now, seconds):
            return no(RefusalCode.QUOTE, f"its quote of {quote.time.isoformat()} is too old")
    bps = settings.trading.collar_bps
    bound = collar(intent.reference, intent.side, bps)
    if intent.limit is not None and (intent.limit - bound) * intent.side.sign > 0:
        return no(RefusalCode.COLLAR, f"limit {intent.limit} is beyond the collar, {bound:.4f}")
    if not reducing and quote is not None and quote.bid is not None and quote.ask is not None:
        near = quote.bid if intent.side is Side.BUY else quote.ask
        far = quote.ask if intent.side is Side.BUY else quote.bid
        met = far if at_market else near
        if (met - bound) * intent.side.sign > 0:
            return no(RefusalCode.COLLAR, f"the market at {met} is beyond the collar, {bound:.4f}")
    return None


def fresh(quote: Quote, now: datetime, seconds: float) -> bool:
    """Whether a quote is no older than `seconds`."""
    return now - quote.time <= timedelta(seconds=seconds)


def in_session(instrument: Instrument, now: datetime) -> bool:
    """Whether its market is open; True where the broker tells no hours, or old ones only.

    What a broker tells is of a few days; where it does not cover the moment the engine's calendar
    decides.
    """
    hours = instrument.liquid_hours
    return any(begin <= now < end for begin, end in hours) or not speak_of(hours, now)


def reductions_first(intents: Iterable[Intent], positions: Mapping[str, Decimal]) -> list[Intent]:
    """Return intents, those that reduce first, otherwise in the order given."""
    return sorted(intents, key=lambda i: not reduces(i, positions.get(i.symbol, Decimal(0))))


def _numbers(intent: Intent, reducing: bool) -> bool:
    prices = [intent.reference] if intent.limit is None else [intent.reference, intent.limit]
    if reducing and intent.style is Style.MARKET and intent.reference == 0:
        prices.remove(intent.reference)
    return all(p.is_finite() and p > 0 for p in prices) and math.isfinite(intent.shares)
