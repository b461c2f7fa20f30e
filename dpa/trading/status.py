"""What a trader says of itself: level, link, positions, orders, profit, limits and how near."""

from collections import Counter, deque
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from dpa.clock import Clock, SystemClock
from dpa.config import Settings
from dpa.trading.broker import Broker
from dpa.trading.cash import cash_difference
from dpa.trading.dealer import Dealer
from dpa.trading.engine import Engine
from dpa.trading.events import (
    Alert,
    BarTaken,
    Decided,
    Event,
    Filled,
    NotDecided,
    Reconciled,
    Refused,
    Valued,
)
from dpa.trading.feed import Feed
from dpa.trading.journal import Journal, JournalReader
from dpa.trading.lease import Lease
from dpa.trading.ledger import Ledger
from dpa.trading.places import Places
from dpa.trading.runner import Runner
from dpa.trading.switch import Switch
from dpa.trading.types import Money, Order, Quote

SCHEMA_VERSION: Final = 1
KEPT: Final = 50  # newest alerts and refusals
NEVER: Final = "never traded"  # state of a storage without journal and switch
_CENTS = Decimal("0.01")
_COST = Decimal("0.0001")


class Seen:
    """The newest of what happened, and counts since the trader was started.

    Both are in the journal as well, so that a trader that starts again knows them.
    """

    def __init__(self) -> None:
        self.alerts: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.refusals: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.refused: Counter[str] = Counter()
        self.bars = self.decisions = self.fills = 0
        self.decided: dict[str, Any] | None = None
        self.reconciled: dict[str, Any] | None = None
        self.valued: Valued | None = None
        self.peak_nav: float | None = None
        self.last: dict[str, Any] | None = None  # status when the trader ended

    def begin(self, journal: Journal) -> None:
        """Take up what the journal has of earlier alerts and refusals."""
        if self.alerts or self.refusals:
            return
        for event in journal.events("alert"):
            self.alerts.append({"at": event.time.isoformat(), **event.facts})
        for event in journal.events("refusal"):
            self.refusals.append({"at": event.time.isoformat(), **event.facts})

    def see(self, event: Event) -> None:
        """Take an event of the bus."""
        match event:
            case BarTaken():
                self.bars += 1
            case Decided():
                self.decisions += 1
                self._decided(event)
            case NotDecided(why=why):
                self.decided = {"at": event.at.isoformat(), "id": None, "why": why}
            case Filled():
                self.fills += 1
            case Refused():
                self._refused(event)
            case Reconciled():
                self.reconciled = {
                    "at": event.at.isoformat(),
                    "complete": event.complete,
                    "breaks": list(event.breaks),
                }
            case Valued():
                self.valued = event
            case Alert():
                self._alert(event)
            case _:
                pass

    def _decided(self, event: Decided) -> None:
        symbols = event.content["symbols"]
        self.peak_nav = event.content["risk"].get("peak_nav_usd") or self.peak_nav
        self.decided = {
            "at": event.at.isoformat(),
            "id": event.decision,
            "bar": event.time.isoformat(),
            "risk": event.level,
            "why": event.why,
            "binds": event.binds,
            "because": event.because,
            "traded": sum(1 for record in symbols if record.get("trade_shares")),
        }

    def _refused(self, event: Refused) -> None:
        self.refused[event.code] += 1
        intent = event.intent
        self.refusals.append(
            {
                "at": event.at.isoformat(),
                "intent": intent.id,
                "symbol": intent.symbol,
                "side": intent.side.value,
                "shares": intent.shares,
                "purpose": intent.purpose.value,
                "code": event.code,
                "what": event.what,
                "cure": event.cure,
            }
        )

    def _alert(self, event: Alert) -> None:
        facts = {"severity": event.severity.name.lower(), "kind": event.kind, "what": event.what}
        self.alerts.append({"at": event.at.isoformat(), **facts})


def status_of(
    dealer: Dealer,
    journal: Journal,
    broker: Broker,
    engine: Engine | None,
    feed: Feed,
    clock: Clock,
    settings: Settings,
    seen: Seen,
    runner: Runner | None,
) -> dict[str, Any]:
    """All of it, for JSON; money in USD as numbers, exact ones are in the journal.

    Notes
    -----
    ``pnl_today`` counts from the close of the session before, ``pnl_total`` from when counting
    began (the journal's baseline); both with fees, at mid prices.
    """
    ledger = dealer.ledger
    working = engine.state if engine is not None else None
    prices = _prices(feed.quotes(), ledger, journal)
    nav = ledger.nav(prices)
    worth = None if working is None else working.worth
    prior = None if worth is None or not worth.prior_nav.is_finite() else worth.prior_nav
    begun = _begun(journal, dealer.account)
    positions = [
        _position(symbol, held.shares, held.average_cost, prices.get(symbol), nav)
        for symbol, held in ledger.positions.items()
    ]
    today = None if nav is None or prior is None else nav - prior
    found = {
        "schema_version": SCHEMA_VERSION,
        "now": clock.now().isoformat(),
        "broker": broker.name,
        "account": dealer.account,
        "connected": broker.connected,
        "ready": dealer.ready,
        "reconciled": seen.reconciled,
        "session": None if worth is None else worth.session.isoformat(),
        "bar": None if working is None or working.bar is None else working.bar.isoformat(),
        "bars": seen.bars,
        "decision": seen.decided,
        "without_decision": 0 if working is None else working.without_decision,
        "targets": 0 if working is None else working.targets,
        "nav": _usd(nav),
        "cash": _usd(ledger.cash),
        "cash_difference": _usd(cash_difference(journal, dealer.account)),
        "pnl_today": _usd(today),
        "pnl_total": _usd(None if nav is None or begun is None else nav - begun),
        "fees": _usd(ledger.fees),
        "realised": _usd(ledger.realised),
        "fills": len(ledger.fills),
        "positions": positions,
        "orders": [_order(order, journal) for order in dealer.live_orders],
        "refusals": list(seen.refusals),
        "refused": dict(seen.refused),
        "alerts": list(seen.alerts),
        "steps": 0 if runner is None else runner.steps,
        "failures": 0 if runner is None else runner.failures,
    }
    found["limits"] = _limits(found, settings, journal, seen, prior)
    return found


def _prices(
    quotes: Mapping[str, Quote], ledger: Ledger, journal: JournalReader
) -> dict[str, Money]:
    """Mids, else the newest price the trader kept, else what was paid."""
    kept = journal.value(f"account-book:{ledger.account}") or {}
    found = {symbol: held.average_cost for symbol, held in ledger.positions.items()}
    found |= {s: Decimal(p) for s, p in kept.get("prices", {}).items()}
    for symbol, quote in quotes.items():
        if quote.sound and quote.mid is not None:
            found[symbol] = quote.mid
    return found


def _begun(journal: JournalReader, account: str) -> Money | None:
    baseline = journal.baseline(account)
    if baseline is None:
        return None
    held = (p.shares * p.average_cost for p in baseline.positions if p.account == account)
    return baseline.cash + sum(held, Decimal(0))


def _position(
    symbol: str, shares: Decimal, cost: Money, price: Money | None, nav: Money | None
) -> dict[str, Any]:
    value = None if price is None else shares * price
    return {
        "symbol": symbol,
        "shares": float(shares),
        "average_cost": float(cost.quantize(_COST)),
        "price": None if price is None else float(price),
        "value": _usd(value),
        "weight": None if value is None or not nav else float(value / nav),
        "unrealised": _usd(None if price is None else shares * (price - cost)),
    }


def _order(order: Order, journal: JournalReader) -> dict[str, Any]:
    intent = order.intent
    return {
        "ref": order.ref,
        "order_id": order.order_id,
        "attempt": order.attempt,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "shares": intent.shares,
        "filled": float(journal.filled(order.ref)),
        "limit": None if order.limit is None else float(order.limit),
        "state": order.state.value,
        "style": intent.style.value,
        "purpose": intent.purpose.value,
        "decision": intent.decision,
        "decided_at": intent.decided_at.isoformat(),
        "expires_at": intent.expires_at.isoformat(),
    }


def _limits(
    found: Mapping[str, Any],
    settings: Settings,
    journal: Journal,
    seen: Seen,
    prior: Money | None,
) -> list[dict[str, Any]]:
    """Each limit, where the account stands, and which share of it is used up."""
    risk, trading, nav = settings.risk, settings.trading, found["nav"]
    weights = [p["weight"] for p in found["positions"] if p["weight"] is not None]
    today = found["pnl_today"]
    lost = None if today is None or not prior else max(0.0, -today / float(prior))
    peak = seen.peak_nav
    fallen = None if nav is None or not peak else max(0.0, 1.0 - nav / max(peak, nav))
    added = journal.value("added") or {}
    table = (
        ("daily loss", lost, risk.daily_loss_limit, "of NAV"),
        ("drawdown", fallen, risk.drawdown_limit, "of NAV"),
        ("gross exposure", sum(map(abs, weights)), risk.max_gross, "of NAV"),
        ("net exposure", abs(sum(weights)), risk.max_net, "of NAV"),
        ("largest name", max(map(abs, weights), default=0.0), risk.max_name_weight, "of NAV"),
        ("orders working", len(found["orders"]), trading.most_working, "orders"),
        (
            "orders in the session",
            int(added.get("orders", 0)),
            trading.most_orders_per_session,
            "orders",
        ),
    )
    return [
        {
            "name": name,
            "value": value,
            "limit": limit,
            "unit": unit,
            "used": None if value is None else value / limit,
        }
        for name, value, limit, unit in table
    ]


def _usd(money: Money | None) -> float | None:
    return None if money is None or not money.is_finite() else float(money.quantize(_CENTS))


def status_on_disk(places: Places, why: str) -> dict[str, Any]:
    """What the files of a storage tell, when nobody can be asked.

    Parameters
    ----------
    places : Places
    why : str
        Why nobody could be asked.

    Notes
    -----
    Prices are those the trader kept last, so that the NAV is as old as its newest bar.
    """
    switch = Switch(places.switch, SystemClock()).read()
    running = Lease.is_locked(places.lease)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "running": running,
        "state": "not asked" if running else "not running",
        "why": f"{why}; read from the files in {places.folder}",
        "level": switch.level.name,
        "level_by": switch.by,
        "level_why": switch.why,
        "level_since": switch.since.isoformat() if switch.since else None,
        "level_mark": switch.mark,
        "lease": {"holder": str(Lease.holder(places.lease) or ""), "token": 0},
        "broker": "",
        "account": None,
        "connected": False,
        "positions": [],
        "orders": [],
        "limits": [],
        "refusals": [],
        "alerts": [],
    }
    if not places.journal.exists():
        if not (running or places.switch.exists()):
            found |= {"state": NEVER, "level": None}
            found["why"] = f"{why}; nothing was ever traded in {places.storage}"
        return found
    with JournalReader(places.journal) as journal:
        account = journal.value("account")
        for kind, name in (("alert", "alerts"), ("refusal", "refusals")):
            newest = deque(journal.events(kind), maxlen=KEPT)
            found[name] = [{"at": e.time.isoformat(), **e.facts} for e in newest]
        if account is not None:
            found |= _books_on_disk(journal, account)
    return found


def _books_on_disk(journal: JournalReader, account: str) -> dict[str, Any]:
    ledger = journal.ledger(account)
    prices = _prices({}, ledger, journal)
    nav, begun = ledger.nav(prices), _begun(journal, account)
    return {
        "account": account,
        "nav": _usd(nav),
        "cash": _usd(ledger.cash),
        "cash_difference": _usd(cash_difference(journal, account)),
        "pnl_total": _usd(None if nav is None or begun is None else nav - begun),
        "fees": _usd(ledger.fees),
        "realised": _usd(ledger.realised),
        "fills": len(ledger.fills),
        "positions": [
            _position(symbol, held.shares, held.average_cost, prices.get(symbol), nav)
            for symbol, held in ledger.positions.items()
        ],
        "orders": [_order(order, journal) for order in journal.orders(live_only=True)],
    }
