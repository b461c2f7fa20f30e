"""Asking the broker for everything, and settling what its answer proves.

Start-up, recovery and the look every few minutes are all this. What a snapshot tells of orders and
fills is taken in as if it had come by itself; what it does not tell ends orders only where
:mod:`dpa.trading.reconcile` calls that proved; what it contradicts halts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from dpa.clock import Clock
from dpa.config import Settings
from dpa.errors import DpaError, HaltError, UserError
from dpa.trading import lifecycle
from dpa.trading.broker import Account, Broker, BrokerSnapshot, OrderSaid
from dpa.trading.cash import CashWatch
from dpa.trading.events import Alert, Event, Reconciled, Severity
from dpa.trading.hearing import Hearing
from dpa.trading.journal import Journal
from dpa.trading.live_orders import LiveOrders
from dpa.trading.reconcile import Books, Break, Reconciliation, compare
from dpa.trading.sender import Sender
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Execution, Order, OrderState, Position

MOST_ATTEMPTS = 3  # at one intent
SECOND_LOOK = timedelta(seconds=2)  # at what may only have been asked about at a bad moment


class Settling:
    """Keeps the books and the broker together.

    Parameters
    ----------
    broker : Broker
    journal : Journal
    live : LiveOrders
    hearing : Hearing
    sender : Sender
    switch : Switch
    clock : Clock
    settings : Settings
    publish, halt, pause : callable

    Attributes
    ----------
    reconciled : bool
        The newest answer was complete and had no breaks.
    breaks : tuple of Break
        Of the newest answer.
    suspected : tuple of Break
        Differences that are to be looked at again before anything is sent.
    asked_at : datetime, optional
    money : Account, optional
        What the broker said last of the account's money.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        live: LiveOrders,
        hearing: Hearing,
        sender: Sender,
        switch: Switch,
        clock: Clock,
        settings: Settings,
        publish: Callable[[Event], None],
        halt: Callable[[str], None],
        pause: Callable[[str], None],
    ) -> None:
        self._broker, self._journal, self._live = broker, journal, live
        self._hearing, self._sender, self._switch = hearing, sender, switch
        self._clock, self._settings = clock, settings
        self._publish, self._halt = publish, halt
        self._cash = CashWatch(journal, publish, pause, settings.trading.cash_difference)
        self.reconciled = False
        self.breaks: tuple[Break, ...] = ()
        self.suspected: tuple[Break, ...] = ()
        self.asked_at: datetime | None = None
        self.money: Account | None = None
        self._nowhere: dict[str, datetime] = {}  # refs that looks did not find, since the first
        self._known: set[str] = set()  # refs of ended orders whose last word was taken in

    @property
    def settled(self) -> bool:
        """Whether the books are the broker's, as far as anybody knows."""
        return self.reconciled and not self.suspected and not self._hearing.stale

    def is_due(self, now: datetime) -> bool:
        """Whether the broker should be asked now."""
        trading = self._settings.trading
        pause = timedelta(seconds=trading.unknown_seconds)
        fresh = self._hearing.stale and self._switch.level < Level.HALTED
        if not self.reconciled or self._hearing.stale or self.asked_at is None:
            return fresh or self._asked_before(now, pause)
        if now - self.asked_at >= timedelta(minutes=trading.reconcile_minutes):
            return True
        if self._hearing.ask or self.suspected:
            return self._asked_before(now, SECOND_LOOK)
        if not self._asked_before(now, self._silence):
            return False
        return bool(self._nowhere) or any(
            (_expects_word(order) or self._hearing.withholds(order.ref))
            and now - self._live.silent_since(order) >= self._silence
            for order in self._live
        )

    @property
    def _silence(self) -> timedelta:
        """How long nothing must be heard of an order before that means something."""
        return timedelta(seconds=self._settings.trading.unknown_seconds)

    def _asked_before(self, now: datetime, pause: timedelta) -> bool:
        return self.asked_at is None or now - self.asked_at >= pause

    def next_at(self, now: datetime) -> datetime:
        """When to ask again, if nothing is heard before; always after `now`."""
        trading = self._settings.trading
        soon = now + timedelta(seconds=1)
        if self.asked_at is None or self._hearing.stale:
            return soon
        pause = timedelta(minutes=trading.reconcile_minutes)
        if not self.reconciled:
            pause = timedelta(seconds=trading.unknown_seconds)
        elif self._hearing.ask or self.suspected:
            pause = SECOND_LOOK
        elif self._nowhere:
            pause = self._silence
        return max(self.asked_at + pause, soon)

    def _same_account(self) -> None:
        known = self._journal.value("account")
        if known != self._broker.account:
            self.reconciled = False
            what = f"the journal is of account {known}, the broker has {self._broker.account}"
            self._halt(what)
            raise HaltError(what, "give each account a journal of its own")

    async def reconcile(self) -> Reconciliation:
        """Ask, and settle; see :meth:`dpa.trading.dealer.Dealer.reconcile`."""
        self._hearing.work()
        self._same_account()
        asked_at = self._clock.now()
        before = {order.ref for order in self._live}
        if self._hearing.stale:
            self._nowhere.clear()
        self._hearing.ask = self._hearing.stale = False
        try:
            snapshot = await self._broker.snapshot()
        except DpaError as e:
            return await self._unanswered(asked_at, str(e))
        self._hearing.work()
        adopted = self._book(snapshot)
        found = compare(snapshot, self._books(snapshot, before, asked_at), adopted)
        self.asked_at = asked_at
        if found.complete:
            self._hearing.overfilled.clear()
        with self._booking():
            found = self._settle(found, asked_at)
        for word in found.strays:
            await self._cancel_stray(word)
        await self._conclude(snapshot, found)
        return found

    async def _unanswered(self, asked_at: datetime, why: str) -> Reconciliation:
        self.asked_at = asked_at
        self._nowhere.clear()
        found = Reconciliation(asked_at, complete=False, missing=(why,))
        await self._judge(found)
        return found

    @contextmanager
    def _booking(self) -> Iterator[None]:
        """All written within, or none of it; nothing is held to be booked then that is not."""
        try:
            with self._journal.transaction():
                yield
        except BaseException:
            self._hearing.forget_unkept()
            raise

    def _book(self, snapshot: BrokerSnapshot) -> tuple[Execution, ...]:
        with self._booking():
            adopted = tuple(e for e in snapshot.executions if self._hearing.executed(e))
            for commission in snapshot.commissions:
                self._hearing.charged(commission)
        if snapshot.complete:
            self._hearing.remember(snapshot.executions, snapshot.commissions)
            self._known &= {word.ref for word in snapshot.completed_orders}
        return adopted

    def _books(self, snapshot: BrokerSnapshot, before: set[str], asked_at: datetime) -> Books:
        refs = {order.ref for order in self._live} | self._hearing.overfilled
        refs |= {word.ref for word in snapshot.open_orders}
        refs |= {word.ref for word in snapshot.completed_orders} - self._known
        orders = {ref: order for ref in refs if (order := self._live.find(ref)) is not None}
        ended = {ref for ref, order in orders.items() if order.state.is_final}
        absent = {ref for ref in ended if orders[ref].state is OrderState.ABSENT}
        self._known |= {ref for ref in ended - absent if ref not in self._live}
        held = self._journal.ledger(self._broker.account).positions
        return Books(
            account=self._broker.account,
            orders=orders,
            filled={ref: self._journal.filled(ref) for ref in orders},
            positions={s: p.shares for s, p in held.items()},
            ended=orders.keys() - before,
            provable=lambda order: (
                self._hearing.answered(order.ref)
                or self._live.sent_before(order, asked_at - self._silence)
            ),
            quiet=lambda symbol: self._live.quiet(symbol, SECOND_LOOK),
        )

    def _settle(self, found: Reconciliation, asked_at: datetime) -> Reconciliation:
        for order, word in found.words:
            self._hearing.told(order, replace(word, code=0))
            self._cancel_unheard(order, word)
        for order, word in found.revived:
            self._revive(order, word)
        self._hearing.ask = False
        for word in found.external:
            self._hearing.stranger(word)
        self._look_for(found, asked_at)
        for order in found.absent:
            if self._hearing.refusal(order.ref) is not None or self._proved(order, asked_at):
                self._never_arrived(order)
        for order in (*found.gone, *self._short(found)):
            if self._proved(order, asked_at):
                self._ended_unseen(order)
        again = {b for b in found.suspected if b in self.suspected}
        if not again:
            return found
        doubted = tuple(b for b in found.suspected if b not in again)
        return replace(found, breaks=(*found.breaks, *sorted(again, key=str)), suspected=doubted)

    def _cancel_unheard(self, order: Order, word: OrderSaid) -> None:
        """Ask again for the end of an order that the broker works as if nobody had asked."""
        if order.state is OrderState.CANCELLING and word.state is OrderState.WORKING:
            self._sender.cancel_again(order)

    def _revive(self, order: Order, word: OrderSaid) -> None:
        alive = lifecycle.revived(order, word)
        symbol = order.intent.symbol
        why = f"{symbol}: the broker still works an order that was held {order.state}"
        self._journal.order_revived(alive, why)
        self._live.took(alive, why)
        self._publish(Alert(self._clock.now(), Severity.WARNING, "revived", why))
        self._sender.cancel(alive)

    def _look_for(self, found: Reconciliation, asked_at: datetime) -> None:
        """Remember since when an order was not found by any look.

        A list that ends may still lack what is there, above all soon after a connection was made,
        and who believes one such list sends an order twice. So all looks must be complete, on a
        connection that was not lost since the first; and the shares held must not say that an
        order which nobody acknowledged was filled.
        """
        doubtful = {b.symbol for b in (*found.breaks, *found.suspected)}
        absent = [order for order in found.absent if order.intent.symbol not in doubtful]
        nowhere = (*absent, *found.gone, *self._short(found))
        if self._hearing.stale or not found.complete:
            nowhere = ()
        self._nowhere = {o.ref: self._nowhere.get(o.ref, asked_at) for o in nowhere}

    def _proved(self, order: Order, asked_at: datetime) -> bool:
        """Whether a look long enough before this one did not find an order, and none since."""
        since = self._nowhere.get(order.ref, asked_at)
        if asked_at - since < self._silence:
            return False
        del self._nowhere[order.ref]
        return True

    def _never_arrived(self, order: Order) -> None:
        refusal = self._hearing.refusal(order.ref)
        if refusal is not None:
            word = _ended(order, OrderState.REJECTED, refusal.message, refusal.code)
            self._hearing.told(order, word)
            return
        ended = lifecycle.absent(order, "the broker never had it")
        self._live.keep(ended)
        alive = self._clock.now() < order.intent.expires_at and order.attempt < MOST_ATTEMPTS
        if ended.state is OrderState.ABSENT and alive and self._sender.allowed(order.intent):
            number = max(self._journal.order_id_mark + 1, self._broker.next_order_id)
            again = Order(order.intent, order.attempt + 1, number, limit=order.limit)
            self._hearing.forget(order.ref)
            self._live.new_attempt(again)
            self._sender.place(again, reducing=not order.intent.purpose.adds)

    def _short(self, found: Reconciliation) -> tuple[Order, ...]:
        """Return ended orders with fills that no list has, where the positions agree all the same.

        A fill that was corrected before it was told of leaves such orders.
        """
        doubtful = {b.symbol for b in (*found.breaks, *found.suspected)}
        newest = [self._live.get(order.ref) for order, _ in found.words]
        return tuple(
            order
            for order in newest
            if order is not None
            and self._hearing.withholds(order.ref)
            and order.intent.symbol not in doubtful
        )

    def _ended_unseen(self, order: Order) -> None:
        if self._hearing.withholds(order.ref):
            self._hearing.end_short(order)
            return
        why = "the broker knows it no more"
        self._hearing.told(order, _ended(order, OrderState.CANCELLED, why))

    async def _cancel_stray(self, word: OrderSaid) -> None:
        order = self._live.find(word.ref)
        if order is not None:
            self._sender.queue.spend(self._clock.now())
            await self._broker.cancel(replace(order, order_id=word.order_id, perm_id=word.perm_id))

    async def _conclude(self, snapshot: BrokerSnapshot, found: Reconciliation) -> None:
        if found.complete:
            self.money = snapshot.account
            if self._journal.baseline(self._broker.account) is None and found.clean:
                self._begin_books(snapshot)
        if found.clean and self._journal.baseline(self._broker.account) is not None:
            works = any(order.state.may_fill for order in self._live)
            adds = self._switch.level is Level.RUNNING
            self._cash.look(snapshot.account, self._clock.now(), works, adds)
        await self._judge(found)
        self._resume_planned()

    def _begin_books(self, snapshot: BrokerSnapshot) -> None:
        """Count from what the broker holds; fills of today, by whomever, are in it already."""
        cash = snapshot.account.cash
        if cash is None:
            self._halt("the broker did not say how much cash the account has")
            return
        held = self._held(snapshot)
        why = "what the broker held when trading began" if held else "flat when trading began"
        self._journal.set_baseline(self._broker.account, held, cash, why)

    def _held(self, snapshot: BrokerSnapshot) -> list[Position]:
        account = self._broker.account
        return [p for p in snapshot.positions if p.account == account and p.shares]

    async def _judge(self, found: Reconciliation) -> None:
        self.reconciled = found.complete and not found.breaks
        self.suspected, self.breaks = found.suspected, found.breaks
        breaks = tuple(str(b) for b in found.breaks)
        facts = {"complete": found.complete, "missing": found.missing, "breaks": breaks}
        if not found.clean:
            self._journal.note("reconciled", facts)
        self._publish(Reconciled(self._clock.now(), found.complete, breaks))
        if not found.complete and await self._answers():
            missing = ", ".join(found.missing)
            self._halt(f"the broker did not tell everything: {missing} missing")
        elif breaks:
            self._halt("; ".join(breaks))

    async def _answers(self) -> bool:
        """Whether the broker is there, and only some of its answers are not.

        One that says nothing at all is away: nothing is sent until it is back and was asked
        again, and no person is needed for that.
        """
        if not (self._broker.connected and self._hearing.linked):
            return False
        try:
            return await self._broker.alive(self._settings.ibkr.ask_seconds)
        except DpaError:
            return False

    def _resume_planned(self) -> None:
        """Queue what was committed, and never sent, by a program that is no more."""
        for order in self._live:
            if order.state is OrderState.PLANNED and not self._sender.waits(order):
                self._sender.place(order, reducing=not order.intent.purpose.adds)

    async def adopt(self, by: str, why: str) -> Reconciliation:
        """Take over what the broker holds; see :meth:`dpa.trading.dealer.Dealer.adopt`."""
        if not by.strip() or not why.strip():
            raise UserError("adopting positions needs a name and a reason")
        self._hearing.work()
        if any(order.state.may_fill for order in self._live):
            raise UserError("orders may still fill", "cancel them first")
        snapshot = await self._broker.snapshot()
        if not snapshot.complete:
            missing = ", ".join(snapshot.missing)
            raise UserError(f"the broker did not tell everything: {missing} missing")
        self._book(snapshot)
        if snapshot.account.cash is None:
            raise UserError("the broker did not say how much cash the account has")
        self._journal.set_baseline(
            self._broker.account, self._held(snapshot), snapshot.account.cash, f"{by}: {why}"
        )
        self.suspected = ()
        return await self.reconcile()


def _expects_word(order: Order) -> bool:
    waited_for = (OrderState.SENT, OrderState.UNKNOWN, OrderState.CANCELLING)
    return order.state in waited_for or order.state.is_final  # final and live: fills are owed


def _ended(order: Order, state: OrderState, why: str, code: int = 0) -> OrderSaid:
    return OrderSaid(
        ref=order.ref,
        order_id=order.order_id,
        client_id=0,
        perm_id=order.perm_id,
        account=order.intent.account,
        symbol=order.intent.symbol,
        state=state,
        code=code,
        message=why,
    )
