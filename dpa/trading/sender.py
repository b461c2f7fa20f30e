"""From the queue to the broker: the last looks, the journal, then the socket.

Of an order is written that it is *sent* before its bytes are handed over, so that a crash leaves
no order at the broker that the journal calls unsent. The switch is read once more after that
write, and again by the broker after all waiting, when the bytes are about to be handed over; so
is the journal: a trader that was suspended, and followed by another one, sends nothing any more.

Cancels need none of this. They leave before everything else, whether or not the journal can be
written and whatever else the broker may be told.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial

from dpa.clock import Clock
from dpa.config import Settings
from dpa.errors import DpaError, HaltError, OutcomeUnknown, TransientError
from dpa.telemetry.ids import about
from dpa.trading import lifecycle
from dpa.trading.broker import Broker
from dpa.trading.checks import Refusal, RefusalCode, Situation, check, reduces
from dpa.trading.copies import altered
from dpa.trading.events import Event, Refused
from dpa.trading.journal import Journal
from dpa.trading.live_orders import LiveOrders
from dpa.trading.pricing import adaptive_limit, passively, step_at, worst_price
from dpa.trading.switch import Level, Switch
from dpa.trading.throttle import Priority, Throttle, Waiting
from dpa.trading.types import Instrument, Intent, Order, OrderState, Quote, Style

log = logging.getLogger("dpa.trading")
Quotes = Mapping[str, Quote]


class Kind(StrEnum):
    """What is asked of the broker."""

    PLACE = "place"
    LIMIT = "limit"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Message:
    """Something to be sent about an order.

    Parameters
    ----------
    kind : Kind
    ref : str
    limit : Decimal, optional
        The new one.
    """

    kind: Kind
    ref: str
    limit: Decimal | None = None


def limit_now(
    intent: Intent, quote: Quote | None, instrument: Instrument, settings: Settings, now_step: int
) -> Decimal | None:
    """Return the limit to send; None for orders without one, and where none can be made."""
    worst = worst_price(intent, settings.trading.collar_bps)
    tick = instrument.min_tick
    if intent.style is Style.LIMIT:
        return passively(worst, tick, intent.side)
    if intent.style is Style.ADAPTIVE and quote is not None:
        steps = settings.trading.adaptive_steps
        return adaptive_limit(intent.side, quote, now_step, steps, tick, worst)
    return None


class Sender:
    """Sends what may be sent.

    Parameters
    ----------
    broker : Broker
    journal : Journal
    live : LiveOrders
    switch : Switch
    clock : Clock
    settings : Settings
    instruments : mapping of str to Instrument
    publish, halt : callable
    situation : callable
        Takes quotes; all that checks look at, as it is now.
    ready : callable
        Whether orders may go out at all.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        live: LiveOrders,
        switch: Switch,
        clock: Clock,
        settings: Settings,
        instruments: Mapping[str, Instrument],
        publish: Callable[[Event], None],
        halt: Callable[[str], None],
        situation: Callable[[Quotes], Situation],
        ready: Callable[[], bool],
    ) -> None:
        self._broker, self._journal, self._live = broker, journal, live
        self._switch, self._clock, self._settings = switch, clock, settings
        self._instruments, self._publish, self._halt = instruments, publish, halt
        self._situation, self._ready = situation, ready
        self._highest = journal.order_id_mark
        self._cancelled_at: dict[str, datetime] = {}
        trading = settings.trading
        self.queue: Throttle[Message] = Throttle(
            trading.messages_per_second, trading.queue_seconds, trading.most_working
        )

    def place(self, order: Order, reducing: bool) -> bool:
        """Queue an order; False where the queue is full."""
        priority = Priority.REDUCE if reducing else Priority.ADD
        return self.queue.put(
            order.ref, priority, Message(Kind.PLACE, order.ref), self._clock.now()
        )

    def waits(self, order: Order) -> bool:
        """Whether an order is queued to be placed."""
        return any(self.queue.holds(order.ref, p) for p in (Priority.REDUCE, Priority.ADD))

    def limit(self, order: Order, limit: Decimal) -> None:
        """Queue another limit; a newer one takes the place of one that still waits."""
        message = Message(Kind.LIMIT, order.ref, limit)
        self.queue.put(order.ref, Priority.LIMIT, message, self._clock.now())

    def cancel(self, order: Order) -> None:
        """Queue a cancel, or give the order up where it has not been sent."""
        self.queue.drop(order.ref, Priority.LIMIT)
        if self._unqueue(order.ref) or order.state is OrderState.PLANNED:
            self.give_up(order, "cancelled before it was sent")
            return
        if order.state.may_fill:
            self._again(order.ref)

    def cancel_again(self, order: Order) -> None:
        """Queue a cancel, unless one was sent only now and may still be answered."""
        silence = timedelta(seconds=self._settings.trading.unknown_seconds)
        asked = self._cancelled_at.get(order.ref)
        if asked is None or self._clock.now() - asked >= silence:
            self.cancel(order)

    def give_up_queue(self, why: str, keep: Callable[[Order], bool] | None = None) -> None:
        """Give up all orders that wait, but those to `keep`."""
        for order in self._live:
            if (keep is None or not keep(order)) and self._unqueue(order.ref):
                self.give_up(order, why)

    def _unqueue(self, ref: str) -> bool:
        found = (*self.queue.drop(ref, Priority.REDUCE), *self.queue.drop(ref, Priority.ADD))
        return bool(found)

    def give_up(self, order: Order, why: str) -> None:
        """End an order of which nothing was sent."""
        newest = self._live.get(order.ref)
        if newest is None or newest.attempt != order.attempt:
            return
        ended = lifecycle.absent(lifecycle.given_up(newest, why), why)
        if ended.state is OrderState.CANCELLING:  # asked for while it was about to be sent
            ended = replace(ended, state=OrderState.CANCELLED, reason=why)
        if ended is not newest:
            self._live.keep(ended, why=why)

    async def pump(self, quotes: Quotes) -> list[Refusal]:
        """Send what may go at this moment; returns what was refused at the last look."""
        tried = await self.pump_cancels()
        refusals = [r for w in self.queue.expired(self._clock.now()) if (r := self._late(w))]
        if not self._broker.connected or not len(self.queue):
            return refusals
        batch: dict[Kind, list[Message]] = {kind: [] for kind in Kind}
        while waiting := self.queue.take(self._clock.now()):
            batch[waiting.item.kind].append(waiting.item)
        cancels = [message.ref for message in batch[Kind.CANCEL]]
        for ref in tried.intersection(cancels):  # did not leave a moment ago: at the next beat
            self._again(ref)
        await self._send_cancels([ref for ref in cancels if ref not in tried])
        refusals += await self._places(batch[Kind.PLACE], quotes)
        await self._limits(batch[Kind.LIMIT], quotes)
        return refusals

    async def pump_cancels(self) -> set[str]:
        """Send the cancels that may go at this moment, and nothing else; whose were tried.

        They are tried whether or not the broker takes orders.

        Raises
        ------
        HaltError
            The journal cannot be written; what could be sent was sent.
        """
        refs = []
        while waiting := self.queue.take(self._clock.now(), Priority.CANCEL):
            refs.append(waiting.item.ref)
        await self._send_cancels(refs)
        return set(refs)

    async def _send_cancels(self, refs: Sequence[str]) -> None:
        found = [self._live.get(ref) for ref in refs]
        orders = [order for order in found if order is not None and order.state.may_fill]
        unkept = self._keep_asked(orders)
        for order in orders:
            await self._cancel(order)
        if unkept is not None:
            raise unkept

    def _late(self, waiting: Waiting[Message]) -> Refusal | None:
        order = self._live.get(waiting.item.ref)
        if waiting.item.kind is not Kind.PLACE or order is None:
            return None
        seconds = self._settings.trading.queue_seconds
        what = f"{order.intent.symbol}: it waited more than {seconds:g} s to be sent"
        return self._refuse(order, RefusalCode.QUEUE, what, "trading.messages_per_second is low")

    def _refuse(self, order: Order, code: RefusalCode, what: str, cure: str = "") -> Refusal:
        self.give_up(order, what)
        return self.refused(Refusal(order.intent, code, what, cure))

    def refused(self, refusal: Refusal) -> Refusal:
        """Keep and tell a refusal."""
        facts = {"code": refusal.code.value, "what": refusal.what, "ref": refusal.intent.id}
        self._journal.note("refusal", facts)
        self._publish(
            Refused(
                self._clock.now(), refusal.intent, refusal.code.value, refusal.what, refusal.cure
            )
        )
        return refusal

    def _keep_asked(self, orders: list[Order]) -> HaltError | None:
        """Write down that orders are to end; why it was not possible, where it was not."""
        self._cancelled_at = {r: at for r, at in self._cancelled_at.items() if r in self._live}
        try:
            self._live.keep(*[lifecycle.cancelling(order) for order in orders])
        except HaltError as e:  # raised again once the cancels have left
            log.critical("cancels leave though they cannot be written down: %s", e)
            return e
        return None

    async def _cancel(self, order: Order) -> None:
        self._live.heard(order.ref)
        self._cancelled_at[order.ref] = self._clock.now()
        try:
            await self._broker.cancel(order)
        except (TransientError, OutcomeUnknown) as e:  # asked for again, harmlessly
            log.warning("cancel of %s: %s", order.ref, e)
            self._again(order.ref)
        except DpaError as e:
            self._halt(f"cancel of {order.intent.symbol}: {e}")

    def _again(self, ref: str) -> None:
        self.queue.put(ref, Priority.CANCEL, Message(Kind.CANCEL, ref), self._clock.now())

    async def _places(self, messages: list[Message], quotes: Quotes) -> list[Refusal]:
        """Send orders: those that add risk wait for their margins, the others do not wait."""
        if not messages:
            return []
        passed, refusals = self._looked_at([message.ref for message in messages], quotes)
        held = self._situation(quotes).positions
        asking = [order for order in passed if self._needs_margin(order, held)]
        refs = {order.ref for order in asking}
        refusals += await self._hand_over([o for o in passed if o.ref not in refs], quotes)
        if asking:
            refusals += await self._ask_margins(asking, quotes)
            passed, refused = self._looked_at([order.ref for order in asking], quotes)
            refusals += refused + await self._hand_over(passed, quotes)
        return refusals

    def _looked_at(self, refs: Iterable[str], quotes: Quotes) -> tuple[list[Order], list[Refusal]]:
        """Orders that pass the checks of this moment, and the refusals of the others."""
        situation = self._situation(quotes)
        passed, refusals = [], []
        for ref in refs:
            order = self._live.get(ref)
            if order is None or order.state.is_final:
                continue
            found = self._look(order, situation)
            if found is None:
                passed.append(order)
            else:
                refusals.append(self._refuse(order, found.code, found.what, found.cure))
        return passed, refusals

    async def _hand_over(self, orders: list[Order], quotes: Quotes) -> list[Refusal]:
        ready = [self._priced(self._in_turn(order), quotes) for order in orders]
        ready.sort(key=lambda order: order.order_id)
        self._live.keep(*ready)
        found = [await self._send(order) for order in ready]
        return [refusal for refusal in found if refusal is not None]

    def _in_turn(self, order: Order) -> Order:
        """Return an order whose number is above all that were sent; brokers refuse lower ones.

        One that was overtaken while it waited gets another number, as another attempt: nothing
        was sent of the one before.
        """
        if order.order_id > self._highest and order.order_id >= self._broker.next_order_id:
            return order
        why = "its number was overtaken while it waited; nothing was sent"
        number = max(self._journal.order_id_mark + 1, self._broker.next_order_id)
        again = Order(order.intent, order.attempt + 1, number, limit=order.limit)
        with self._journal.transaction():
            self._live.keep(replace(order, state=OrderState.ABSENT, reason=why), why=why)
            self._live.new_attempt(again)
        return again

    def _look(self, order: Order, situation: Situation) -> Refusal | None:
        """Check an order as if it were not there yet."""
        symbol = order.intent.symbol
        alone = altered(
            situation,
            busy=() if self._live.count(symbol) == 1 else (symbol,),
            working=max(situation.working - 1, 0),
            known=(),
            added_lately=0,
            added_in_session=0,
        )
        found = check(order.intent, alone, self._settings)
        if found is not None or order.intent.style not in (Style.LIMIT, Style.ADAPTIVE):
            return found
        if self._limit(order, situation.quotes) is None:
            return Refusal(order.intent, RefusalCode.QUOTE, f"{symbol}: no limit above 0 is left")
        return None

    def _needs_margin(self, order: Order, positions: Mapping[str, Decimal]) -> bool:
        held = positions.get(order.intent.symbol, Decimal(0))
        return self._settings.trading.what_if and not reduces(order.intent, held)

    async def _ask_margins(self, orders: list[Order], quotes: Quotes) -> list[Refusal]:
        """Ask for the margins of all at once; give up those that are too large or not told."""
        found = await asyncio.gather(*(self._margin(order, quotes) for order in orders))
        return [
            self._refuse(order, refusal.code, refusal.what, refusal.cure)
            for order, refusal in zip(orders, found, strict=True)
            if refusal is not None
        ]

    async def _margin(self, order: Order, quotes: Quotes) -> Refusal | None:
        self.queue.spend(self._clock.now())
        symbol = order.intent.symbol
        try:
            margin = await self._broker.what_if(self._priced(order, quotes))
        except DpaError as e:
            what = f"{symbol}: the broker did not say what margin it takes: {e}"
            return Refusal(order.intent, RefusalCode.MARGIN, what)
        if margin.allowed:
            return None
        what = f"{symbol}: initial margin {margin.initial} is above the equity, {margin.equity}"
        return Refusal(order.intent, RefusalCode.MARGIN, what)

    def _limit(self, order: Order, quotes: Quotes) -> Decimal | None:
        intent, trading = order.intent, self._settings.trading
        step = step_at(
            intent.decided_at, self._clock.now(), trading.step_seconds, trading.adaptive_steps
        )
        instrument = self._instruments[intent.symbol]
        return limit_now(intent, quotes.get(intent.symbol), instrument, self._settings, step)

    def _priced(self, order: Order, quotes: Quotes) -> Order:
        return lifecycle.sent(altered(order, limit=self._limit(order, quotes)))

    async def _send(self, order: Order) -> Refusal | None:
        with about(decision_id=order.intent.decision, intent_id=order.ref, order_id=order.order_id):
            return await self._send_one(order)

    async def _send_one(self, order: Order) -> Refusal | None:
        symbol = order.intent.symbol
        if not (self._is_wanted(order) and self.allowed(order.intent)):
            found = self._last_look(order)
            if found is not None:
                return found
        if not self._ready():
            what = f"{symbol}: the broker went away before it was sent"
            return self._refuse(order, RefusalCode.NOT_READY, what)
        self._live.placed(order.ref)
        before, self._highest = self._highest, max(self._highest, order.order_id)
        try:
            await self._broker.place(order, lambda: self._still(order) and self._ready())
        except TransientError as e:
            self._highest = before
            log.warning("order %s was not sent: %s", order.ref, e)
            found = self._last_look(order)
            if found is not None:
                return found
            self.place(order, reducing=not order.intent.purpose.adds)
        except OutcomeUnknown as e:
            self._doubt(order, str(e))
        except Exception as e:  # nobody knows what left: surfaced, and trading halts
            log.exception("order %s", order.ref)
            self._doubt(order, repr(e))
            self._halt(f"{symbol}: an order could not be sent: {e!r}")
        return None

    def _is_wanted(self, order: Order) -> bool:
        """Whether it was written down as sent, and nobody asked for its end since."""
        newest = self._live.get(order.ref)
        if newest is None or newest.state is not OrderState.SENT:
            return False
        return not self.queue.holds(order.ref, Priority.CANCEL)

    def _still(self, order: Order) -> bool:
        """Whether an order that was written down as sent may leave, the switch read now."""
        return self._is_wanted(order) and self._may_leave(order.intent)

    def _may_leave(self, intent: Intent) -> bool:
        """Whether the switch lets it pass, and no other trader took this one's place."""
        return self.allowed(intent) and not self._journal.followed

    def _last_look(self, order: Order) -> Refusal | None:
        symbol = order.intent.symbol
        if not self.allowed(order.intent):
            what = f"{symbol}: trading is {self._switch.level.name.lower()}"
            return self._refuse(order, RefusalCode.LEVEL, what)
        if not self._still(order):
            what = f"{symbol}: it was cancelled before it was sent"
            return self._refuse(order, RefusalCode.EXPIRED, what)
        return None

    def _doubt(self, order: Order, why: str) -> None:
        newest = self._live.get(order.ref)
        if newest is not None:
            self._live.keep(lifecycle.doubted(newest, why), why=why)

    def allowed(self, intent: Intent) -> bool:
        """Whether the switch, read now, lets an intent pass."""
        level = self._switch.level
        if level is Level.RUNNING:
            return True
        held = self._journal.ledger(intent.account).position(intent.symbol).shares
        return level < Level.HALTED and reduces(intent, held)

    async def _limits(self, messages: list[Message], quotes: Quotes) -> None:
        for message in messages:
            order = self._live.get(message.ref)
            if order is None or message.limit is None or order.limit == message.limit:
                continue
            if order.state is not OrderState.WORKING or not self.allowed(order.intent):
                continue
            self._live.keep(replace(order, limit=message.limit))
            try:
                still = partial(self._may_leave, order.intent)
                await self._broker.modify(order, message.limit, still)
            except (TransientError, OutcomeUnknown) as e:  # asked for again at the next beat
                log.warning("limit of %s: %s", order.ref, e)
                self._keep_old_limit(order)
            except DpaError as e:
                self._keep_old_limit(order)
                self._halt(f"limit of {order.intent.symbol}: {e}")

    def _keep_old_limit(self, order: Order) -> None:
        newest = self._live.get(order.ref)
        if newest is not None and not newest.state.is_final:
            self._live.keep(replace(newest, limit=order.limit), why="the new limit was not sent")
