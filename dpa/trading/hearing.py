"""What a broker says, made facts of the journal.

Events are taken in where the broker tells them and never wait there; they are worked through, in
their order and in one transaction, when the dealer next does anything. What a crash loses of them
the broker tells again when it is asked for everything.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal

from dpa.clock import Clock
from dpa.telemetry.ids import about
from dpa.trading import lifecycle
from dpa.trading.broker import BrokerEvent, LinkChanged, Notice, OrderSaid
from dpa.trading.events import Alert, Charged, Event, Filled, LinkWent, Severity
from dpa.trading.identity import is_ours
from dpa.trading.journal import Journal
from dpa.trading.live_orders import LiveOrders
from dpa.trading.reconcile import same_attempt
from dpa.trading.types import Commission, Execution, Order, OrderState

log = logging.getLogger("dpa.trading")

LINK_LOST = frozenset({1100, 2110})
LINK_BACK = frozenset({1101, 1102})
READ_ONLY = 321
REFUSED = 900_001  # a broker's own: the address or the account may not be traded
UNREADABLE = 900_002  # a broker's own: a message could not be read, or a listener failed
REJECTIONS = frozenset({110, 200, 201, 203, 321, 460, 10289})
DUPLICATE_ID = 103
WARNINGS = range(2100, 2200)
TELLS_NOTHING = frozenset({202, 399, 404, 10349})  # the order's own state says it, or nothing is


class Hearing:
    """Takes in a broker's events.

    Parameters
    ----------
    journal : Journal
    live : LiveOrders
    clock : Clock
    publish : callable
    halt, pause : callable
        Called with the reason.
    rejects_to_halt : int

    Attributes
    ----------
    linked : bool
        What the broker last said of its connection; changed at once, so that nothing is sent.
    overfilled : set of str
        Refs of orders with more fills than shares, by what was told so far.
    ask : bool
        Something was said that only the broker's own lists can decide.
    stale : bool
        The connection was lost since the last reconciliation.
    """

    def __init__(
        self,
        journal: Journal,
        live: LiveOrders,
        clock: Clock,
        publish: Callable[[Event], None],
        halt: Callable[[str], None],
        pause: Callable[[str], None],
        rejects_to_halt: int,
    ) -> None:
        self._journal, self._live, self._clock = journal, live, clock
        self._publish, self._halt, self._pause = publish, halt, pause
        self._rejects_to_halt = rejects_to_halt
        self._inbox: deque[BrokerEvent] = deque()
        self._in_a_row = 0
        self._strangers: set[tuple[int, int, str]] = set()
        self._refused: dict[str, Notice] = {}
        self._answered: set[str] = set()
        self._withheld: dict[str, OrderSaid] = {}
        self._booked: set[Execution | Commission] = set()
        self.account = ""
        self.overfilled: set[str] = set()
        self.linked = True
        self.ask = False
        self.stale = False

    def hear(self, event: BrokerEvent) -> None:
        """Take an event in; returns at once."""
        match event:
            case LinkChanged(up=up):
                self._link(up)
            case Notice(code=code) if code in LINK_LOST:
                self._link(False)
            case Notice(code=code) if code in LINK_BACK:
                self._link(True)
            case _:
                pass
        self._inbox.append(event)

    def _link(self, up: bool) -> None:
        self.linked = up
        self.stale = True

    def work(self) -> None:
        """Work through all that was taken in.

        An event that cannot be worked through halts trading, with the reason; the others still
        count.
        """
        if not self._inbox:
            return
        events = tuple(self._inbox)
        self._inbox.clear()
        try:
            with self._journal.transaction():
                for event in events:
                    self._make_fact(event)
        except Exception:  # nothing of them is on the disk: each by itself, then
            log.exception("events of the broker")
            self.forget_unkept()
            for event in events:
                self._alone(event)

    def _alone(self, event: BrokerEvent) -> None:
        try:
            with self._journal.transaction():
                self._make_fact(event)
        except Exception as e:  # surfaced below: trading halts
            log.exception("event of the broker: %r", event)
            self.forget_unkept()
            self._halt(f"an event of the broker could not be booked: {event!r}: {e!r}")

    def forget_unkept(self) -> None:
        """Believe the journal only: something was not written that was held to be."""
        self._live.load()
        self._booked.clear()
        self.ask = self.ask or bool(self._withheld)  # whose words are told again, then
        self._withheld.clear()

    def _make_fact(self, event: BrokerEvent) -> None:
        ref, number = getattr(event, "ref", None), getattr(event, "order_id", None)
        with about(intent_id=ref, order_id=number or None):
            self._note_fact(event)

    def _note_fact(self, event: BrokerEvent) -> None:
        match event:
            case OrderSaid():
                self._said(event)
            case Execution():
                self.executed(event)
            case Commission():
                self.charged(event)
            case Notice():
                self._noticed(event)
            case LinkChanged():
                self._publish(LinkWent(self._clock.now(), event.up, event.why))
                self._journal.note("link", {"up": event.up, "why": event.why})

    def refusal(self, ref: str) -> Notice | None:
        """What the broker said when it refused an order, where only a notice told it."""
        return self._refused.get(ref)

    def answered(self, ref: str) -> bool:
        """Whether the broker has spoken of an order in a notice: it has seen it, then."""
        return ref in self._refused or ref in self._answered

    def forget(self, ref: str) -> None:
        """Another attempt begins."""
        self._refused.pop(ref, None)
        self._withheld.pop(ref, None)
        self._answered.discard(ref)

    def _said(self, word: OrderSaid) -> None:
        if word.account and word.account != self.account:
            return
        order = self._live.find(word.ref) if is_ours(word.ref) else None
        if order is None:
            self.stranger(word)
        elif not same_attempt(order, word):
            self._of_another_attempt(order, word)
        else:
            self.told(order, word)

    def told(self, order: Order, word: OrderSaid) -> None:
        """Make of an order what a word says; ask for the broker's lists where it is a guess."""
        self._live.heard(order.ref)
        if lifecycle.is_hint(word) or (word.state.is_final and order.state is OrderState.PLANNED):
            self.ask = True
            word = replace(word, state=OrderState.UNKNOWN)
        if word.state.is_final and self._owes(order, word):
            self._withheld[order.ref] = word
            word = replace(word, state=OrderState.WORKING)
        moved = lifecycle.told(order, replace(word, filled=Decimal(0)))
        if moved is order:
            return
        self._live.keep(moved, why=word.message or word.why_held)
        if moved.state is not order.state and moved.state.is_final:
            self._count(moved)

    def _owes(self, order: Order, word: OrderSaid) -> bool:
        """Whether a final word speaks of fills that were not told: the order lives until then."""
        whole = word.state is OrderState.FILLED
        said = Decimal(order.intent.shares) if whole else word.filled
        asked = replace(order, state=OrderState.WORKING, reported=said)
        return self._journal.owed(asked) > 0

    def withholds(self, ref: str) -> bool:
        """Whether a final word of an order waits for fills it spoke of."""
        return ref in self._withheld

    def end_short(self, order: Order) -> None:
        """End an order whose missing fills the broker, asked twice, does not know."""
        word = self._withheld.pop(order.ref)
        why = f"{word.state}; {word.filled} shares were told, and not all of their fills exist"
        ended = replace(word, state=OrderState.CANCELLED, filled=Decimal(0), code=0, message=why)
        self.told(order, ended)

    def _count(self, order: Order) -> None:
        if order.state is not OrderState.REJECTED:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        what = f"{order.intent.symbol}: the broker refused an order: {order.reason}"
        self._alert(Severity.WARNING, "rejected", what, order)
        if self._in_a_row >= self._rejects_to_halt:
            self._halt(f"{self._in_a_row} orders in a row were refused, the last: {order.reason}")

    def stranger(self, word: OrderSaid) -> None:
        """Note an order that is no intent of ours; once."""
        key = (word.client_id, word.perm_id or word.order_id, word.ref)
        if key in self._strangers or not word.state.may_fill:
            return
        self._strangers.add(key)
        facts = {"ref": word.ref, "perm_id": word.perm_id, "client_id": word.client_id}
        self._journal.note("external-order", {"symbol": word.symbol, **facts})
        if is_ours(word.ref):
            self._halt(f"{word.symbol}: order {word.ref} at the broker is not in the journal")
            return
        what = f"{word.symbol}: an order that is not ours is working in the account"
        self._publish(Alert(self._clock.now(), Severity.WARNING, "external-order", what, facts))

    def _of_another_attempt(self, order: Order, word: OrderSaid) -> None:
        if word.state.may_fill or word.state is OrderState.FILLED or word.filled > 0:
            self.ask = True
            symbol = order.intent.symbol
            self._halt(f"{symbol}: two orders at the broker for intent {order.ref}")

    def executed(self, execution: Execution) -> bool:
        """Book a fill; False when it was known, or is another account's."""
        if execution.account != self.account or execution in self._booked:
            return False
        new = self._journal.executed(execution)
        self._booked.add(execution)
        if not new:
            return False
        intent = self._journal.intent(execution.ref)
        now = self._clock.now()
        self._live.filled(execution.symbol)
        self._publish(Filled(now, execution, intent.decision if intent else ""))
        order = None if intent is None else self._journal.order(execution.ref)
        if order is not None:
            self._in_a_row = 0
            self._live.heard(order.ref)
            self._live.took(order, "filled")
            word = self._withheld.pop(order.ref, None)
            if word is not None and not order.state.is_final:
                self.told(order, word)
            self._watch_fill(order, execution)
        elif is_ours(execution.ref):
            self._halt(f"{execution.symbol}: a fill of {execution.ref}, not in the journal")
        elif not execution.liquidation:
            what = f"{execution.symbol}: a fill that is not ours: {execution.side} "
            what += f"{execution.shares} at {execution.price}"
            self._publish(Alert(now, Severity.WARNING, "external-fill", what))
        if execution.liquidation:
            self._halt(f"{execution.symbol}: the broker closed {execution.shares} shares by itself")
        if execution.revision > 1:
            what = f"{execution.symbol}: fill {execution.stem} was corrected to "
            what += f"{execution.shares} at {execution.price}"
            self._publish(Alert(now, Severity.WARNING, "correction", what))
        return True

    def _watch_fill(self, order: Order, execution: Execution) -> None:
        symbol, intended = order.intent.symbol, order.intent.shares
        if self._journal.filled(order.ref) > intended:
            self.ask = True  # a correction may be on its way; the broker's lists decide
            self.overfilled.add(order.ref)
        other = order.perm_id and execution.perm_id and order.perm_id != execution.perm_id
        earlier = execution.order_id > 0 and execution.order_id != order.order_id
        if other or (earlier and not order.perm_id):
            self._halt(f"{symbol}: an earlier attempt of intent {order.ref} was filled")

    def charged(self, commission: Commission) -> bool:
        """Book a fee; False when it was known."""
        if commission in self._booked:
            return False
        new = self._journal.charged(commission)
        self._booked.add(commission)
        if new:
            self._publish(Charged(self._clock.now(), commission))
        return new

    def remember(self, executions: Iterable[Execution], commissions: Iterable[Commission]) -> None:
        """Keep in mind as booked only what the broker still tells of; the journal has it all."""
        self._booked = {*executions, *commissions}

    def _noticed(self, notice: Notice) -> None:
        if notice.code in WARNINGS and notice.order_id <= 0:
            return
        facts = {"code": notice.code, "message": notice.message, "order_id": notice.order_id}
        self._journal.note("notice", facts)
        if notice.code in (REFUSED, UNREADABLE):
            self._halt(notice.message)
        if notice.code == READ_ONLY and "read-only" in notice.message.lower():
            self._pause(f"the broker takes no orders: {notice.message}")
        about = self._journal.order_by_id(notice.order_id) if notice.order_id > 0 else None
        order = None if about is None else self._live.get(about.ref)
        if order is None or order.order_id != notice.order_id:
            return
        if notice.code not in TELLS_NOTHING:
            self.ask = True
        if notice.code == DUPLICATE_ID:
            self._journal.raise_order_id_mark(self._journal.order_id_mark + 100)
            self._answered.add(order.ref)
        if notice.code in REJECTIONS:
            self._refused[order.ref] = notice

    def _alert(self, severity: Severity, kind: str, what: str, order: Order) -> None:
        facts = {"ref": order.ref, "order_id": order.order_id}
        self._publish(Alert(self._clock.now(), severity, kind, what, facts))
