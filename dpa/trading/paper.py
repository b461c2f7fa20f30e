"""A broker made up here: fills from quotes, with the cost model that backtests use.

What a fill costs:

- *Spread.* Orders that take liquidity cross the quote: purchases pay the ask, sales get the bid.
  The half-spread of the cost model is not charged on top; the quote has it.
- *Impact.* Every fill pays :meth:`~dpa.market.costs.CostModel.impact`, USD: ``k * sigma_day *
  sqrt(value / ADV)`` of the value, where the volatility and the average daily value of the symbol
  are known, and for what was filled of the order before and now together, so that an order pays
  for its whole size in however many fills. The price moves away by it as far as the limit allows;
  what the limit keeps out of the price is charged with the commission. So an adaptive order, whose
  last limit is the far side, is no cheaper here than in the model.
- *Commission.* :meth:`~dpa.market.costs.CostModel.commission` of the value filled, USD, rounded to
  a hundredth of a cent.
- *Size.* No more is filled than the quote shows, each quote once; a size of 0 was not told, and
  limits nothing. What is left waits for the next quote.

A limit that waited in the market is filled at the limit once the other side reaches it: it saves
the spread, and not the impact. Borrow
fees are not charged. Everything is a function of the orders and the quotes: no chance, no clock
but the one handed in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from dpa.clock import Clock
from dpa.errors import HaltError, TransientError
from dpa.market.costs import CostModel
from dpa.trading.broker import (
    Account,
    BrokerEvent,
    BrokerSnapshot,
    LinkChanged,
    Margin,
    Notice,
    OrderSaid,
    always,
)
from dpa.trading.checks import in_session
from dpa.trading.paper_book import PaperBook, PaperOrder
from dpa.trading.pricing import on_tick
from dpa.trading.types import Instrument, Money, Order, OrderState, Position, Quote, Side, Style

LOCATE = "locate"
INITIAL, MAINTENANCE = Decimal("0.5"), Decimal("0.25")  # of gross value, as Regulation T has it
KEPT = timedelta(days=1)  # ended orders and fills are told for so long, as brokers do
AUCTION_SEEN = timedelta(minutes=15)  # after the close; later quotes are of another session
CENTS = Decimal("0.0001")
UNKNOWN_SYMBOL, REFUSED, WRONG_TICK, DUPLICATE_ID = 200, 201, 110, 103
NOT_FOUND, NOT_CANCELLABLE = 10147, 161


@dataclass(frozen=True)
class Liquidity:
    """What impact depends on.

    Parameters
    ----------
    sigma_day : float
        Standard deviation of the daily return, fraction.
    adv_usd : float
        Average daily traded value, USD.
    """

    sigma_day: float
    adv_usd: float


@dataclass
class _Offer:
    """What a quote still has to give, shares; None: not limited."""

    quote: Quote
    bid_left: int | None
    ask_left: int | None

    @classmethod
    def of(cls, quote: Quote) -> "_Offer":
        return cls(quote, quote.bid_size or None, quote.ask_size or None)

    def left(self, side: Side) -> int | None:
        """Shares a purchase or a sale can take."""
        return self.ask_left if side is Side.BUY else self.bid_left

    def take(self, side: Side, shares: int) -> None:
        """Count shares as taken."""
        if side is Side.BUY and self.ask_left is not None:
            self.ask_left -= shares
        elif side is Side.SELL and self.bid_left is not None:
            self.bid_left -= shares


class PaperBroker:
    """An account of paper money; see the module for what fills cost.

    Parameters
    ----------
    path : Path
        Its file; the account lives on in it, whatever becomes of the trader.
    clock : Clock
    costs : CostModel
    instruments : mapping of str to Instrument
        What is listed; orders in anything else are refused.
    cash : Decimal
        USD a new account begins with.
    account : str
    liquidity : mapping of str to Liquidity, optional
        By symbol; those that are not in it have no impact.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        costs: CostModel,
        instruments: Mapping[str, Instrument],
        cash: Money = Decimal(1_000_000),
        account: str = "PAPER",
        liquidity: Mapping[str, Liquidity] | None = None,
    ) -> None:
        self._clock, self._costs, self._listed = clock, costs, instruments
        self.liquidity = dict(liquidity or {})
        self._book = PaperBook(path, account, cash)
        self._offers: dict[str, _Offer] = {}
        self._handlers: list[Callable[[BrokerEvent], None]] = []
        self._events: list[BrokerEvent] = []
        self._connected = False
        self._above = 0

    @property
    def name(self) -> str:
        """Always ``paper``."""
        return "paper"

    @property
    def account(self) -> str:
        """The account traded."""
        return self._book.account

    @property
    def connected(self) -> bool:
        """Whether orders can be sent now."""
        return self._connected

    @property
    def next_order_id(self) -> int:
        """Lowest number taken for a new order."""
        return max(self._book.next_order_id, self._above + 1)

    @property
    def book(self) -> PaperBook:
        """What it keeps; to be read only."""
        return self._book

    def listen(self, handler: Callable[[BrokerEvent], None]) -> None:
        """Call `handler` with every event from now on."""
        self._handlers.append(handler)

    async def connect(self, order_id_above: int = 0) -> None:
        """Open for business."""
        self._above = max(self._above, order_id_above)
        self._book.refresh()
        self._connected = True
        self._tell(LinkChanged(True, "connected"))

    async def close(self) -> None:
        """Close the file; orders stay in it."""
        self._connected = False
        self._book.close()

    async def alive(self, timeout_seconds: float) -> bool:
        """Whether it is open."""
        return self._connected

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """What is listed of `symbols`."""
        return {symbol: self._listed[symbol] for symbol in symbols if symbol in self._listed}

    def _tell(self, *events: BrokerEvent) -> None:
        for event in events:
            for handler in self._handlers:
                handler(event)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep all changes made within together, then tell of them."""
        self._events = []
        with self._book.transaction():
            yield
        events, self._events = tuple(self._events), []
        self._tell(*events)

    def _said(self, order: PaperOrder) -> OrderSaid:
        return OrderSaid(
            ref=order.ref,
            order_id=order.order_id,
            client_id=0,
            perm_id=order.perm_id,
            account=self.account,
            symbol=order.symbol,
            state=order.state,
            filled=Decimal(order.filled),
            remaining=Decimal(order.left),
            why_held=order.why_held,
            code=order.code,
            message=order.reason,
        )

    async def snapshot(self) -> BrokerSnapshot:
        """Everything; always complete."""
        self._see_others()
        now = self._clock.now()
        recent = [o for o in self._book.orders if o.ended_at and now - o.ended_at < KEPT]
        fills = [f for f in self._book.fills if now - f[0].time < KEPT]
        return BrokerSnapshot(
            time=now,
            complete=True,
            missing=(),
            positions=tuple(
                Position(self.account, symbol, held.shares, held.cost)
                for symbol, held in sorted(self._book.holdings.items())
            ),
            open_orders=tuple(self._said(o) for o in self._book.working),
            completed_orders=tuple(self._said(o) for o in recent),
            executions=tuple(execution for execution, _ in fills),
            commissions=tuple(commission for _, commission in fills),
            account=Account(self.account, self._values()[1], self._book.cash, self._buying_power()),
        )

    def _see_others(self) -> None:
        """Tell what another process did in the account."""
        known = len(self._book.fills)
        changed = self._book.refresh()
        for execution, commission in self._book.fills[known:]:
            self._tell(execution, commission)
        self._tell(*(self._said(order) for order in changed))

    def _mark(self, symbol: str) -> Money:
        offer = self._offers.get(symbol)
        price = None if offer is None else offer.quote.mid or offer.quote.last
        return price or self._book.holding(symbol).cost

    def _values(self) -> tuple[Money, Money]:
        """Gross value of what is held, and NAV; USD."""
        gross, net = Decimal(0), self._book.cash
        for symbol, held in self._book.holdings.items():
            value = held.shares * self._mark(symbol)
            gross, net = gross + abs(value), net + value
        return gross, net

    def _more(self, symbol: str, signed: Decimal) -> Money:
        """What a trade would add to the gross value; USD."""
        held = self._book.shares(symbol)
        return (abs(held + signed) - abs(held)) * self._mark(symbol)

    def _buying_power(self) -> Money:
        gross, nav = self._values()
        return max(nav - INITIAL * gross, Decimal(0)) / INITIAL

    async def what_if(self, order: Order) -> Margin:
        """Ask what an order would do to margins: half and a quarter of gross value."""
        self._open()
        intent = order.intent
        gross, nav = self._values()
        gross += self._more(intent.symbol, Decimal(intent.signed_shares))
        value = float(intent.shares * (self._mark(intent.symbol) or intent.reference))
        return Margin(
            initial=gross * INITIAL,
            maintenance=gross * MAINTENANCE,
            equity=nav,
            commission=_cents(self._costs.commission(value)),
        )

    def _open(self) -> None:
        if not self._connected:
            raise TransientError("the paper broker is not open; nothing was sent")

    async def place(self, order: Order, still: Callable[[], bool] = always) -> None:
        """Take an order, or refuse it; fill what the quote gives."""
        self._open()
        if order.intent.account != self.account:
            raise HaltError(f"{order.ref}: for account {order.intent.account}, not {self.account}")
        self._see_others()
        with self._changing():
            self._ask(still, order)
            self._place(order)

    def _ask(self, still: Callable[[], bool], order: Order) -> None:
        if not still():
            raise TransientError(f"{order.ref}: it may be sent no more; nothing was sent")

    def _place(self, order: Order) -> None:
        if order.order_id < self.next_order_id and self._book.order(order.order_id):
            self._events.append(Notice(DUPLICATE_ID, "duplicate order id", order.order_id))
            return
        taken = self._taken(order)
        refusal = self._refuses(taken)
        if refusal is not None:
            code, reason = refusal
            taken = replace(
                taken,
                state=OrderState.REJECTED,
                code=code,
                reason=reason,
                ended_at=self._clock.now(),
            )
            self._book.keep(taken)
            self._events += [Notice(code, reason, taken.order_id), self._said(taken)]
            return
        self._book.keep(taken)
        self._events.append(self._said(taken))
        self._match(taken, fresh=True)

    def _taken(self, order: Order) -> PaperOrder:
        intent, now = order.intent, self._clock.now()
        instrument = self._listed.get(intent.symbol)
        hours = () if instrument is None else instrument.liquid_hours
        return PaperOrder(
            order_id=order.order_id,
            perm_id=1_000_000_000 + order.order_id,
            ref=order.ref,
            symbol=intent.symbol,
            side=intent.side,
            style=intent.style,
            shares=intent.shares,
            limit=order.limit,
            state=OrderState.WORKING,
            placed_at=now,
            ends_at=min((end for _, end in hours if end > now), default=None),
            why_held=self._held(intent.symbol, intent.side, intent.shares),
        )

    def _held(self, symbol: str, side: Side, shares: int) -> str:
        """Return why an order is not worked: shares that cannot be borrowed."""
        offer = self._offers.get(symbol)
        short = side is Side.SELL and self._book.shares(symbol) < shares
        return LOCATE if short and offer is not None and not offer.quote.shortable else ""

    def _refuses(self, order: PaperOrder) -> tuple[int, str] | None:
        instrument = self._listed.get(order.symbol)
        if instrument is None:
            return UNKNOWN_SYMBOL, f"{order.symbol}: no such symbol"
        if order.shares <= 0 or (
            order.shares % instrument.lot and order.shares != abs(self._book.shares(order.symbol))
        ):
            return REFUSED, f"{order.shares} shares are no multiple of the lot, {instrument.lot}"
        if order.style in (Style.LIMIT, Style.ADAPTIVE) and order.limit is None:
            return REFUSED, "a limit order without a limit"
        if order.limit is not None and not on_tick(order.limit, instrument.min_tick):
            return WRONG_TICK, f"{order.limit} is no multiple of {instrument.min_tick}"
        if order.style is Style.CLOSE and (order.ends_at is None or not instrument.has_close):
            return REFUSED, "no closing auction is known"
        more = self._more(order.symbol, Decimal(order.side.sign * order.shares))
        if more <= 0:
            return None
        gross, nav = self._values()
        if (gross + more) * INITIAL > nav:
            return REFUSED, f"initial margin {(gross + more) * INITIAL:.2f} is above equity"
        return None

    async def modify(
        self, order: Order, limit: Decimal, still: Callable[[], bool] = always
    ) -> None:
        """Change the limit of a working order."""
        self._open()
        self._see_others()
        with self._changing():
            self._ask(still, order)
            self._modify(order, limit)

    def _modify(self, order: Order, limit: Decimal) -> None:
        kept = self._book.order(order.order_id)
        if kept is None or kept.state is not OrderState.WORKING:
            words = "cannot modify an order that has ended"
            self._events.append(Notice(104, words, order.order_id))
        elif not on_tick(limit, self._listed[kept.symbol].min_tick):
            words = f"{limit} is not on the tick"
            self._events.append(Notice(WRONG_TICK, words, order.order_id))
        else:
            self._match(self._book.keep(replace(kept, limit=limit)), fresh=True)

    async def cancel(self, order: Order) -> None:
        """End a working order."""
        self._open()
        self._see_others()
        kept = self._book.order(order.order_id)
        if kept is None:
            self._tell(Notice(NOT_FOUND, "order to cancel is not found", order.order_id))
        elif kept.state is not OrderState.WORKING:
            self._tell(Notice(NOT_CANCELLABLE, f"order is {kept.state}", order.order_id))
        else:
            with self._changing():
                self._end(kept, "cancelled")

    async def cancel_all(self) -> None:
        """End all working orders."""
        self._open()
        self._see_others()
        with self._changing():
            for order in self._book.working:
                self._end(order, "cancelled with all others")

    def _end(self, order: PaperOrder, why: str) -> None:
        ended = replace(
            order, state=OrderState.CANCELLED, reason=why, ended_at=self._clock.now(), why_held=""
        )
        self._events.append(self._said(self._book.keep(ended)))

    def on_quotes(self, quotes: Mapping[str, Quote], now: datetime) -> None:
        """Work orders against the newest quotes.

        Parameters
        ----------
        quotes : mapping of str to Quote
            One that was seen before gives nothing a second time.
        now : datetime
        """
        self._see_others()
        for symbol, quote in quotes.items():
            offer = self._offers.get(symbol)
            if offer is None or offer.quote != quote:
                self._offers[symbol] = _Offer.of(quote)
        if not self._book.working:
            return
        with self._changing():
            for order in self._book.working:
                self._work(order, now)

    def _work(self, order: PaperOrder, now: datetime) -> None:
        over = order.ends_at is not None and now >= order.ends_at
        if over and order.style is Style.CLOSE:
            self._auction(order, now)
        elif over:
            self._end(order, "the session is over")
        else:
            held = self._held(order.symbol, order.side, order.left)
            if held != order.why_held:
                order = self._book.keep(replace(order, why_held=held))
                self._events.append(self._said(order))
            self._match(order, fresh=False)

    def _auction(self, order: PaperOrder, now: datetime) -> None:
        """Fill at the price of the close; where nobody was there to see it, at none."""
        offer = self._offers.get(order.symbol)
        price = None if offer is None else offer.quote.last or offer.quote.mid
        if order.ends_at is not None and now - order.ends_at > AUCTION_SEEN:
            price = None
        if price is None:
            self._end(order, "the session is over, and nothing was traded")
        else:
            self._fill(order, order.left, price, self._impact(order, order.left, price))

    def _match(self, order: PaperOrder, fresh: bool) -> None:
        """Fill what the quote gives; `fresh`: the order has only now come to this limit."""
        offer = self._offers.get(order.symbol)
        instrument = self._listed[order.symbol]
        if offer is None or not offer.quote.sound or order.style is Style.CLOSE or order.why_held:
            return
        if not in_session(instrument, self._clock.now()):
            return
        touch = offer.quote.ask if order.side is Side.BUY else offer.quote.bid
        left = offer.left(order.side)
        shares = order.left if left is None else min(order.left, left)
        if touch is None or shares <= 0:
            return
        sign, rests = order.side.sign, not fresh
        if order.limit is not None and (touch - order.limit) * sign > 0:
            return
        price = order.limit if rests and order.limit is not None else touch
        offer.take(order.side, shares)
        self._fill(order, shares, price, self._impact(order, shares, touch))

    def _impact(self, order: PaperOrder, shares: int, price: Money) -> Money:
        """Return what filling so many more shares costs beyond the price, USD."""
        known = self.liquidity.get(order.symbol)
        if known is None or not known.adv_usd > 0 or not known.sigma_day > 0:
            return Decimal(0)
        nav = self._costs.config.nav_usd
        before, after = (
            self._costs.impact(float(n * price) / nav, known.sigma_day, known.adv_usd) * nav
            for n in (order.filled, order.filled + shares)
        )
        return _cents(after - before)

    def _fill(self, order: PaperOrder, shares: int, price: Money, impact: Money) -> None:
        """Book a fill at `price` moved away by `impact`, as far as the limit allows."""
        moved = price + order.side.sign * _cents(float(impact / shares))
        fee = _cents(self._costs.commission(float(shares * price)))
        if order.limit is not None and (moved - order.limit) * order.side.sign > 0:
            fee += _cents(float(impact - shares * abs(order.limit - price)))
            moved = order.limit
        after, execution, commission = self._book.fill(order, shares, moved, fee, self._clock.now())
        self._events += [execution, commission, self._said(after)]


def _cents(amount: float) -> Money:
    return Decimal(repr(float(amount))).quantize(CENTS)
