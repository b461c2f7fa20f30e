"""The engine: each bar of a session becomes a snapshot, a decision, intents and orders.

It never sleeps and reads no clock but the one it is given: :meth:`Engine.step` does all that is
due, and :meth:`Engine.next_at` tells when there will be something again. So the same engine runs
by the wall clock and from one simulated moment to the next.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from dpa.clock import Clock
from dpa.config import Settings
from dpa.decision.types import Feed as FeedKind
from dpa.decision.types import RiskLevel
from dpa.errors import DpaError
from dpa.market.costs import CostModel
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.serving.types import Request
from dpa.telemetry.ids import about
from dpa.trading.book_of_accounts import BookOfAccounts, Keeper, Worth
from dpa.trading.decider import Decider
from dpa.trading.events import (
    Alert,
    BarTaken,
    Decided,
    Event,
    Intended,
    LeftOut,
    NotDecided,
    Severity,
    Valued,
)
from dpa.trading.exits import BLIND_STYLES, Exits, Unquoted, ageing_id
from dpa.trading.feed import Feed, FeedBar, SharesLines
from dpa.trading.hours import BarCloses, Hours
from dpa.trading.intents import Leg, Price, Target, intent_for, next_leg
from dpa.trading.ledger import Ledger
from dpa.trading.snapshots import KEPT_RETURNS, Volatility, closes_of, request_of, whole_shares
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Instrument, Intent, Order, Purpose, Quote, Style

AWAY_BARS = 3  # in a row without a decision, from which it is critical
LOOK_SECONDS = 1.0  # between looks while anything is being worked on
BAR_LOOK_SECONDS = 0.02  # between looks for a bar that has closed and is not here yet
BY = "engine"
ALL, REDUCTIONS, NOTHING = "all", "reductions", "nothing"
_SEVERITY = {ALL: 0, REDUCTIONS: 1, NOTHING: 2}
log = logging.getLogger("dpa.trading")


class Dealing(Protocol):
    """What the engine asks of the dealer."""

    @property
    def account(self) -> str: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def live_orders(self) -> Sequence[Order]: ...
    def next_at(self, now: datetime) -> datetime: ...
    async def let_go(self) -> None: ...
    async def submit(self, intents: Sequence[Intent], quotes: Mapping[str, Quote]) -> object: ...
    async def beat(self, now: datetime, quotes: Mapping[str, Quote]) -> None: ...


@runtime_checkable
class KnowsVolumes(Protocol):
    """A feed that knows what is traded on average."""

    def adv_usd(self, time: datetime) -> Mapping[str, float]:
        """Average daily traded value by symbol, USD, known at the close `time` of a bar."""
        ...


@dataclass(eq=False)
class _Asked:
    """A request on its way."""

    bar: FeedBar
    closes: datetime
    request: Request
    answer: "asyncio.Task[Mapping[str, Any]]"
    superseded: bool = False
    counted: bool = False  # as a bar without a decision


@dataclass(frozen=True)
class Working:
    """What the engine is about, for whoever asks.

    Parameters
    ----------
    bar : datetime, optional
        Close of the newest bar taken.
    worth : Worth, optional
        Of the account at that bar.
    decision : str
        Id of the newest decision that bound; empty: none yet.
    without_decision : int
        Bars in a row for which the graph gave no answer.
    targets : int
        Symbols that are still on their way to a target.
    asking : bool
        Whether an answer is waited for.
    """

    bar: datetime | None
    worth: Worth | None
    decision: str
    without_decision: int
    targets: int
    asking: bool


class Engine:
    """Turns bars into orders.

    Parameters
    ----------
    feed : Feed
    decider : Decider
    dealer : Dealing
        Started: its account is known.
    instruments : dict of str to Instrument
        What the broker says of the symbols, shared with the dealer; may grow, and hours in it are
        made newer by the runner.
    switch : Switch
    book : Keeper
        Keeps what the account was worth: the journal.
    clock : Clock
    settings : Settings
    interval, calendar : str
        Of the bars, those of the bundle.
    publish : callable
        Is handed every event.
    feed_kind : {"direct", "aggregated"}
        Of the quotes: aggregated from IBKR.
    patient : bool
        A step waits for the answer of the graph, however long that takes by another clock: for
        virtual time. Otherwise a step only looks whether it has come, and :attr:`wake` is set
        when it has.

    Notes
    -----
    What is kept of a decision, the most severe rule wins: *nothing* of one that a newer bar has
    overtaken, of another account, or while the market is closed or trading halts or flattens;
    *reductions only* of one that came after ``trading.decision_seconds``, was made of a late or
    partial bar, or came while risk is limited, trading is paused or the close is near.
    """

    def __init__(
        self,
        feed: Feed,
        decider: Decider,
        dealer: Dealing,
        instruments: MutableMapping[str, Instrument],
        switch: Switch,
        book: Keeper,
        clock: Clock,
        settings: Settings,
        interval: str,
        calendar: str,
        publish: Callable[[Event], None],
        *,
        feed_kind: FeedKind = "direct",
        patient: bool = False,
    ) -> None:
        self._feed, self._decider, self._dealer = feed, decider, dealer
        self._instruments, self._switch = instruments, switch
        self._clock, self._settings = clock, settings
        self._publish, self._feed_kind, self._patient = publish, feed_kind, patient
        self._hours, self._grid = Hours(calendar), BarCloses(interval, calendar)
        self._exits = Exits(settings.trading, self._hours)
        self._unquoted = Unquoted(settings.trading)
        self._costs = CostModel(settings.costs)
        self._book = BookOfAccounts(dealer.account, book)
        self._volatility = Volatility(parse_interval(interval).minutes)
        self._adv: Mapping[str, float] = {}
        self._asked: deque[_Asked] = deque()
        self._targets: dict[str, Target] = {}
        self._tried: set[str] = set()
        self._left_out: set[tuple[str, str]] = set()
        self._waits = False  # a target needs another look soon
        self._bar: datetime | None = None
        self._worth: Worth | None = None
        self._decision = ""
        self._without = 0
        self.wake = asyncio.Event()

    @property
    def instruments(self) -> MutableMapping[str, Instrument]:
        """What is known of the symbols."""
        return self._instruments

    @property
    def in_session(self) -> bool:
        """Whether the venue trades now."""
        return self._hours.at(self._clock.now()) is not None

    @property
    def liquidity(self) -> dict[str, tuple[float, float]]:
        """Volatility of the day, fraction, and average daily traded value, USD, where known."""
        return {
            symbol: (sigma, self._adv[symbol])
            for symbol, sigma in self._volatility.sigma_day().items()
            if self._adv.get(symbol, 0.0) > 0
        }

    @property
    def state(self) -> Working:
        """What it is about."""
        return Working(
            self._bar,
            self._worth,
            self._decision,
            self._without,
            len(self._targets),
            bool(self._asked),
        )

    def remember(self, past: Panel) -> None:
        """Learn volatilities from bars before the first; for expected costs from the start."""
        for row in range(max(past.n_bars - KEPT_RETURNS - 1, 0), past.n_bars):
            session = self._hours.session_of(past.times[row].to_pydatetime())
            if session is not None:
                self._volatility.see(past.window(row, row + 1), session)

    # time

    async def step(self) -> None:
        """Do all that is due now; where trading is halted, cancels leave first."""
        with about(self._clock, account=self._dealer.account):
            await self._step()

    async def _step(self) -> None:
        await self._dealer.let_go()
        now = self._clock.now()
        quotes = self._feed.quotes()
        positions = self._dealer.ledger.positions
        self._book.see_positions(positions, now)
        if isinstance(self._feed, SharesLines):
            self._feed.hold(positions)
        self._unquoted.see(positions if self._hours.at(now) else (), quotes, now)
        for bar in self._feed.due(now):
            self._take(bar, quotes, now)
        await self._hear()
        if self._switch.level >= Level.FLATTENING:
            self._targets.clear()  # the dealer closes everything, or nothing trades
        else:
            self._end_session(now)
            await self._follow(quotes, now)
        await self._dealer.beat(now, quotes)

    def next_at(self) -> datetime:
        """When there is something to do again, at the latest."""
        now = self._clock.now()
        wait = timedelta(seconds=self._settings.trading.bar_wait_seconds)
        overdue = self._grid.after(now - wait)
        found = [
            self._grid.after(now),
            None if overdue is None else overdue + wait,
            self._exits.next_change(now),
            self._dealer.next_at(now),
        ]
        awaited = overdue is not None and overdue <= now and (self._bar or overdue) < overdue
        if awaited and not self._patient:  # by the wall clock a bar comes when it comes
            found.append(now + timedelta(seconds=BAR_LOOK_SECONDS))
        if self._asked or self._waits:
            found.append(now + timedelta(seconds=LOOK_SECONDS))
        return min(moment for moment in found if moment is not None)

    # bars

    def _take(self, bar: FeedBar, quotes: Mapping[str, Quote], now: datetime) -> None:
        """Value the account at a bar and ask for a decision on it."""
        panel = bar.panel
        closes: datetime = panel.times[0].to_pydatetime()
        self._publish(BarTaken(now, closes, panel.n_assets, bar.missing, bar.late))
        session = self._hours.session_of(closes)
        if session is None:
            self._alert(now, Severity.WARNING, "bar-astray", f"bar {closes} is of no session")
            return
        if self._bar is not None and closes <= self._bar:
            self._alert(now, Severity.WARNING, "bar-again", f"bar {closes} came again, or late")
            return
        if self._is_partial(bar):
            words = f"{len(bar.missing)} of {panel.n_assets} symbols have no bar of {closes}"
            self._alert(now, Severity.WARNING, "bars-missing", words)
        self._overtake(now)
        if self._worth is not None and session != self._worth.session:
            self._tried.clear()
        self._bar = closes
        self._volatility.see(panel, session)
        if isinstance(self._feed, KnowsVolumes):
            self._adv = self._feed.adv_usd(closes)
        self._book.see_prices(self._marks(bar, quotes))
        ledger = self._dealer.ledger
        worth = self._worth = self._book.value(session, ledger.cash, ledger.positions)
        if not worth.known:
            self._stop_blind(now, worth)
            return
        self._publish(_valued(now, self._dealer.account, worth))
        request = request_of(
            panel,
            now,
            self._dealer.account,
            worth,
            self._feed_kind,
            quotes,
            ledger.positions,
            self._instruments,
            self._adv,
        )
        answer = asyncio.ensure_future(self._decider.decide(request))
        answer.add_done_callback(lambda _: self.wake.set())
        self._asked.append(_Asked(bar, closes, request, answer))

    def _overtake(self, now: datetime) -> None:
        """A newer bar is here: what was asked before, and not answered, comes too late."""
        for asked in self._asked:
            asked.superseded = True
            if not asked.counted and not self._patient:
                asked.counted = True
                self._count_away(asked.closes, now, "no answer before the next bar")

    def _marks(self, bar: FeedBar, quotes: Mapping[str, Quote]) -> dict[str, Any]:
        """Newest prices: closes of the bar; mids of names without one, or that are not followed."""
        followed = set(bar.panel.names)
        mids = {s: q.mid for s, q in quotes.items() if q.sound and q.mid is not None}
        costs = {
            symbol: position.average_cost
            for symbol, position in self._dealer.ledger.positions.items()
            if symbol not in followed and self._book.price(symbol) is None
        }
        return {**costs, **mids, **closes_of(bar.panel)}

    def _stop_blind(self, now: datetime, worth: Worth) -> None:
        """Nobody trades an account whose worth is not known."""
        if worth.unpriced:
            why = f"no price of {', '.join(worth.unpriced[:3])}, which is held"
        else:
            why = f"the NAV is {worth.nav}"
        why = f"what the account is worth is not known: {why}"
        self._halt(now, "nav-unknown", why)

    # decisions

    async def _hear(self) -> None:
        """Take the answers that have come, in the order in which they were asked for."""
        self.wake.clear()
        if self._patient and self._asked:
            await asyncio.wait({asked.answer for asked in self._asked})
        now = self._clock.now()
        answered = [asked for asked in self._asked if asked.answer.done()]
        for asked in answered:
            self._asked.remove(asked)
            error = None if asked.answer.cancelled() else asked.answer.exception()
            if asked.answer.cancelled():
                self._not_decided(asked, now, "it was given up")
            elif error is not None:
                if not isinstance(error, DpaError | OSError):
                    log.error("the decider failed", exc_info=error)
                self._not_decided(asked, now, str(error) or type(error).__name__)
            else:
                content = asked.answer.result()
                with about(bar=asked.closes, decision_id=content.get("id")):
                    self._decided(asked, content, now)

    def _not_decided(self, asked: _Asked, now: datetime, why: str) -> None:
        """The graph is away: nothing new, positions are kept but for those that are too old."""
        if not asked.counted:
            self._count_away(asked.closes, now, why)
        if not asked.superseded:
            self._targets = self._aged(ageing_id(asked.closes), now)

    def _count_away(self, closes: datetime, now: datetime, why: str) -> None:
        self._without += 1
        self._publish(NotDecided(now, closes, why, self._without))
        severity = Severity.CRITICAL if self._without >= AWAY_BARS else Severity.WARNING
        words = f"no decision for {self._without} bars in a row: {why}"
        self._alert(now, severity, "graph-away", words)

    def _decided(self, asked: _Asked, content: Mapping[str, Any], now: datetime) -> None:
        """Keep of a decision what the rules allow."""
        if not asked.superseded:
            if self._without >= AWAY_BARS:
                self._alert(now, Severity.INFO, "graph-back", "the graph answers again")
            self._without = 0
        risk = content["risk"]
        if risk["level"] == RiskLevel.HALTED.name:
            self._halt(now, "risk-halted", f"the graph halts the account: {risk['why']}")
        binds, because = self._binding(asked, content, now)
        decision = str(content["id"])
        self._publish(
            Decided(
                now,
                self._dealer.account,
                decision,
                asked.closes,
                str(risk["level"]),
                str(risk["why"]),
                binds,
                because,
                content,
            )
        )
        if binds == NOTHING:
            return
        self._decision = decision
        self._left_out.clear()
        self._targets = self._wanted(content, asked, binds == ALL, now)

    def _binding(self, asked: _Asked, content: Mapping[str, Any], now: datetime) -> tuple[str, str]:
        """What is kept of a decision, and why not all of it."""
        found = list(self._limits(asked, content, now))
        kept = max((kind for kind, _ in found), key=_SEVERITY.__getitem__, default=ALL)
        return kept, "; ".join(why for kind, why in found if kind == kept)

    def _limits(
        self, asked: _Asked, content: Mapping[str, Any], now: datetime
    ) -> Iterable[tuple[str, str]]:
        trading = self._settings.trading
        if content["account"] != self._dealer.account:
            yield NOTHING, f"it is of account {content['account']}"
        if pd.Timestamp(content["time"]) != asked.request.time:
            yield NOTHING, f"it is of the bar of {content['time']}"
        if asked.superseded:
            yield NOTHING, "a newer bar has come"
        if self._hours.at(now) is None:
            yield NOTHING, "the market is closed"
        level = self._switch.read().level
        if level >= Level.FLATTENING:
            yield NOTHING, f"trading is {level.name}"
        elif level is Level.PAUSED:
            yield REDUCTIONS, "trading is PAUSED"
        took = (now - asked.closes).total_seconds()
        if took > trading.decision_seconds:
            words = f"it came {took:.1f} s after the close, limit {trading.decision_seconds:g} s"
            yield REDUCTIONS, words
        if asked.bar.late:
            yield REDUCTIONS, "the bar was late"
        if self._is_partial(asked.bar):
            n = asked.bar.panel.n_assets
            yield REDUCTIONS, f"{len(asked.bar.missing)} of {n} symbols have no bar"
        if content["risk"]["level"] != RiskLevel.NORMAL.name:
            yield REDUCTIONS, f"risk is {content['risk']['level']}: {content['risk']['why']}"
        if self._exits.is_quiet(None, now):
            yield REDUCTIONS, "the close is near"

    def _is_partial(self, bar: FeedBar) -> bool:
        share = len(bar.missing) / max(bar.panel.n_assets, 1)
        return bool(bar.missing) and share >= self._settings.trading.most_missing

    def _wanted(
        self, content: Mapping[str, Any], asked: _Asked, may_add: bool, now: datetime
    ) -> dict[str, Target]:
        """Targets of a decision, those of old positions 0."""
        decided_at = asked.request.moment
        moment = now if decided_at is None else decided_at.to_pydatetime()
        decision, ends = str(content["id"]), self._ends(now)
        style = Style(self._settings.trading.style)
        found = {}
        for record in content["symbols"]:
            symbol, shares = record["symbol"], record["target_shares"]
            if shares is None or not math.isfinite(shares):
                self._leave_out(now, decision, symbol, 0, "its target is not a number")
                continue
            flattens = record["reason"] == "risk_flatten"
            why = Purpose.RISK if flattens else None
            found[symbol] = Target(
                decision, symbol, round(shares), moment, ends, why, may_add, style
            )
        return {**found, **self._aged(decision, now, moment)}

    def _aged(
        self, decision: str, now: datetime, decided_at: datetime | None = None
    ) -> dict[str, Target]:
        """Targets that close positions held for too long."""
        moment, ends = decided_at or now, self._ends(now)
        style = Style(self._settings.trading.style)
        return {
            symbol: Target(decision, symbol, 0, moment, ends, Purpose.AGE, False, style)
            for symbol in self._held()
            if self._exits.is_old(self._book.opened_at(symbol), now)
        }

    # orders

    def _end_session(self, now: datetime) -> None:
        """Close everything before the session ends, where that is the rule."""
        targets = self._exits.at_session_end(self._held(), self._instruments, now)
        for target in targets:
            known = self._targets.get(target.symbol)
            if known is None or known.decision != target.decision:
                self._targets[target.symbol] = target

    async def _follow(self, quotes: Mapping[str, Quote], now: datetime) -> None:
        """Go a step towards every target that has no order working."""
        busy = {o.intent.symbol: o.intent.decision for o in self._dealer.live_orders}
        intents: list[Intent] = []
        self._waits = False
        level = self._switch.level  # the dealer reads it again before each order is sent
        held = self._held() if self._targets else {}
        sigma = self._volatility.sigma_day() if self._targets else {}
        for symbol in sorted(self._targets):
            target = self._targets[symbol]
            if now >= target.expires_at:
                del self._targets[symbol]
            elif symbol in busy:
                other_side = held.get(symbol, 0) * target.shares < 0  # entered after the exit
                self._waits |= other_side or busy[symbol] != target.decision
            else:
                leg = next_leg(held.get(symbol, 0), target)
                why = "" if leg is None else self._forbids(target, leg, level, now)
                intent = self._intent(target, leg, why, quotes.get(symbol), sigma.get(symbol), now)
                if intent is not None:
                    intents.append(intent)
                self._waits |= symbol in self._targets
        if not intents:
            return
        intents.sort(key=lambda intent: (intent.purpose.adds, intent.symbol))
        for decision in dict.fromkeys(intent.decision for intent in intents):
            of_it = tuple(intent for intent in intents if intent.decision == decision)
            self._publish(Intended(now, decision, of_it))
        self._tried.update(intent.id for intent in intents)
        await self._dealer.submit(intents, quotes)

    def _intent(
        self,
        target: Target,
        leg: Leg | None,
        why: str,
        quote: Quote | None,
        sigma_day: float | None,
        now: datetime,
    ) -> Intent | None:
        """The next intent towards a target; the target is dropped where there is none to come.

        `why` says why the leg may not be gone, where it may not.
        """
        symbol = target.symbol
        if leg is None:
            del self._targets[symbol]
            return None
        if why:
            del self._targets[symbol]
            self._leave_out(now, target.decision, symbol, leg.signed_shares, why)
            return None
        overdue = not leg.purpose.adds and self._unquoted.is_overdue(symbol, now)
        if overdue and target.style in BLIND_STYLES:
            target = self._blind(target, now)
        blind = overdue and self._unquoted.style is not None
        price = Price(
            quote if leg.purpose.adds else self._unquoted.usable(quote, now),
            self._book.price(symbol),
            math.nan if sigma_day is None else sigma_day,
            self._adv.get(symbol, math.nan),
        )
        instrument = self._instruments.get(symbol)
        collar = self._settings.trading.collar_bps
        made = intent_for(
            *(self._dealer.account, target, leg, price, instrument, collar, self._costs), blind
        )
        if isinstance(made, str):  # it may have a quote again before the target ends
            self._leave_out(now, target.decision, symbol, leg.signed_shares, made)
            return None
        if made.id in self._tried:  # done, as far as that goes, or refused
            del self._targets[symbol]
            return None
        return made

    def _blind(self, target: Target, now: datetime) -> Target:
        """A target that must be reached although no quote came for long: by which order."""
        style = self._unquoted.style
        if self._unquoted.tell(target.symbol):
            does = "it waits for a quote, or for a person to flatten"
            if style is not None:
                does = f"it is closed by a {style} order around the last price"
            severity = Severity.CRITICAL if style is None else Severity.WARNING
            words = f"{target.symbol} is to be closed and has no quote: {does}"
            self._alert(now, severity, "exit-unquoted", words)
        return target if style is None else replace(target, style=style)

    def _forbids(self, target: Target, leg: Leg, level: Level, now: datetime) -> str:
        """Why no risk is added towards a target; empty: it may be, or the leg adds none."""
        if not leg.purpose.adds:
            return ""
        if not target.may_add:
            return "only reductions are kept of the decision"
        if level is not Level.RUNNING:
            return f"trading is {level.name}"
        if self._exits.is_quiet(self._instruments.get(target.symbol), now):
            return "its market is closed or about to close"
        return ""

    # plumbing

    def _ends(self, now: datetime) -> datetime:
        """When orders decided now end: at the next bar at the latest, which decides anew."""
        following = self._grid.after(now)
        ends = self._exits.ends(now)
        return ends if following is None else min(ends, following)

    def _held(self) -> dict[str, int]:
        positions = self._dealer.ledger.positions
        shares = {symbol: whole_shares(positions, symbol) for symbol in positions}
        return {symbol: held for symbol, held in shares.items() if held}

    def _halt(self, now: datetime, kind: str, why: str) -> None:
        if self._switch.level < Level.HALTED:
            self._switch.halt(BY, why)
            self._alert(now, Severity.CRITICAL, kind, why)

    def _leave_out(self, now: datetime, decision: str, symbol: str, shares: int, why: str) -> None:
        if (symbol, why) not in self._left_out:
            self._left_out.add((symbol, why))
            self._publish(LeftOut(now, decision, symbol, shares, why))

    def _alert(self, now: datetime, severity: Severity, kind: str, what: str) -> None:
        self._publish(Alert(now, severity, kind, what))


def _valued(now: datetime, account: str, worth: Worth) -> Valued:
    return Valued(
        now,
        account,
        worth.session.isoformat(),
        worth.nav,
        worth.prior_nav,
        worth.cash,
        worth.gross,
        worth.net,
        worth.largest,
    )
