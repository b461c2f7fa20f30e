"""What a session came to, in numbers. A number that was not measured is None, never a guess."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dpa.config import Settings
from dpa.trading.ledger import Fill
from dpa.trading.report.facts import Note, SessionFacts
from dpa.trading.types import Intent, Money, Order, Side

ZERO = Decimal(0)
BPS = 10_000
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Trade:
    """A position from flat to flat, or one that is still open.

    Parameters
    ----------
    symbol : str
    side : Side
        Of its entry.
    shares : Decimal
        Entered in all.
    opened : datetime
    closed : datetime, optional
        None: still open.
    entry, exit : Decimal, optional
        Average prices, USD; `exit` None before the first share left; `entry` None where it was
        entered before this journal began.
    fees : Decimal, optional
        USD; None where one is not known.
    realised : Decimal
        USD, before fees.
    """

    symbol: str
    side: Side
    shares: Decimal
    opened: datetime
    closed: datetime | None
    entry: Money | None
    exit: Money | None
    fees: Money | None
    realised: Money


@dataclass(frozen=True)
class NameResult:
    """What a name brought, USD.

    Parameters
    ----------
    symbol : str
    traded : Decimal
        Value of all fills.
    realised : Decimal
        Before fees.
    fees : Decimal, optional
        None where one is not known.
    unrealised : Decimal, optional
        Of what is held, against its average cost; None where no price is known.
    held : Decimal
        Shares in the end.
    """

    symbol: str
    traded: Money
    realised: Money
    fees: Money | None
    unrealised: Money | None
    held: Decimal


@dataclass(frozen=True)
class OrderCost:
    """What carrying out an intent cost beside what was expected, bps of the value filled.

    Parameters
    ----------
    intent : Intent
    filled : Decimal
        Shares.
    price : Decimal
        Average, USD.
    shortfall_bps : float
        How much worse than the mid at the decision, without fees (Perold 1988); below 0: better.
    fee_bps : float, optional
        None where a fee is not known.
    expected_bps : float, optional
        Of the cost model, commission included; None: not known.
    """

    intent: Intent
    filled: Decimal
    price: Money
    shortfall_bps: float
    fee_bps: float | None
    expected_bps: float | None

    @property
    def value(self) -> Money:
        """USD filled, at the mid of the decision."""
        return self.filled * self.intent.reference

    @property
    def total_bps(self) -> float | None:
        """Shortfall and fees."""
        return None if self.fee_bps is None else self.shortfall_bps + self.fee_bps


@dataclass(frozen=True)
class Costs:
    """Costs of a set of orders, weighted by the value filled; None where nothing is known.

    Parameters
    ----------
    orders : int
    value : Decimal
        USD filled.
    shortfall_bps, total_bps : float, optional
        Measured, without and with fees.
    expected_bps : float, optional
        Of the model.
    """

    orders: int
    value: Money
    shortfall_bps: float | None
    total_bps: float | None
    expected_bps: float | None


@dataclass(frozen=True)
class Nearness:
    """How near a limit came.

    Parameters
    ----------
    name : str
        Of the setting.
    most : float, optional
        The most there was; None: not measured.
    limit : float
    at : datetime, optional
        When.
    """

    name: str
    most: float | None
    limit: float
    at: datetime | None = None

    @property
    def share(self) -> float | None:
        """Of the limit."""
        return None if self.most is None else self.most / self.limit


@dataclass(frozen=True)
class SessionReport:
    """Everything a report shows; see :meth:`of`."""

    facts: SessionFacts
    trades: tuple[Trade, ...]
    names: tuple[NameResult, ...]
    costs: tuple[OrderCost, ...]
    limits: tuple[Nearness, ...]

    @classmethod
    def of(cls, facts: SessionFacts, settings: Settings) -> "SessionReport":
        """The report of a stretch of a journal.

        Parameters
        ----------
        facts : SessionFacts
        settings : Settings
            ``risk`` and ``trading`` tell the limits.
        """
        return cls(
            facts,
            tuple(_trades(facts)),
            tuple(_names(facts)),
            tuple(_costs(facts)),
            tuple(_limits(facts, settings)),
        )

    # money

    @property
    def values(self) -> tuple[Note, ...]:
        """What the account was worth, bar by bar."""
        return self.facts.of("valued")

    @property
    def nav(self) -> Money | None:
        """In the end, USD."""
        return Decimal(self.values[-1].facts["nav"]) if self.values else None

    @property
    def change(self) -> Money | None:
        """Of NAV since the close of the session before, USD."""
        nav = self.nav
        return None if nav is None else nav - Decimal(self.values[0].facts["prior_nav"])

    @property
    def realised(self) -> Money:
        """Profit of what was closed, USD, before fees."""
        return sum((name.realised for name in self.names), ZERO)

    @property
    def fees(self) -> Money | None:
        """USD; None where one is not known."""
        return _all_known(name.fees for name in self.names)

    @property
    def fees_pending(self) -> int:
        """Fills whose fee is not known."""
        return sum(fill.fee is None for fill in self.facts.fills)

    @property
    def unrealised(self) -> Money | None:
        """Of what is held, USD; None where a price is not known."""
        return _all_known(name.unrealised for name in self.names)

    # costs

    @property
    def measured(self) -> Costs:
        """Of all orders with a fill."""
        return _weighed(self.costs)

    @property
    def compared(self) -> Costs:
        """Of the orders of which fees and the model's estimate are known: like with like."""
        both = [c for c in self.costs if c.expected_bps is not None and c.fee_bps is not None]
        return _weighed(both)

    # what was not done

    @property
    def refusals(self) -> tuple[Note, ...]:
        """Intents that nothing was sent of, and why."""
        return self.facts.of("refusal")

    @property
    def refused(self) -> Counter[str]:
        """Refusals by kind."""
        return Counter(str(note.facts["code"]) for note in self.refusals)

    @property
    def left_out(self) -> Counter[str]:
        """Symbols of decisions that were not made intents, by why."""
        found: Counter[str] = Counter()
        for note in self.facts.of("left-out"):
            found[str(note.facts["why"])] += len(note.facts["symbols"])
        return found

    @property
    def outcomes(self) -> Counter[str]:
        """Newest attempts of intents by state."""
        newest: dict[str, Order] = {order.ref: order for order in self.facts.orders}
        return Counter(order.state.value for order in newest.values())

    @property
    def alerts(self) -> tuple[Note, ...]:
        """In order."""
        return self.facts.of("alert")

    # time

    @property
    def bound(self) -> Counter[str]:
        """Decisions by what was kept of them."""
        return Counter(str(note.facts["binds"]) for note in self.facts.of("decided"))

    @property
    def bars(self) -> int:
        """Bars taken."""
        return len(self.facts.of("bar"))

    @property
    def without_decision(self) -> int:
        """Bars for which the graph gave no answer."""
        return len({note.facts["time"] for note in self.facts.of("not-decided")})

    @property
    def link_share(self) -> float | None:
        """Share of the time from the first word on the link in which it was up."""
        words = self.facts.of("link")
        if not words:
            return None
        ends = [note.at for note in words[1:]] + [max(self.last_at, words[-1].at)]
        spans = [(end - note.at).total_seconds() for note, end in zip(words, ends, strict=True)]
        if not sum(spans):
            return None
        up = [span for note, span in zip(words, spans, strict=True) if note.facts["up"]]
        return sum(up) / sum(spans)

    @property
    def last_at(self) -> datetime:
        """The newest moment anything was kept of."""
        moments = [note.at for note in self.facts.notes]
        moments += [fill.execution.time for fill in self.facts.fills]
        return max(moments, default=self.facts.begun)

    @property
    def levels(self) -> tuple[Note, ...]:
        """Changes of the switch."""
        return self.facts.of("level")


def _all_known(values: Iterable[Money | None]) -> Money | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known, ZERO) if len(known) == len(found) else None


# trades


@dataclass
class _Open:
    """A trade that is being put together."""

    fills: list[Fill]
    sign: int
    complete: bool  # its beginning is known

    def trade(self, closed: datetime | None) -> Trade:
        first = self.fills[0].execution
        entries = [f for f in self.fills if f.execution.side.sign == self.sign]
        exits = [f for f in self.fills if f.execution.side.sign != self.sign]
        fees = _all_known(fill.fee for fill in self.fills)
        return Trade(
            first.symbol,
            Side.BUY if self.sign > 0 else Side.SELL,
            sum((f.execution.shares for f in entries), ZERO),
            first.time,
            closed,
            _average(entries) if self.complete else None,
            _average(exits),
            fees,
            sum((f.realised for f in self.fills), ZERO),
        )


def _average(fills: Sequence[Fill]) -> Money | None:
    shares = sum((f.execution.shares for f in fills), ZERO)
    value = sum((f.execution.shares * f.execution.price for f in fills), ZERO)
    return value / shares if shares else None


def _trades(facts: SessionFacts) -> Iterable[Trade]:
    """Positions that were open in the stretch, in the order in which they were opened."""
    found: list[Trade] = []
    open_now: dict[str, _Open] = {}
    for fill in (*facts.earlier, *facts.fills):
        execution = fill.execution
        signed = execution.side.sign * execution.shares
        before = fill.position - signed
        known = open_now.get(execution.symbol)
        if known is None:
            sign = _sign(before) or _sign(signed)
            known = open_now[execution.symbol] = _Open([], sign, before == 0)
        known.fills.append(fill)
        if fill.position == 0 or fill.position * known.sign < 0:
            del open_now[execution.symbol]
            if execution.time >= facts.begun:
                found.append(known.trade(execution.time))
            if fill.position:  # through zero: the rest begins another, of which less is known
                open_now[execution.symbol] = _Open([], -known.sign, False)
    for known in open_now.values():
        if known.fills:
            found.append(known.trade(None))
    return sorted(found, key=lambda trade: (trade.opened, trade.symbol))


def _sign(value: Decimal) -> int:
    return (value > 0) - (value < 0)


def _names(facts: SessionFacts) -> Iterable[NameResult]:
    symbols = {fill.execution.symbol for fill in facts.fills} | set(facts.positions)
    for symbol in sorted(symbols):
        fills = [fill for fill in facts.fills if fill.execution.symbol == symbol]
        position = facts.positions.get(symbol)
        held = ZERO if position is None else position.shares
        unrealised: Money | None = ZERO
        if position is not None and held:
            mark = facts.marks.get(symbol)
            unrealised = None if mark is None else held * (mark - position.average_cost)
        yield NameResult(
            symbol,
            sum((f.execution.shares * f.execution.price for f in fills), ZERO),
            sum((fill.realised for fill in fills), ZERO),
            _all_known(fill.fee for fill in fills),
            unrealised,
            held,
        )


# costs


def _costs(facts: SessionFacts) -> Iterable[OrderCost]:
    by_ref: dict[str, list[Fill]] = {}
    for fill in facts.fills:
        by_ref.setdefault(fill.execution.ref, []).append(fill)
    for intent in facts.intents:
        fills = [f for f in by_ref.get(intent.id, []) if f.execution.shares]
        price = _average(fills)
        if price is None or not intent.reference:  # closed without knowing a price
            continue
        shares = sum((f.execution.shares for f in fills), ZERO)
        worse = intent.side.sign * (price - intent.reference) / intent.reference
        fees = _all_known(fill.fee for fill in fills)
        expected = intent.expected_cost_bps
        yield OrderCost(
            intent,
            shares,
            price,
            float(worse) * BPS,
            None if fees is None else float(fees / (shares * intent.reference)) * BPS,
            expected if math.isfinite(expected) else None,
        )


def _weighed(costs: Sequence[OrderCost]) -> Costs:
    value = sum((cost.value for cost in costs), ZERO)

    def mean(of: Sequence[float | None]) -> float | None:
        known = [x for x in of if x is not None]
        if not value or len(known) < len(of):
            return None
        weights = [float(cost.value) for cost in costs]
        return sum(w * x for w, x in zip(weights, known, strict=True)) / float(value)

    return Costs(
        len(costs),
        value,
        mean([cost.shortfall_bps for cost in costs]),
        mean([cost.total_bps for cost in costs]),
        mean([cost.expected_bps for cost in costs]),
    )


# limits


def _limits(facts: SessionFacts, settings: Settings) -> Iterable[Nearness]:
    risk, trading = settings.risk, settings.trading
    values = facts.of("valued")
    for name, field, limit in (
        ("risk.max_gross", "gross", risk.max_gross),
        ("risk.max_net", "net", risk.max_net),
        ("risk.max_name_weight", "largest", risk.max_name_weight),
    ):
        found = [(abs(float(note.facts[field])), note.at) for note in values]
        yield _nearest(name, found, limit)
    losses = [
        (1 - float(Decimal(n.facts["nav"]) / Decimal(n.facts["prior_nav"])), n.at) for n in values
    ]
    yield _nearest("risk.daily_loss_limit", losses, risk.daily_loss_limit, 0.0)
    yield _nearest("risk.drawdown_limit", list(_falls(values)), risk.drawdown_limit, 0.0)
    adding = [intent for intent in facts.intents if intent.purpose.adds]
    sizes = [(float(i.shares * i.reference), i.decided_at) for i in adding]
    yield _nearest("risk.max_order_usd", sizes, risk.max_order_usd)
    yield _busiest(adding, risk.max_orders_per_minute)
    yield Nearness(
        "trading.most_orders_per_session", float(len(adding)), trading.most_orders_per_session
    )


def _falls(values: Sequence[Note]) -> Iterable[tuple[float, datetime]]:
    peak = -math.inf
    for note in values:
        nav = float(Decimal(note.facts["nav"]))
        peak = max(peak, nav)
        yield 1 - nav / peak, note.at


def _nearest(
    name: str,
    found: Sequence[tuple[float, datetime]],
    limit: float,
    least: float | None = None,
) -> Nearness:
    known = [pair for pair in found if math.isfinite(pair[0])]
    if not known:
        return Nearness(name, None, limit)
    most, at = max(known, key=lambda pair: pair[0])
    return Nearness(name, most if least is None else max(most, least), limit, at)


def _busiest(adding: Sequence[Intent], limit: int) -> Nearness:
    """Most intents that add risk in any 60 seconds."""
    moments = sorted(intent.decided_at for intent in adding)
    most, when, first = 0, None, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= MINUTE:
            first += 1
        if last - first + 1 > most:
            most, when = last - first + 1, moment
    return Nearness("risk.max_orders_per_minute", float(most), limit, when)


def plain(value: Any) -> Any:
    """`value` for JSON: money as text, moments in ISO."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
