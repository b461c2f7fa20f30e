"""Tools about decisions and trading. All of them read only, but for one, which halts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from dpa.clock import SystemClock
from dpa.config import Settings
from dpa.errors import UserError
from dpa.mcp.answers import Answer, page
from dpa.mcp.roots import Roots
from dpa.serving.words import explain_words
from dpa.tracing.follow import follow
from dpa.tracing.hops import Kind
from dpa.tracing.places import Sources, rows_of
from dpa.trading.journal import Journal
from dpa.trading.lease import Lease
from dpa.trading.places import Places
from dpa.trading.status import status_on_disk
from dpa.trading.switch import Switch

CALLER: Final = "mcp"
MOST_HOPS: Final = 100
LONGEST_REASON: Final = 500
OF_DISK: Final = "read by the MCP server"
IdKind = Literal["run", "decision", "intent", "order", "execution"]
LIMITS: Final = ("daily_loss_limit", "drawdown_limit", "max_gross", "max_net", "max_name_weight")


class TradingTools:
    """Decisions, positions, orders, profit, risk, traces, and the halt.

    Parameters
    ----------
    roots : Roots
    settings : Settings
        Limits where no trader was ever started.
    """

    def __init__(self, roots: Roots, settings: Settings) -> None:
        self._roots, self._settings = roots, settings

    # decisions

    def decision_latest(
        self,
        account: str | None = None,
        storage: str | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Answer:
        """The newest decision of an account (none: of any), a row a symbol.

        alpha_bps, cost_bps and net_bps are bps of notional over the horizon; weights are
        fractions of NAV; shares are signed; NAV is USD; times are ISO 8601, UTC.
        """
        decision = self._decision(storage, account, None)
        return _shown(decision, offset, limit)

    def decision_show(
        self, decision: str, storage: str | None = None, offset: int = 0, limit: int = 20
    ) -> Answer:
        """One decision by its id, or the beginning of it; units as in decision_latest.

        The service keeps the newest decision of each account in full; of older ones the journal
        keeps what bound and why.
        """
        try:
            found = self._decision(storage, None, decision)
        except UserError:
            noted = list(self._noted(storage, decision))
            if len(noted) != 1:
                raise
            return noted[0]
        return _shown(found, offset, limit)

    def decision_explain(
        self,
        symbol: str,
        decision: str | None = None,
        account: str | None = None,
        storage: str | None = None,
    ) -> Answer:
        """Why one symbol is traded, or not, in words with every stage's numbers.

        Of the newest decision, or of the one named. bps are of notional over the horizon, weights
        fractions of NAV, prices USD, ages milliseconds.
        """
        found = self._decision(storage, account, decision)
        return {"decision": found["id"], "text": explain_words(found, symbol)}

    def _decision(self, storage: str | None, account: str | None, id: str | None) -> dict[str, Any]:
        kept = list(Sources(self._roots.storage(storage)).decisions())
        if account is not None:
            kept = [decision for decision in kept if decision["account"] == account]
        if id is not None:
            kept = [decision for decision in kept if str(decision["id"]).startswith(id)]
        if not kept:
            raise UserError("no such decision is kept", "see decision_latest without an account")
        return max(kept, key=lambda decision: str(decision["moment"]))

    def _noted(self, storage: str | None, id: str) -> Iterator[Answer]:
        sources = Sources(self._roots.storage(storage))
        for path in sources.journals:
            with sources.open_journal(path) as journal:
                for event in journal.events("decided"):
                    if id and str(event.facts["decision"]).startswith(id):
                        note = "the journal's note; the service keeps the newest decision only"
                        yield {**event.facts, "known_at": event.time.isoformat(), "note": note}

    # the account

    def positions(self, storage: str | None = None, offset: int = 0, limit: int = 50) -> Answer:
        """What is held: shares (signed), average cost and price (USD a share), value (USD),
        weight (fraction of NAV), open profit (USD).

        From the journal; prices are those of the newest bar the trader took.
        """
        status = self._status(storage)
        found = page(status["positions"], offset, limit)
        return {"account": status["account"], "nav": status.get("nav"), **found}

    def orders(
        self,
        live: bool = True,
        symbol: str | None = None,
        storage: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> Answer:
        """Orders, newest first; with live=true those that may still be filled.

        Shares are whole; limits are USD a share; ref is the id of the intent, which trace takes;
        times are ISO 8601, UTC.
        """
        places = self._places(storage)
        if not places.journal.exists():
            return page([], 0, limit)
        with Journal.reader(places.journal) as journal, journal.snapshot():
            rows = [
                {
                    "ref": order.ref,
                    "order_id": order.order_id,
                    "attempt": order.attempt,
                    "symbol": order.intent.symbol,
                    "side": order.intent.side.value,
                    "shares": order.intent.shares,
                    "filled": str(journal.filled(order.ref)),
                    "limit": None if order.limit is None else str(order.limit),
                    "state": order.state.value,
                    "reason": order.reason,
                    "purpose": order.intent.purpose.value,
                    "decision": order.intent.decision,
                    "decided_at": order.intent.decided_at.isoformat(),
                }
                for order in journal.orders(live_only=live)[::-1]
                if symbol in (None, order.intent.symbol)
            ]
        return page(rows, offset, limit)

    def ledger(self, storage: str | None = None, offset: int = 0, limit: int = 20) -> Answer:
        """Cash, NAV, profit and fees of the account (USD), and its fills, newest first.

        realised is before fees; prices are USD a share; position is the shares held afterwards.
        """
        status = self._status(storage)
        places, names = self._places(storage), ("account", "nav", "cash", "pnl_total", "realised")
        about = {name: status.get(name) for name in (*names, "fees")}
        if status["account"] is None:
            return {**about, **page([], 0, limit)}
        with Journal.reader(places.journal) as journal, journal.snapshot():
            fills = journal.ledger(status["account"]).fills
            rows = [
                {
                    "time": fill.execution.time.isoformat(),
                    "symbol": fill.execution.symbol,
                    "side": fill.execution.side.value,
                    "shares": str(fill.execution.shares),
                    "price": str(fill.execution.price),
                    "realised": str(fill.realised),
                    "fee": None if fill.fee is None else str(fill.fee),
                    "position": str(fill.position),
                    "exec_id": fill.execution.exec_id,
                    "ref": fill.execution.ref,
                }
                for fill in fills
            ]
        return {**about, **page(rows[::-1], offset, limit)}

    def risk_state(self, storage: str | None = None) -> Answer:
        """The level of trading, who set it and why; the risk state of each account; the limits.

        Levels: RUNNING, PAUSED (no new risk), FLATTENING (everything is closed), HALTED (nothing
        but cancels). Loss limits and exposures are fractions of NAV; NAVs are USD.
        """
        places, status = self._places(storage), self._status(storage)
        kept = (places.folder / "start.json").exists()
        settings = places.kept().settings if kept else self._settings
        risk = settings.risk.model_dump(mode="json")
        names = ("level", "level_by", "level_why", "level_since", "running", "state")
        return {
            **{name: status.get(name) for name in names},
            "accounts": _risk_states(places.storage),
            "limits": {name: risk[name] for name in LIMITS if name in risk},
            "alerts": status["alerts"][-5:],
            "refusals": status["refusals"][-5:],
        }

    def _status(self, storage: str | None) -> dict[str, Any]:
        return status_on_disk(self._places(storage), OF_DISK)

    def _places(self, storage: str | None) -> Places:
        return Places(self._roots.storage(storage))

    # following ids

    def trace(self, id: str, kind: IdKind | None = None, storage: str | None = None) -> Answer:
        """Follow one id (run, decision, intent, order, execution), or its beginning, through
        logs, journal, decisions and what the broker said.

        Times are ISO 8601, UTC, of a replay those of its market; prices and fees USD.
        """
        sources = Sources(self._roots.storage(storage))
        found = follow(id, sources, None if kind is None else Kind(kind)).to_dict(MOST_HOPS)
        rows = found.pop("hops")
        if left := found.pop("left_out"):
            found["left_out"] = f"{left} hops in the middle: trace one intent or execution of it"
        return {**found, "rows": rows}

    # the one that changes something

    def halt_trading(self, reason: str, storage: str | None = None) -> Answer:
        """Halt trading, durably: nothing but cancels is sent until a person resumes it.

        Writes the switch that every trader reads before each order; a trader that runs cancels
        what works. Where no storage is named, every one is halted in which something was traded.
        Nothing here can resume: a person does, with 'dpa trade resume'.
        """
        words = "".join(c if c.isprintable() else " " for c in reason).strip()
        if not words:
            raise UserError("a halt without a reason", "say why")
        names = [storage] if storage is not None else self._traded
        places = [self._places(name) for name in names]
        for place in places:
            place.make()
            state = Switch(place.switch, SystemClock()).halt(CALLER, words[:LONGEST_REASON])
        return {
            "level": state.level.name,
            "by": state.by,
            "why": state.why,
            "since": state.since.isoformat() if state.since else None,
            "storages": names,
            "trader_runs_here": any(Lease.is_locked(place.lease) for place in places),
            "next": "look with risk_state and orders; to cancel at the broker without a trader: "
            "'dpa kill'; only a person resumes: 'dpa trade resume --by NAME'",
        }

    @property
    def _traded(self) -> list[str]:
        """Storages in which something was traded; else the first."""
        names = self._roots.names
        return [name for name in names if self._places(name).folder.is_dir()] or names[:1]


def _shown(decision: dict[str, Any], offset: int, limit: int) -> Answer:
    rows = page(decision.pop("symbols"), offset, limit)
    decision.pop("trace", None)
    return {**decision, **rows}


def _risk_states(storage: Path) -> dict[str, Any]:
    query = "SELECT name, payload FROM named WHERE name LIKE 'account:%' ORDER BY name LIMIT 50"
    return {
        name.partition(":")[2]: json.loads(payload)["after"]
        for name, payload in rows_of(storage / "serving" / "risk.sqlite", query)
    }
