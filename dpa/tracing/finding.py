"""Which id somebody means, and what belongs to it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dpa.errors import UserError
from dpa.runs import list_runs
from dpa.tracing.hops import Kind, Subject
from dpa.tracing.log_lines import ids_in_logs
from dpa.tracing.places import Sources
from dpa.trading.journal import JournalReader
from dpa.trading.types import Execution, Order

SHOWN = 5


class UnknownId(UserError):
    """Nothing, or more than one thing, is called so."""


@dataclass(frozen=True)
class _Known:
    """What a journal knows of ids."""

    decisions: frozenset[str]
    orders: tuple[Order, ...]
    executions: tuple[Execution, ...]

    @classmethod
    def of(cls, journal: JournalReader) -> "_Known":
        orders = journal.orders()
        decided = {str(event.facts["decision"]) for event in journal.events("decided")}
        made = {order.intent.decision for order in orders}
        return cls(frozenset(decided | made), orders, journal.executions())

    def names(self) -> Iterator[tuple[Kind, str]]:
        yield from ((Kind.DECISION, name) for name in sorted(self.decisions))
        for order in self.orders:
            yield Kind.INTENT, order.ref
            yield Kind.ORDER, str(order.order_id)
            if order.perm_id:
                yield Kind.ORDER, str(order.perm_id)
        yield from ((Kind.EXECUTION, execution.exec_id) for execution in self.executions)


def find(text: str, sources: Sources, kind: Kind | None = None) -> Subject:
    """The one thing that `text` names: an id, or the beginning of one.

    Parameters
    ----------
    text : str
        Of a run, a decision, an intent (``orderRef``), an order (its number or permanent number
        at the broker) or an execution.
    sources : Sources
    kind : Kind, optional
        Only of this kind.

    Raises
    ------
    UnknownId
        Nothing is called so, or several things begin so: the words name them.
    HaltError
        A journal cannot be read.
    """
    known = [_read(sources, path) for path in sources.journals]
    names = dict.fromkeys(_names(sources, known))
    matching = _matching(text, kind, names)
    if not matching:
        in_logs = dict.fromkeys((Kind(k), name) for k, name in ids_in_logs(sources, text))
        matching = _matching(text, kind, in_logs)
    if len(matching) != 1:
        raise _refusal(text, sources, matching)
    return _whole(*matching[0], known)


def _read(sources: Sources, path: object) -> _Known:
    with sources.open_journal(path) as journal, journal.snapshot():  # type: ignore[arg-type]
        return _Known.of(journal)


def _names(sources: Sources, known: Iterable[_Known]) -> Iterator[tuple[Kind, str]]:
    yield from ((Kind.RUN, run.path.name) for run in list_runs(sources.storage))
    yield from ((Kind.DECISION, str(decision["id"])) for decision in sources.decisions())
    for each in known:
        yield from each.names()


def _matching(
    text: str, kind: Kind | None, names: Iterable[tuple[Kind, str]]
) -> list[tuple[Kind, str]]:
    """The names that are `text`, else those that begin with it."""
    if not text.strip():
        return []
    wanted = [(k, name) for k, name in names if kind in (None, k)]
    exact = [(k, name) for k, name in wanted if name == text]
    return exact or [(k, name) for k, name in wanted if name.startswith(text)]


def _refusal(text: str, sources: Sources, matching: list[tuple[Kind, str]]) -> UnknownId:
    if not matching:
        return UnknownId(
            f"{text!r}: nothing in {sources.storage} has that id",
            "see 'dpa journal show' and 'dpa runs list', or give the --storage it belongs to",
        )
    shown = ", ".join(f"{kind} {name}" for kind, name in matching[:SHOWN])
    more = f" and {len(matching) - SHOWN} more" if len(matching) > SHOWN else ""
    return UnknownId(
        f"{text!r}: {len(matching)} ids begin so: {shown}{more}", "give more of it, or its --kind"
    )


def _whole(kind: Kind, name: str, known: Iterable[_Known]) -> Subject:
    if kind is Kind.RUN:
        return Subject(kind, name, runs=frozenset({name}))
    orders = [order for each in known for order in each.orders]
    fills = [fill for each in known for fill in each.executions]
    if kind is Kind.DECISION:
        orders = [order for order in orders if order.intent.decision == name]
    elif kind is Kind.INTENT:
        orders = [order for order in orders if order.ref == name]
    elif kind is Kind.ORDER:
        orders = [o for o in orders if name in (str(o.order_id), str(o.perm_id))]
    else:
        stem = next((fill.stem for fill in fills if fill.exec_id == name), name)
        fills = [fill for fill in fills if fill.stem == stem]
        refs = {(fill.ref, fill.order_id) for fill in fills}
        orders = [order for order in orders if (order.ref, order.order_id) in refs]
    refs_of = {order.ref for order in orders}
    if kind in (Kind.DECISION, Kind.INTENT):
        fills = [fill for fill in fills if fill.ref in refs_of]
    elif kind is Kind.ORDER:
        numbers = {order.order_id for order in orders}
        fills = [f for f in fills if f.ref in refs_of and f.order_id in numbers]
    itself = frozenset({name})
    return Subject(
        kind,
        name,
        decisions=frozenset(o.intent.decision for o in orders)
        | (itself if kind is Kind.DECISION else frozenset()),
        intents=frozenset(refs_of) | (itself if kind is Kind.INTENT else frozenset()),
        orders=frozenset(str(order.order_id) for order in orders),
        executions=frozenset(f.exec_id for f in fills)
        | (itself if kind is Kind.EXECUTION else frozenset()),
    )
