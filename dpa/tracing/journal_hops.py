"""What a journal tells of an id: what was meant, what was sent, and what the broker said."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from dpa.tracing.hops import Hop, Kind, Stage, Subject
from dpa.trading.journal_reader import Event, JournalReader
from dpa.trading.types import OrderState

Facts = Mapping[str, Any]
Told = Iterator[tuple[Stage, str, dict[str, str]]]
OURS = {OrderState.PLANNED, OrderState.SENT, OrderState.CANCELLING, OrderState.ABSENT}


def bars_of(journal: JournalReader, decisions: frozenset[str]) -> set[datetime]:
    """Closes of the bars that decisions were made on."""
    return {
        datetime.fromisoformat(event.facts["time"])
        for event in journal.events("decided")
        if event.facts["decision"] in decisions
    }


def journal_hops(journal: JournalReader, subject: Subject) -> Iterator[Hop]:
    """Hops of a journal, in its order."""
    bars = bars_of(journal, subject.decisions)
    for event in journal.events():
        tell = _TELL.get(event.kind)
        if tell is not None:
            for stage, what, ids in tell(event, subject, bars):
                yield Hop(event.time, stage, f"journal {event.number}", what, ids)


def _bar(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if datetime.fromisoformat(facts["time"]) in bars:
        missing = f", {len(facts['missing'])} missing" if facts["missing"] else ""
        yield Stage.BAR, f"bar of {facts['symbols']} symbols taken{missing}", {"bar": facts["time"]}


def _decided(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if facts["decision"] in subject.decisions:
        because = f" ({facts['because']})" if facts["because"] else ""
        what = f"decision {facts['decision']} binds {facts['binds']}{because}; risk "
        what += facts["level"] + (f": {facts['why']}" if facts["why"] else "")
        yield Stage.DECISION, what, {"decision_id": facts["decision"], "bar": facts["time"]}


def _left_out(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if subject.kind is Kind.DECISION and facts["decision"] in subject.decisions:
        symbols = ", ".join(facts["symbols"][:5])
        more = f" and {len(facts['symbols']) - 5} more" if len(facts["symbols"]) > 5 else ""
        ids = {"decision_id": facts["decision"]}
        yield Stage.INTENT, f"left out: {symbols}{more}: {facts['why']}", ids


def _intents(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    for intent in event.facts["intents"]:
        if intent["id"] in subject.intents:
            limit = "" if intent["limit"] is None else f", at worst {intent['limit']} USD"
            what = f"intends to {intent['side']} {intent['shares']} {intent['symbol']} "
            what += f"({intent['purpose']}), {intent['style']}{limit}"
            ids = {"intent_id": intent["id"], "decision_id": intent["decision"]}
            yield Stage.INTENT, what, ids
    for order in event.facts["orders"]:
        yield from _order(order, subject, "")


def _attempt(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    yield from _order(event.facts["order"], subject, "another attempt")


def _orders(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    for order in event.facts["orders"]:
        yield from _order(order, subject, event.facts.get("why", ""))


def _order(order: Facts, subject: Subject, why: str) -> Told:
    if order["ref"] not in subject.intents or str(order["order_id"]) not in subject.orders:
        return
    state = OrderState(order["state"])
    words = f"order {order['order_id']} is {state}"
    words += "" if order["limit"] is None else f", limit {order['limit']} USD"
    words += f", {order['perm_id']} at the broker" if order["perm_id"] else ""
    words += f": {order['reason'] or why}" if order["reason"] or why else ""
    speaks = "" if state in OURS else "broker: "
    ids = {"intent_id": order["ref"], "order_id": str(order["order_id"])}
    yield Stage.END if state.is_final else Stage.ORDER, speaks + words, ids


def _execution(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    fill = event.facts["execution"]
    if fill["exec_id"] in subject.executions:
        what = f"broker: fill {fill['exec_id']}: {fill['side']} {fill['shares']} "
        what += f"{fill['symbol']} at {fill['price']} USD"
        ids = {
            "exec_id": fill["exec_id"],
            "intent_id": fill["ref"],
            "order_id": str(fill["order_id"]),
        }
        yield Stage.FILL, what, ids
    if event.facts["order"] is not None and subject.kind is not Kind.EXECUTION:
        yield from _order(event.facts["order"], subject, "")


def _commission(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if facts["exec_id"] in subject.executions:
        what = f"broker: fee {facts['amount']} {facts['currency']} of fill {facts['exec_id']}"
        yield Stage.FEE, what, {"exec_id": facts["exec_id"]}


def _refusal(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if facts["ref"] in subject.intents:
        what = f"refused before it was sent ({facts['code']}): {facts['what']}"
        yield Stage.ORDER, what, {"intent_id": facts["ref"]}


def _alert(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if facts.get("ref") in subject.intents:
        what = f"alert, {facts['severity']}: {facts['what']}"
        yield Stage.ORDER, what, {"intent_id": facts["ref"]}


def _notice(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if str(facts["order_id"]) in subject.orders:
        what = f"broker: notice {facts['code']}: {facts['message']}"
        yield Stage.ORDER, what, {"order_id": str(facts["order_id"])}


def _external(event: Event, subject: Subject, bars: set[datetime]) -> Told:
    facts = event.facts
    if facts.get("ref") in subject.intents:
        what = "broker: an order with this reference that is not in the journal"
        yield Stage.ORDER, what, {"intent_id": str(facts["ref"])}


_TELL: dict[str, Callable[[Event, Subject, set[datetime]], Told]] = {
    "bar": _bar,
    "decided": _decided,
    "left-out": _left_out,
    "intents": _intents,
    "attempt": _attempt,
    "order": _orders,
    "execution": _execution,
    "commission": _commission,
    "refusal": _refusal,
    "alert": _alert,
    "notice": _notice,
    "external-order": _external,
}
