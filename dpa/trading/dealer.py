"""The only one that talks of orders to a broker.

Start-up and recovery are the same path: connect, ask the broker for everything, compare, and only
then send. What always holds:

1. Nothing is sent before its intent is committed to the journal.
2. One live order a symbol, and one order at the broker an intent: another attempt is made only
   after complete lists of open orders, completed orders and executions of every client, asked for
   twice, ``trading.unknown_seconds`` apart, have shown that the one before never arrived.
3. A "cancelled" that a client guessed from an error code ends nothing; the broker's own order
   state does, or a reconciliation.
4. Positions come from the ledger of fills. Where the broker holds something else, trading halts,
   and goes on only when a person has adopted what the broker holds (:meth:`Dealer.adopt`). A
   snapshot that is not complete halts as well: it never means flat.
5. What reduces a position passes every limit on risk. Cancels always pass: first of all, without
   a link for orders, and where the journal cannot be written.
6. Without a link no order is sent, and fills still count; with the link back, everything is
   reconciled before anything else.
7. HALTED sends only cancels, FLATTENING only what reduces; PAUSED no new risk, and what works and
   does not reduce is cancelled. The switch is read last, before each order is handed to the
   socket, and so is whether another trader took this one's place.
8. ``trading.rejects_to_halt`` refusals by the broker in a row halt.
9. Order numbers are above every number ever used; the mark is on the disk before one is used.
10. Never more than ``trading.messages_per_second``, cancels first; an order that waits longer than
    ``trading.queue_seconds`` is given up.
11. What cannot be booked is shown, and halts.
12. :meth:`Dealer.kill` halts the switch first, then cancels everything, and looks whether it has
    gone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from dpa.clock import Clock
from dpa.config import Settings
from dpa.errors import HaltError
from dpa.trading.broker import Account, Broker
from dpa.trading.checks import (
    Exposure,
    Refusal,
    RefusalCode,
    Situation,
    check,
    fresh,
    in_session,
    reduces,
    reductions_first,
)
from dpa.trading.copies import altered
from dpa.trading.events import Alert, Event, Severity
from dpa.trading.hearing import Hearing
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.kill import Killed, open_orders
from dpa.trading.ledger import Ledger
from dpa.trading.live_orders import LiveOrders
from dpa.trading.pricing import step_at
from dpa.trading.reconcile import Break, Reconciliation
from dpa.trading.sender import Quotes, Sender, limit_now
from dpa.trading.settling import Settling
from dpa.trading.switch import Level, Switch
from dpa.trading.types import (
    Instrument,
    Intent,
    Order,
    OrderState,
    Purpose,
    Quote,
    Side,
    Style,
)

MINUTE = timedelta(seconds=60)
SOON = timedelta(seconds=0.05)  # until more of the queue is sent, where there is room already


log = logging.getLogger("dpa.trading")


class Dealer:
    """Carries out intents.

    Nothing here sleeps or starts tasks: :meth:`beat` does all that is due, and :meth:`next_at`
    says when to call it next. What is asked for at the same time is done one after the other;
    only :meth:`kill` and :meth:`halt` wait for nothing.

    Parameters
    ----------
    broker : Broker
    journal : Journal
        Written by nobody else.
    switch : Switch
    clock : Clock
    settings : Settings
        ``trading`` and ``risk`` of it.
    publish : callable
        Takes events; must not raise (:class:`~dpa.trading.bus.Bus` does not).
    instruments : mapping of str to Instrument
        What is traded; looked at when needed, so it may grow.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        switch: Switch,
        clock: Clock,
        settings: Settings,
        publish: Callable[[Event], None],
        instruments: Mapping[str, Instrument],
    ) -> None:
        self._broker, self._journal, self._switch = broker, journal, switch
        self._clock, self._settings, self._publish = clock, settings, publish
        self._instruments = instruments
        self._live = LiveOrders(journal, clock, publish)
        self._hearing = Hearing(
            journal,
            self._live,
            clock,
            publish,
            self.halt,
            self._pause,
            settings.trading.rejects_to_halt,
        )
        self._sender = Sender(
            broker,
            journal,
            self._live,
            switch,
            clock,
            settings,
            instruments,
            publish,
            self.halt,
            self._situation,
            lambda: self.ready,
        )
        self._settling = Settling(
            broker,
            journal,
            self._live,
            self._hearing,
            self._sender,
            switch,
            clock,
            settings,
            publish,
            self.halt,
            self._pause,
        )
        self._turn = asyncio.Lock()
        self._listening = False
        self._added: list[datetime] = []
        self._flatten_again: dict[str, tuple[datetime, timedelta]] = {}  # when, after what pause
        self._told_flat = self._told_stuck = False

    @property
    def ready(self) -> bool:
        """Whether orders may be sent, as far as the broker is concerned."""
        return self._settling.settled and self._hearing.linked and self._broker.connected

    @property
    def account(self) -> str:
        """The account traded."""
        return self._broker.account

    @property
    def money(self) -> Account | None:
        """What the broker said last of the account's money."""
        return self._settling.money

    @property
    def ledger(self) -> Ledger:
        """Books of the account, from fills; worked through up to now."""
        self._hearing.work()
        return self._journal.ledger(self.account)

    @property
    def positions(self) -> dict[str, Decimal]:
        """Shares by symbol, flat ones left out; from the ledger."""
        held = self._journal.ledger(self.account).positions
        return {symbol: position.shares for symbol, position in held.items()}

    @property
    def live_orders(self) -> tuple[Order, ...]:
        """Our orders that may still change a position."""
        return tuple(self._live)

    @property
    def instruments(self) -> Mapping[str, Instrument]:
        """What is traded."""
        return self._instruments

    @property
    def suspected(self) -> tuple[Break, ...]:
        """Differences that are to be looked at again before anything is sent."""
        return self._settling.suspected

    @property
    def breaks(self) -> tuple[Break, ...]:
        """What the newest reconciliation found and nothing explains; see :meth:`adopt`."""
        return self._settling.breaks

    @property
    def flat(self) -> bool:
        """Whether nothing is held and nothing works."""
        return not self.positions and not len(self._live)

    def halt(self, why: str) -> None:
        """Halt trading, durably; only a person resumes it."""
        before = self._switch.level
        self._switch.halt("dealer", why)
        if before < Level.HALTED:
            self._alert(Severity.CRITICAL, "halted", why)

    def _pause(self, why: str) -> None:
        if self._switch.level < Level.PAUSED:
            self._switch.pause("dealer", why)
            self._alert(Severity.CRITICAL, "paused", why)

    def _alert(self, severity: Severity, kind: str, what: str) -> None:
        self._publish(Alert(self._clock.now(), severity, kind, what))

    async def start(self) -> Reconciliation:
        """Connect, and reconcile before anything else.

        Raises
        ------
        TransientError
            The broker cannot be reached now.
        HaltError
            Nobody may trade there, or the journal is of another account.
        """
        if not self._listening:
            self._broker.listen(self._hearing.hear)
            self._listening = True
        if not self._broker.connected:
            await self._broker.connect(order_id_above=self._journal.order_id_mark)
        self._hearing.linked = True
        self._hearing.account = self._broker.account
        if self._journal.value("account") is None:
            self._journal.set_value("account", self._broker.account)
        return await self.reconcile()

    async def submit(self, intents: Sequence[Intent], quotes: Quotes) -> tuple[Refusal, ...]:
        """Check intents, commit those that pass, and send what may go at once.

        Parameters
        ----------
        intents : sequence of Intent
        quotes : mapping of str to Quote

        Returns
        -------
        tuple of Refusal
            One for each intent that nothing was sent of, as far as it is known by now; one that
            is refused later, while it waits for its turn, is published.
        """
        async with self._turn_taken():
            self._hearing.work()
            refusals, accepted = self._sort(intents, quotes)
            if accepted:
                self._commit(accepted, quotes)
            refusals += await self._sender.pump(quotes)
            self._hearing.work()
            return tuple(refusals)

    @asynccontextmanager
    async def _turn_taken(self) -> AsyncIterator[None]:
        """One thing at a time; whatever goes wrong within halts trading, and is shown."""
        async with self._turn:
            try:
                yield
            except Exception as e:
                self.halt(f"{type(e).__name__}: {e}")
                raise

    def _sort(
        self, intents: Sequence[Intent], quotes: Quotes
    ) -> tuple[list[Refusal], list[Intent]]:
        situation = self._situation(quotes)
        exposure = self._exposure(situation)
        busy = set(situation.busy)
        known = self._journal.known(intent.id for intent in intents)
        room = self._settings.trading.most_working - len(self._sender.queue)
        refusals: list[Refusal] = []
        accepted: list[Intent] = []
        adds = 0
        for intent in reductions_first(intents, situation.positions):
            now = altered(
                situation,
                busy=busy,
                known=known,
                working=situation.working + len(accepted),
                added_lately=situation.added_lately + adds,
                added_in_session=situation.added_in_session + adds,
            )
            found = check(intent, now, self._settings, exposure)
            if found is None and len(accepted) >= room:
                what = f"{intent.symbol}: too many orders wait to be sent"
                found = Refusal(intent, RefusalCode.QUEUE, what)
            if found is not None:
                refusals.append(found)
                continue
            accepted.append(intent)
            busy.add(intent.symbol)
            known.add(intent.id)
            exposure.add(intent)
            held = situation.positions.get(intent.symbol, Decimal(0))
            adds += not reduces(intent, held)
        with self._journal.transaction():
            for refusal in refusals:
                self._sender.refused(refusal)
            self._count_added(adds)
        return refusals, accepted

    def _commit(self, intents: Sequence[Intent], quotes: Quotes) -> None:
        first = self._next_order_id()
        orders = [
            Order(intent, 1, first + n, limit=self._first_limit(intent, quotes))
            for n, intent in enumerate(intents)
        ]
        new = {intent.id for intent in self._journal.commit_intents(intents, orders)}
        positions = self.positions
        for order in orders:
            if order.ref in new:
                self._live.took(order, "committed")
                held = positions.get(order.intent.symbol, Decimal(0))
                self._sender.place(order, reduces(order.intent, held))

    def _first_limit(self, intent: Intent, quotes: Quotes) -> Decimal | None:
        step = self._step(intent)
        instrument = self._instruments[intent.symbol]
        return limit_now(intent, quotes.get(intent.symbol), instrument, self._settings, step)

    def _next_order_id(self) -> int:
        return max(self._journal.order_id_mark + 1, self._broker.next_order_id)

    def _step(self, intent: Intent) -> int:
        trading = self._settings.trading
        return step_at(
            intent.decided_at, self._clock.now(), trading.step_seconds, trading.adaptive_steps
        )

    def _situation(self, quotes: Quotes) -> Situation:
        now = self._clock.now()
        return Situation(
            now=now,
            level=self._switch.level,
            ready=self.ready,
            account=self._broker.account,
            positions=self.positions,
            busy=self._live.symbols,
            working=len(self._live),
            known=(),
            instruments=self._instruments,
            quotes=quotes,
            added_lately=sum(now - at < MINUTE for at in self._added),
            added_in_session=self._added_in_session(),
            nav=None if self.money is None else self.money.nav,
        )

    def _exposure(self, situation: Situation) -> Exposure:
        shares = dict(situation.positions)
        for order in self._live:
            if not order.state.is_final:
                left = order.intent.shares - self._journal.filled(order.ref)
                symbol = order.intent.symbol
                shares[symbol] = shares.get(symbol, Decimal(0)) + order.intent.side.sign * left
        ledger = self._journal.ledger(self.account)
        prices = {
            symbol: _price(situation.quotes.get(symbol)) or ledger.position(symbol).average_cost
            for symbol in shares
        }
        return Exposure(shares, prices)

    def _session(self) -> str:
        zones = {instrument.time_zone for instrument in self._instruments.values()}
        zone = ZoneInfo(min(zones)) if zones else ZoneInfo("UTC")
        return self._clock.now().astimezone(zone).date().isoformat()

    def _added_in_session(self) -> int:
        kept = self._journal.value("added") or {}
        return int(kept["orders"]) if kept.get("session") == self._session() else 0

    def _count_added(self, adds: int) -> None:
        if adds:
            now = self._clock.now()
            self._added = [at for at in self._added if now - at < MINUTE] + [now] * adds
            orders = self._added_in_session() + adds
            self._journal.set_value("added", {"session": self._session(), "orders": orders})

    async def beat(self, now: datetime, quotes: Quotes) -> None:
        """Do all that is due.

        Parameters
        ----------
        now : datetime
            The clock's moment.
        quotes : mapping of str to Quote
            The newest of each symbol.
        """
        async with self._turn_taken():
            await self._beat(now, quotes)

    async def _beat(self, now: datetime, quotes: Quotes) -> None:
        if self._switch.level is Level.HALTED:
            await self._cancel_halted()
        self._hearing.work()
        if self._broker.connected and self._hearing.linked and self._settling.is_due(now):
            await self._settling.reconcile()
        self._expire(now)
        level = self._switch.level
        if level is Level.HALTED:
            await self._cancel_halted()
        elif level is Level.FLATTENING:
            self._flatten(now, quotes)
        elif level is Level.PAUSED:
            self._cancel_risk()
        if self.ready and level < Level.HALTED:
            self._step_limits(now, quotes)
        await self._sender.pump(quotes)
        self._hearing.work()

    def next_at(self, now: datetime) -> datetime:
        """When :meth:`beat` is due again at the latest, if nothing is heard before."""
        trading = self._settings.trading
        due = [now + timedelta(minutes=trading.reconcile_minutes), self._settling.next_at(now)]
        if (sending := self._sender.queue.next_at(now)) is not None and self._broker.connected:
            due.append(max(sending, now + SOON))
        silence = timedelta(seconds=trading.unknown_seconds)
        step = timedelta(seconds=trading.step_seconds)
        for order in self._live:
            intent = order.intent
            due.append(intent.expires_at)
            due.append(self._live.silent_since(order) + silence)
            taken = self._step(intent)
            if intent.style is Style.ADAPTIVE and taken < trading.adaptive_steps:
                due.append(intent.decided_at + step * (taken + 1))
        if self._switch.level is Level.FLATTENING and not self.flat:
            due.append(now + step)
        later = [moment for moment in due if moment > now]
        return min(later)

    def _expire(self, now: datetime) -> None:
        for order in self._live:
            if now >= order.intent.expires_at and not order.state.is_final:
                self._sender.cancel_again(order)

    async def let_go(self) -> None:
        """Where trading is halted, send the cancels; needs no journal, and is safe to repeat."""
        if self._switch.level is Level.HALTED:
            async with self._turn:
                await self._cancel_halted()

    async def _cancel_halted(self) -> None:
        """Ask for the end of all that works, before anything else that may fail is done."""
        self._cancel_working()
        await self._sender.pump_cancels()
        self._sender.give_up_queue("trading is halted")

    def _cancel_working(self) -> None:
        for order in self._live:
            if order.state.may_fill and not self._sender.waits(order):
                self._sender.cancel_again(order)

    def _cancel_risk(self) -> None:
        """Ask for the end of what works and does not reduce; what waits is refused."""
        held = self.positions
        for order in self._live:
            left = order.intent.shares - self._journal.filled(order.ref)
            signed = order.intent.side.sign * left
            position = held.get(order.intent.symbol, Decimal(0))
            reducing = position * signed < 0 and left <= abs(position)
            if order.state.may_fill and not reducing and not self._sender.waits(order):
                self._sender.cancel_again(order)

    def _step_limits(self, now: datetime, quotes: Quotes) -> None:
        seconds = self._settings.trading.quote_seconds
        for order in self._live:
            intent = order.intent
            quote = quotes.get(intent.symbol)
            if intent.style is not Style.ADAPTIVE or order.state is not OrderState.WORKING:
                continue
            if quote is None or not quote.sound or not fresh(quote, now, seconds):
                continue
            limit = self._first_limit(intent, quotes)
            if limit is not None and limit != order.limit and self._sender.allowed(intent):
                self._sender.limit(order, limit)

    async def cancel(self, orders: Iterable[Order]) -> None:
        """Ask for the end of some of our orders.

        Raises
        ------
        HaltError
            The journal cannot be written; what could be sent was sent.
        """
        async with self._turn_taken():
            self._hear_what_can_be_kept()
            for order in orders:
                newest = self._live.get(order.ref)
                if newest is not None and newest.state is not OrderState.CANCELLING:
                    self._sender.cancel(newest)
            await self._sender.pump_cancels()
            self._hearing.work()

    async def cancel_all(self) -> None:
        """Ask for the end of all our orders."""
        await self.cancel(tuple(self._live))

    async def flatten(self, quotes: Quotes, by: str = "dealer", why: str = "asked to") -> None:
        """Close everything: cancel what works, then close what is held, until all is flat.

        What is not done at once is done by later beats, as long as the switch says FLATTENING.
        """
        if self._switch.level < Level.FLATTENING:
            self._switch.flatten(by, why)
            self._told_flat = self._told_stuck = False
            self._flatten_again.clear()
        await self.beat(self._clock.now(), quotes)

    def _flatten(self, now: datetime, quotes: Quotes) -> None:
        self._sender.give_up_queue("everything is being closed", keep=_closes)
        for order in self._live:
            if not _closes(order) and order.state.may_fill:
                self._sender.cancel_again(order)
        held = {symbol: shares for symbol, shares in self.positions.items() if int(shares)}
        if not held and not len(self._live) and not self._told_flat:
            self._told_flat = True
            self._alert(Severity.INFO, "flat", "everything is closed")
        if not self.ready:
            self._tell_why_not_flat(held)
            return
        due = [symbol for symbol in sorted(held) if self._is_to_close(symbol, now)]
        intents = [self._closing(symbol, held[symbol], quotes.get(symbol)) for symbol in due]
        refusals, accepted = self._sort(intents, quotes)
        step = timedelta(seconds=self._settings.trading.step_seconds)
        for intent in accepted:
            self._flatten_again[intent.symbol] = now + step, step
        for refusal in refusals:
            before = self._flatten_again.get(refusal.intent.symbol, (now, step / 2))[1]
            pause = max(min(2 * before, MINUTE), step)
            self._flatten_again[refusal.intent.symbol] = now + pause, pause
        if accepted:
            self._commit(accepted, quotes)

    def _is_to_close(self, symbol: str, now: datetime) -> bool:
        """Whether another order may close it now; a closed market is waited for."""
        if self._live.count(symbol) or self._flatten_again.get(symbol, (now, MINUTE))[0] > now:
            return False
        instrument = self._instruments.get(symbol)
        return instrument is None or in_session(instrument, now)

    def _tell_why_not_flat(self, held: Mapping[str, Decimal]) -> None:
        """Say once what keeps positions from being closed, where only a person can help."""
        breaks = self._settling.breaks
        if not held or not breaks or self._told_stuck:
            return
        self._told_stuck = True
        said = "; ".join(str(found) for found in breaks)
        what = f"nothing is closed while the books differ from the broker's ({said}): compare both,"
        what += " adopt what the broker holds, resume, then flatten again"
        self._alert(Severity.CRITICAL, "not-flat", what)

    def _closing(self, symbol: str, shares: Decimal, quote: Quote | None) -> Intent:
        now = self._clock.now()
        side = Side.SELL if shares > 0 else Side.BUY
        since = self._switch.read().since
        price = _price(quote) or self._journal.ledger(self.account).position(symbol).average_cost
        turn = 1
        while True:
            decision = f"flatten {since.isoformat() if since else ''} {turn}"
            name = intent_id(self.account, decision, symbol, side, Purpose.FLATTEN)
            if self._journal.intent(name) is None:
                break
            turn += 1
        return Intent(
            id=name,
            account=self.account,
            decision=decision,
            symbol=symbol,
            side=side,
            shares=abs(int(shares)),
            style=Style.MARKET,
            purpose=Purpose.FLATTEN,
            decided_at=now,
            expires_at=now + timedelta(seconds=self._settings.trading.order_seconds),
            reference=price,
        )

    async def kill(self, by: str = "dealer", why: str = "asked to") -> Killed:
        """Halt, cancel everything, look whether it has gone. Later beats cancel what is left."""
        began = self._clock.elapsed()
        problems: list[str] = []
        try:
            self._switch.halt(by, why)
        except HaltError as e:
            problems.append(str(e))
        self._sender.queue.spend(self._clock.now())
        sent = 0
        try:
            await self._broker.cancel_all()
            sent = 1
        except Exception as e:  # shown below; the cancels one by one are tried all the same
            log.exception("cancel of everything")
            problems.append(f"the broker was not told to cancel everything: {e}")
        before = self._live_at_broker()
        try:
            sent += await self._cancel_one_by_one()
        except Exception as e:  # shown below; what the broker has open is asked all the same
            log.exception("cancels one by one")
            problems.append(f"orders were not cancelled one by one: {e}")
        seconds = self._clock.elapsed() - began
        found = await open_orders(self._broker)
        for problem in problems:
            self._alert(Severity.CRITICAL, "kill", problem)
        left = before if found is None else found
        waiting = len(self._sender.queue)
        return Killed(seconds, sent, waiting, left, found == (), tuple(problems))

    async def _cancel_one_by_one(self) -> int:
        self._hear_what_can_be_kept()
        self._cancel_working()
        queued = len(self._sender.queue)
        try:
            await self._sender.pump_cancels()
        finally:
            sent = queued - len(self._sender.queue)
            self._sender.give_up_queue("killed")
        self._hearing.work()
        return sent

    def _hear_what_can_be_kept(self) -> None:
        """Work through what was heard; cancels go on where it cannot be written down."""
        try:
            self._hearing.work()
        except HaltError as e:
            log.critical("what the broker said cannot be booked: %s", e)

    def _live_at_broker(self) -> tuple[str, ...]:
        return tuple(order.ref for order in self._live if order.state.may_fill)

    async def reconcile(self) -> Reconciliation:
        """Ask the broker for everything, and settle what can be settled.

        Returns
        -------
        Reconciliation
            Trading is halted where it is incomplete although the broker is connected, or has
            breaks.
        """
        async with self._turn_taken():
            return await self._settling.reconcile()

    async def adopt(self, by: str, why: str) -> Reconciliation:
        """Take over what the broker holds as what we hold; a person's explicit word.

        Trading stays halted until that person resumes it, too.

        Parameters
        ----------
        by, why : str
            Not empty; kept in the journal.

        Raises
        ------
        UserError
            Nobody is named, orders may still fill, or the broker did not tell everything.
        """
        async with self._turn:
            return await self._settling.adopt(by, why)


def _price(quote: Quote | None) -> Decimal | None:
    return None if quote is None else quote.mid or quote.last


def _closes(order: Order) -> bool:
    return order.intent.purpose is Purpose.FLATTEN
