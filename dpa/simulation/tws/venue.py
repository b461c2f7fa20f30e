"""The venue: it takes orders, trades them against a market, and keeps everybody's books.

It is a discrete-event simulation: :meth:`SimVenue.advance` moves its clock to the next moment at
which anything happens and does it. Nothing here waits, reads a clock, or knows of sockets.
"""

import copy
from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

from dpa.clock import Clock
from dpa.errors import ConfigError
from dpa.simulation.tws import intake
from dpa.simulation.tws.accounts import ZERO, Account, Accounts, Rates, revised, stem
from dpa.simulation.tws.agenda import Agenda, Turn, VenueClock
from dpa.simulation.tws.book import MANUAL_CLIENT, OrderBook, Working
from dpa.simulation.tws.contracts import Hours, Listing
from dpa.simulation.tws.faults import Layers
from dpa.simulation.tws.markets import TRADES, Market, Step
from dpa.simulation.tws.matching import Trade, reaches, trades, triggered
from dpa.simulation.tws.outlet import Outlet
from dpa.simulation.tws.script import Faults, Script
from dpa.simulation.tws.tape import Past, Tape
from dpa.simulation.tws.words import (
    Contract,
    Listener,
    Refused,
    SimCommission,
    SimExecution,
    SimMargin,
    SimOrder,
    SimPosition,
    SimQuote,
    Traits,
)

CLOSING_CUTOFF = timedelta(minutes=10)  # before the close: no more orders for the auction
BEFORE = timedelta(minutes=10)  # the first open
AFTER = timedelta(minutes=10)  # the last close
READ_ONLY = Refused(
    321,
    "Error validating request.-'bW' : cause - The API interface is currently in Read-Only mode.",
)


class SimVenue:
    """Matching, accounts and a market behind the sessions of a gateway.

    Parameters
    ----------
    market : Market
    traits : Traits, optional
    deposit : Decimal
        Cash each account begins with, USD.
    rates : Rates, optional
    script : Script, optional
        Faults; none by default.
    clock : VenueClock, optional
        By default one that only :meth:`advance` moves. It is set to ten minutes before the
        first open.
    size_increment : Decimal
        Shares are multiples of it; below 1 for fractional shares.
    series : int
        First part of the ids of fills: those of another series are others.
    """

    def __init__(
        self,
        market: Market,
        traits: Traits | None = None,
        deposit: Decimal = Decimal(1_000_000),
        rates: Rates | None = None,
        script: Script | None = None,
        clock: VenueClock | None = None,
        size_increment: Decimal = Decimal(1),
        series: int = 0xE0D5,
    ) -> None:
        starts, self.ends_at = market.starts_at - BEFORE, market.ends_at + AFTER
        self.market, self.traits = market, traits or Traits()
        self._clock = clock or VenueClock(starts)
        self._clock.set(starts)
        self.clock: Clock = self._clock
        self.hours = Hours(market.panel.calendar, market.opens[0], market.ends_at)
        self.listing = Listing(market.panel.names, self.hours, size_increment=size_increment)
        self.tape = Tape(market)
        self.past = Past(self.tape, self.hours)
        self.accounts = Accounts(self.traits.accounts, deposit, rates)
        self.book = OrderBook()
        self.agenda = Agenda()
        self.outlet = Outlet(self.agenda, self.clock.now)
        self.events = 0  # done so far
        self._executions: list[tuple[SimExecution, SimCommission]] = []
        self._series, self._sequence = series, 0
        self._day = starts
        self._stirring = False
        self._steps = market.steps()
        self.layers = Layers()
        self._plan()
        self.faults = Faults(script or Script(), self)
        self._new_day()

    # time

    def _plan(self) -> None:
        """Sessions and the end; the market's steps write themselves down one by one."""
        live = self.market.opens[self.market.live_from]
        for opens, closes in zip(self.hours.opens, self.hours.closes, strict=True):
            if live <= opens < self.ends_at:
                self.agenda.add(opens, self._open, Turn.OPEN)
                self.agenda.add(closes, self._close, Turn.CLOSE)
        self.agenda.add(self.ends_at, lambda: None, Turn.CLOSE)
        self._next_step()

    def _next_step(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self.agenda.add(step.moment, lambda: self._step(step), Turn.STEP)

    @property
    def speed(self) -> float:
        """Seconds here in a second of the clock that runs it; 0: nothing does."""
        return self._clock.speed

    @property
    def ended(self) -> bool:
        """Whether nothing will ever happen any more."""
        moment = self.agenda.next_moment
        return moment is None or moment > self.ends_at

    def advance(self) -> bool:
        """Move to the next moment at which something happens, and do it; False at the end."""
        moment = self.agenda.next_moment
        if moment is None or moment > self.ends_at:
            return False
        self._clock.set(moment)
        self._new_day()
        self.events += self.agenda.run(moment)
        return True

    def wake_at(self, moment: datetime) -> None:
        """Let there be a moment then, though nothing happens; after the end there is none."""
        if self.clock.now() < moment <= self.ends_at:
            self.agenda.add(moment, lambda: None, Turn.CLOSE)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self.agenda.add(self.clock.now() + timedelta(seconds=seconds), action)

    def _new_day(self) -> None:
        if self._today_began(self.clock.now()) != self._day:
            self._day = self._today_began(self.clock.now())
            self.listing.new_day(self.clock.now())

    def _today_began(self, now: datetime) -> datetime:
        return datetime.combine(now.astimezone(self.hours.zone).date(), time(), self.hours.zone)

    # the market

    def _step(self, step: Step) -> None:
        self._next_step()
        if self.outlet.everyone:
            self._publish_bars(step)
        changed = self.tape.move(step)
        self.accounts.prices_version += 1
        if self.outlet.everyone:
            for place in changed:
                self._publish(place)
        live = self.book.live_places()
        for place in sorted(live.intersection(changed)):
            self._match(place)
        if step.part == TRADES - 1:
            self.faults.saw("bar")

    def _publish(self, place: int) -> None:
        contract = self.listing.contracts[place]
        if self.outlet.follows_quotes(contract):
            self.outlet.quote(contract, self.tape.quote(place))

    def _publish_bars(self, step: Step) -> None:
        for place, contract in enumerate(self.listing.contracts):
            if self.outlet.follows_bars(contract):
                self.outlet.bars(contract, self.tape.pieces(step, place))

    def changed(self, place: int) -> None:
        """Something about a quote was changed by hand: publish it, and match."""
        self.accounts.prices_version += 1
        self.tape.forget(place)
        self._publish(place)
        self._match(place)

    def _open(self) -> None:
        for work in self.book.live():
            work.resting = False
            if work.order.status == "PreSubmitted" and not work.waiting and not work.held:
                work.order.status = "Submitted"
                self.outlet.order(work.order)

    def _close(self) -> None:
        """The closing auction; then orders of the day end."""
        now = self.clock.now()
        for work in self.book.live():
            price = self.tape.last(work.place)
            limit = work.order.limit
            if work.closing and price is not None and reaches(work.buying, limit, price):
                self._fill(work, Trade(price, work.order.remaining))
            if not work.order.done and work.expires is not None and work.expires <= now:
                self._cancelled(work)

    # orders

    def next_order_id(self, client_id: int) -> int:
        """Lowest number a client may use."""
        return self.book.next_id(client_id)

    def place(
        self, client_id: int, order_id: int, contract: Contract, fields: Mapping[str, str]
    ) -> Refused | None:
        """A new order, a modification or, with ``whatIf``, a question."""
        question = fields.get("whatIf", "0") not in ("", "0")
        if not question:
            self.faults.saw("order", contract.symbol)
            if self._lost("order"):
                return None
        if self.traits.read_only:
            return READ_ONLY
        known = None if question else self.book.find(client_id, order_id)
        if known is not None and not known.order.done:
            return self._modify(known, contract, fields)
        if not question and order_id <= self.book.next_id(client_id) - 1:
            if known is not None:
                return Refused(104, f"Cannot modify a {known.order.status.lower()} order.")
            return Refused(103, "Duplicate order id")
        if not question:
            self.book.used(client_id, order_id)
        refused = intake.refusal(contract, fields, self.accounts.by_name)
        if refused is not None:
            return refused
        account = fields.get("account") or next(iter(self.accounts.by_name))
        order = intake.sim_order(client_id, order_id, contract, fields, account)
        if question:
            return self._answer(order)
        return self._accept(order, fields)

    def _lost(self, what: str) -> bool:
        left = self.outlet.mischief.lose.get(what, 0)
        self.outlet.mischief.lose[what] = max(left - 1, 0)
        return left > 0

    def _accept(self, order: SimOrder, fields: Mapping[str, str]) -> Refused | None:
        place = self.listing.place(order.contract.con_id)
        work = Working(order, place, intake.number(fields, "auxPrice"))
        work.waiting = work.stopped
        refused = self._rejection(order, what_if=False) or self._reason_against(work)
        if refused is not None and refused.code != 201:
            return refused
        order.perm_id = self.book.next_perm_id()
        if self.outlet.mischief.hide:
            self.outlet.mischief.hide -= 1
            self.outlet.mischief.hidden.add(order.perm_id)
        if refused is not None:
            order.status, order.completed_at = "Inactive", self.clock.now()
            self.book.add(work)
            self.outlet.order_error(order, refused.code, refused.message)
            self.outlet.order(order)
            return None
        if order.tif == "DAY":
            work.expires = self.hours.next_close(self.clock.now())
        self.book.add(work)
        self._tell_accepted(work, fields)
        self._work(work)
        return None

    def _tell_accepted(self, work: Working, fields: Mapping[str, str]) -> None:
        order, now = work.order, self.clock.now()
        if self._must_locate(work):
            work.held, order.why_held = True, "locate"
        waits = work.held or work.waiting or not self.hours.is_open(now)
        order.status = "PreSubmitted" if waits else "Submitted"
        self.outlet.order(order)
        if not fields.get("tif"):
            words = "Order TIF was set to DAY based on order preset."
            self.outlet.order_error(order, 10349, words)
        if work.held:
            self.outlet.order_error(order, 404, "Order held while securities are located.")
        if not self.hours.is_open(now) and order.tif != "IOC":
            opens = self.hours.next_open(now).astimezone(self.hours.zone)
            self.outlet.order_error(
                order,
                399,
                f"Order Message:\n{order.action} {order.quantity} {order.contract.symbol}\n"
                "Warning: your order will not be placed at the exchange until "
                f"{opens:%Y-%m-%d %H:%M:%S} {self.hours.zone.key}",
            )

    def _rejection(self, order: SimOrder, what_if: bool) -> Refused | None:
        """What a fault holds ready for it."""
        for rejection in self.outlet.mischief.rejections:
            fits = rejection.symbol in (None, order.contract.symbol)
            if rejection.left > 0 and fits and rejection.what_if >= what_if:
                rejection.left -= 1
                return Refused(rejection.code, rejection.message)
        return None

    def _reason_against(self, work: Working) -> Refused | None:
        """Why a valid order is rejected all the same."""
        now = self.clock.now()
        if work.closing and self.hours.is_open(now):
            closes = self.hours.next_close(now)
            if now >= closes - CLOSING_CUTOFF:
                return Refused(201, "Order rejected - reason:Closing orders are no longer taken.")
        margin = self._margin(work.order)
        grows = margin.initial_after > margin.initial_before
        if grows and margin.initial_after > margin.equity_after:
            return Refused(
                201,
                "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE "
                "DESIRED POSITION YOUR EQUITY WITH LOAN VALUE "
                f"[{margin.equity_after:.2f} USD] MUST EXCEED THE INITIAL MARGIN "
                f"[{margin.initial_after:.2f} USD]",
            )
        return None

    def _must_locate(self, work: Working) -> bool:
        """Whether it sells more shares than are held and than can be borrowed."""
        order = work.order
        if work.buying or work.place not in self.tape.borrow:
            return False
        held = self.accounts[order.account].shares(order.contract.con_id)
        short = order.remaining - max(held, ZERO)
        return short > self.tape.borrow[work.place]

    def locate(self, place: int, shares: int | None) -> None:
        """So many shares can be borrowed from now on; None: as many as anybody wants."""
        if shares is None:
            self.tape.borrow.pop(place, None)
        else:
            self.tape.borrow[place] = shares
        for work in self.book.live(place):
            if work.held and not self._must_locate(work):
                work.held, work.order.why_held = False, ""
                if self.hours.is_open(self.clock.now()) and not work.waiting:
                    work.order.status = "Submitted"
                self.outlet.order(work.order)
        self.changed(place)

    def _modify(
        self, work: Working, contract: Contract, fields: Mapping[str, str]
    ) -> Refused | None:
        order = work.order
        same = fields.get("action") == order.action and contract.con_id == order.contract.con_id
        if not same or fields.get("orderType") != order.order_type:
            return Refused(105, "Order being modified does not match original order.")
        refused = intake.refusal(contract, fields, self.accounts.by_name)
        if refused is not None:
            return refused
        account = fields.get("account") or order.account
        new = intake.sim_order(order.client_id, order.order_id, contract, fields, account)
        if account != order.account or new.quantity <= order.filled or work.cancelling:
            return Refused(201, "Order rejected - reason:Order cannot be modified as asked.")
        order.fields, order.quantity, order.limit, order.tif = (
            fields,
            new.quantity,
            new.limit,
            new.tif,
        )
        work.stop, work.resting = intake.number(fields, "auxPrice"), False
        work.expires = self.hours.next_close(self.clock.now()) if order.tif == "DAY" else None
        self.outlet.order(order)
        self._work(work)
        return None

    def cancel(self, client_id: int, order_id: int) -> Refused | None:
        """End an order; refused where there is none, or none any more."""
        self.faults.saw("cancel")
        if self._lost("cancel"):
            return None
        work = self.book.find(client_id, order_id)
        words = f"OrderId {order_id} that needs to be cancelled "
        if work is None:
            return Refused(10147, f"{words}is not found.")
        if work.order.done:
            return Refused(10148, f"{words}cannot be cancelled, state: {work.order.status}.")
        if work.cancelling:
            return Refused(
                161,
                "Cancel attempted when order is not in a cancellable state.  "
                f"Order permId ={work.order.perm_id}",
            )
        self._cancel(work)
        return None

    def cancel_all(self) -> None:
        """End every order of every client."""
        self.faults.saw("cancel")
        if not self._lost("cancel"):
            for work in self.book.live():
                if not work.cancelling:
                    self._cancel(work)

    def _cancel(self, work: Working) -> None:
        seconds = self.outlet.mischief.cancel_seconds
        if seconds <= 0:
            self._cancelled(work)
            return
        work.cancelling, work.order.status = True, "PendingCancel"
        self.outlet.status(work.order)
        self.later(seconds, lambda: self._cancelled(work))

    def _cancelled(self, work: Working) -> None:
        order = work.order
        if order.done:
            return
        order.status, order.completed_at = "Cancelled", self.clock.now()
        self.book.ended(work)
        self.outlet.order_error(order, 202, "Order Canceled - reason:")
        self.outlet.status(order)

    def manual(self, order: SimOrder) -> SimOrder:
        """An order that a person, or a program not connected here, has given."""
        work = Working(order, self.listing.place(order.contract.con_id))
        order.perm_id, order.status = self.book.next_perm_id(), "Submitted"
        if order.tif == "DAY":
            work.expires = self.hours.next_close(self.clock.now())
        self.book.used(order.client_id, order.order_id)
        self.book.add(work)
        self.outlet.order(order)
        self._work(work)
        return order

    # trading

    def _match(self, place: int) -> None:
        for work in self.book.live(place):
            self._work(work)

    def _work(self, work: Working) -> None:
        """Trade what can be traded of an order now."""
        order, place = work.order, work.place
        is_open = self.hours.is_open(self.clock.now())
        if is_open and not (order.done or work.held or work.closing):
            if work.waiting and not self._trigger(work):
                return
            levels = self.tape.levels(place, work.buying)
            limit = order.limit
            found = trades(work.buying, order.remaining, limit, levels, work.resting)
            for trade in found:
                self.tape.take(place, work.buying, trade.shares)
                self._fill(work, trade)
            work.resting = self._rests(work)
        if not order.done and order.tif == "IOC":
            self._cancelled(work)
        elif is_open and not order.done:
            self._keep_quoting()

    def _trigger(self, work: Working) -> bool:
        last = self.tape.last(work.place)
        if last is None or work.stop is None or not triggered(work.buying, work.stop, last):
            return False
        work.waiting = False
        work.order.status = "Submitted"
        self.outlet.order(work.order)
        return True

    def _far_side(self, work: Working) -> Decimal | None:
        """The price an order would trade at; none where the quote is not sound."""
        quote = self.tape.quote(work.place)
        bid, ask = quote.bid, quote.ask
        if quote.halted or bid is None or ask is None or bid >= ask:
            return None
        return ask if work.buying else bid

    def _rests(self, work: Working) -> bool:
        """Whether the market has to come to it."""
        price = self._far_side(work)
        return price is not None and not reaches(work.buying, work.order.limit, price)

    def _keep_quoting(self) -> None:
        """While orders work, quotes of their names keep coming, and offer what was taken."""
        if self._stirring or not self.book.live_places():
            return
        self._stirring = True

        def stir() -> None:
            self._stirring = False
            if self.hours.is_open(self.clock.now()):
                for place in sorted(self.book.live_places()):
                    if self.tape.stir(place, self.clock.now()):
                        self._publish(place)
                        self._match(place)
                self._keep_quoting()

        self.later(self.market.book.working_seconds, stir)

    def _fill(self, work: Working, trade: Trade, liquidation: int = 0) -> None:
        order, shares = work.order, trade.shares
        before = copy.copy(order)
        order.filled += shares
        work.value += shares * trade.price
        order.average_price, order.last_price = work.value / order.filled, trade.price
        if order.remaining <= 0:
            order.status, order.completed_at = "Filled", self.clock.now()
            self.book.ended(work)
        fee = self.accounts.rates.commission(order.filled, work.value) - work.fee
        work.fee += fee
        order.commission = work.fee
        self._sequence += 1
        execution = SimExecution(
            f"{self._series:08x}.{self._sequence:08x}.01.01",
            order.order_id,
            order.client_id,
            order.perm_id,
            order.account,
            order.contract,
            "BOT" if work.buying else "SLD",
            shares,
            trade.price,
            self.clock.now().replace(microsecond=0),
            order.filled,
            order.average_price,
            order.ref,
            liquidation,
        )
        account = self.accounts[order.account]
        closes = account.shares(order.contract.con_id) * (1 if work.buying else -1) < 0
        realised = account.book(execution, fee)
        commission = SimCommission(execution.exec_id, fee, "USD", realised if closes else None)
        self._executions.append((execution, commission))
        self.outlet.fill(order, before, execution, commission)
        self._tell_position(execution)
        self.faults.saw("fill", order.contract.symbol)

    def _tell_position(self, execution: SimExecution) -> None:
        account = self.accounts[execution.account]
        self.outlet.position(self.accounts.position(account, execution.contract, self.price))

    def liquidate(self, account: str, contract: Contract, shares: Decimal | None = None) -> bool:
        """The broker closes a position, or `shares` of it, by itself; False where there is none."""
        held = self.accounts[account].shares(contract.con_id)
        place = self.listing.place(contract.con_id)
        quote = self.tape.quote(place)
        price = (quote.bid if held > 0 else quote.ask) or self.tape.last(place)
        if not held or price is None:
            return False
        count = abs(held) if shares is None else min(shares, abs(held))
        order = SimOrder(
            MANUAL_CLIENT,
            0,
            self.book.next_perm_id(),
            contract,
            {},
            account,
            "SELL" if held > 0 else "BUY",
            "MKT",
            count,
            None,
            "DAY",
            "",
            "Submitted",
        )
        work = Working(order, place)
        self.book.add(work)
        self._fill(work, Trade(price, count), liquidation=1)
        return True

    def correct(
        self,
        exec_id: str | None = None,
        price: Decimal | None = None,
        shares: Decimal | None = None,
    ) -> SimExecution | None:
        """Restate a fill, the newest by default; no shares: it is taken back. None: no such fill.

        The order keeps what it said; positions, cash and fees are folded again.
        """
        newest = {stem(e.exec_id): e for e, _ in self._executions}
        old = newest.get(stem(exec_id)) if exec_id else next(reversed(newest.values()), None)
        if old is None:
            return None
        count = old.shares if shares is None else shares
        new = copy.copy(old)
        for name, value in (
            ("exec_id", revised(old.exec_id)),
            ("shares", count),
            ("price", old.price if price is None else price),
            ("cumulative", old.cumulative - old.shares + count),
        ):
            object.__setattr__(new, name, value)
        account = self.accounts[old.account]
        fee = account.entries[stem(old.exec_id)].fee if count else ZERO
        account.restate(new, fee)
        commission = SimCommission(new.exec_id, fee)
        self._executions.append((new, commission))
        order = next(w.order for w in self.book.all if w.order.perm_id == old.perm_id)
        self.outlet.correction(order, new, commission)
        self._tell_position(new)
        return new

    def take_over(self, books: Mapping[str, Any]) -> None:
        """Let accounts begin with the cash and the positions of an earlier :meth:`truth`.

        Raises
        ------
        ConfigError
            When an account or a symbol is not there, or a number is none.
        """
        for name, book in books.items():
            if name not in self.accounts:
                raise ConfigError(f"books: there is no account {name!r}", "see --accounts")
            account = self.accounts[name]
            try:
                account.deposit = account.cash = Decimal(book["cash"])
                for symbol, held in book["positions"].items():
                    con_id = self.listing.contracts[self.place_of(symbol)].con_id
                    account.give(con_id, Decimal(held["shares"]), Decimal(held["average_cost"]))
            except (KeyError, TypeError, ArithmeticError) as e:
                raise ConfigError(f"books: {name}: {e!r}", "give the accounts of a --truth") from e

    def open_account(self, name: str) -> None:
        """An account by that name, with the deposit of the first one, unless there is one."""
        if name not in self.accounts:
            first = next(iter(self.accounts.by_name.values()))
            self.accounts.by_name[name] = Account(name, first.deposit)

    # questions

    def attach(self, listener: Listener) -> Refused | None:
        """A client has started; 326 where its id is in use."""
        refused = self.outlet.attach(listener)
        if refused is None:
            self.faults.saw("connect")
        return refused

    def detach(self, listener: Listener) -> None:
        """A client has gone; its orders stay."""
        self.outlet.detach(listener)

    def find(self, con_id: int, symbol: str) -> Contract | None:
        """A contract by its number, or else by its symbol."""
        return self.listing.find(con_id, symbol)

    def price(self, con_id: int) -> Decimal:
        """What a share is worth now: the newest trade, USD; 0 before the first."""
        return self.tape.last(self.listing.place(con_id)) or ZERO

    def _answer(self, order: SimOrder) -> Refused | None:
        refused = self._rejection(order, what_if=True)
        if refused is None:
            order.status = "PreSubmitted"
            margin = self._margin(order)
            for listener in self.outlet.everyone:
                if listener.client_id == order.client_id:
                    listener.open_order(order, margin)
        return refused

    def _margin(self, order: SimOrder) -> SimMargin:
        """What an order would do to its account."""
        account, con_id = self.accounts[order.account], order.contract.con_id
        price = self.price(con_id) or order.limit or ZERO
        held = account.shares(con_id)
        signed = order.remaining if order.action == "BUY" else -order.remaining
        more = (abs(held + signed) - abs(held)) * price
        equity, gross = self.accounts.worth(account, self.price)
        fee = self.accounts.rates.commission(order.quantity, order.quantity * price)
        before, after = self.accounts.margins(gross), self.accounts.margins(gross + more)
        return SimMargin(before[0], before[1], equity, after[0], after[1], equity - fee, fee)

    def open_orders(self, client_id: int | None) -> tuple[SimOrder, ...]:
        """Orders that still work, of a client or of all."""
        live = (work.order for work in self.book.live())
        return tuple(order for order in live if client_id in (None, order.client_id))

    def completed_orders(self) -> tuple[SimOrder, ...]:
        """Orders of today that work no more."""
        orders = (work.order for work in self.book.all if work.order.done)
        return tuple(o for o in orders if o.completed_at and o.completed_at >= self._day)

    def executions(self) -> tuple[tuple[SimExecution, SimCommission | None], ...]:
        """Of today, all revisions, oldest first, with their fees where they were reported."""
        reported = self.outlet.reported
        return tuple(
            (execution, commission if execution.exec_id in reported else None)
            for execution, commission in self._executions
            if execution.time >= self._day
        )

    def positions(self) -> tuple[SimPosition, ...]:
        """Of all accounts; also those that have become flat."""
        return self.accounts.positions(self._contract, self.price)

    def _contract(self, con_id: int) -> Contract:
        return self.listing.contracts[self.listing.place(con_id)]

    def account_values(self, account: str) -> tuple[tuple[str, str, str], ...]:
        """(tag, value, currency), as TWS names them."""
        return self.accounts.values(account, self.price)

    def quote(self, contract: Contract) -> SimQuote | None:
        """Top of the book."""
        return self.tape.quote(self.listing.place(contract.con_id))

    def history(
        self,
        contract: Contract,
        end: datetime,
        duration_seconds: int,
        bar_seconds: int,
        regular_hours: bool,
    ) -> tuple[Any, ...] | Refused:
        """Bars of the past; the venue trades in regular hours only."""
        place = self.listing.place(contract.con_id)
        return self.past.bars(place, self.clock.now(), end, duration_seconds, bar_seconds)

    def place_of(self, symbol: str) -> int:
        """Column of a symbol in the market, as TWS or as dpa writes it.

        Raises
        ------
        ConfigError
            When it is not listed.
        """
        contract = self.listing.find(0, symbol)
        if contract is None:
            shown = ", ".join(self.market.panel.names[:5])
            raise ConfigError(f"symbol: {symbol!r} is not listed", f"it lists {shown} ...")
        return self.listing.place(contract.con_id)

    def truth(self) -> dict[str, Any]:
        """Orders, executions, positions and cash as they are: what every ledger is compared with.

        All numbers are decimal texts; moments are ISO texts, UTC.
        """
        return {
            "now": self.clock.now().isoformat(),
            "orders": [_told_order(work) for work in self.book.all],
            "executions": [
                _told_execution(execution, commission, execution.exec_id in self.outlet.reported)
                for execution, commission in self._executions
            ],
            "accounts": {
                name: {
                    "deposit": str(account.deposit),
                    "cash": str(account.cash),
                    "fees": str(account.fees),
                    "positions": {
                        self._contract(con_id).symbol: {
                            "shares": str(held.shares),
                            "average_cost": str(held.average_cost),
                            "realised": str(held.realised),
                        }
                        for con_id, held in sorted(account.held.items())
                    },
                }
                for name, account in self.accounts.by_name.items()
            },
        }


def _told_order(work: Working) -> dict[str, Any]:
    order = work.order
    return {
        "client_id": order.client_id,
        "order_id": order.order_id,
        "perm_id": order.perm_id,
        "ref": order.ref,
        "symbol": order.contract.symbol,
        "account": order.account,
        "action": order.action,
        "order_type": order.order_type,
        "tif": order.tif,
        "limit": None if order.limit is None else str(order.limit),
        "quantity": str(order.quantity),
        "filled": str(order.filled),
        "average_price": str(order.average_price),
        "status": order.status,
        "why_held": order.why_held,
    }


def _told_execution(
    execution: SimExecution, commission: SimCommission, reported: bool
) -> dict[str, Any]:
    return {
        "exec_id": execution.exec_id,
        "order_id": execution.order_id,
        "client_id": execution.client_id,
        "perm_id": execution.perm_id,
        "ref": execution.ref,
        "account": execution.account,
        "symbol": execution.contract.symbol,
        "side": execution.side,
        "shares": str(execution.shares),
        "price": str(execution.price),
        "time": execution.time.isoformat(),
        "liquidation": execution.liquidation,
        "commission": str(commission.amount),
        "commission_told": reported,
    }
