"""Keeps in the journal what is no order: decisions, values, what was left out, alerts.

The report of a session is made of these notes, so that it can be made of a journal alone, also of
a trader that died.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from dpa.trading.events import (
    Alert,
    BarTaken,
    Decided,
    Event,
    LeftOut,
    LevelChanged,
    NotDecided,
    Valued,
)

KINDS = (Alert, BarTaken, Decided, LeftOut, LevelChanged, NotDecided, Valued)


class Notes(Protocol):
    """Where notes are kept: the journal."""

    def note(self, kind: str, facts: Mapping[str, Any]) -> int: ...
    def transaction(self) -> AbstractContextManager[None]: ...


class Recorder:
    """A handler of the bus that keeps notes.

    Subscribe :meth:`take` for :data:`KINDS` on the order path: a journal that cannot be written
    halts trading anyway.

    Parameters
    ----------
    notes : Notes

    Notes
    -----
    Of a bar everything is kept together when the next thing of another kind comes, or at
    :meth:`flush`: hundreds of symbols that were left out are one note.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._left_out: dict[tuple[str, str], list[str]] = {}

    def take(self, event: Event) -> None:
        """Keep an event."""
        if isinstance(event, LeftOut):
            self._left_out.setdefault((event.decision, event.why), []).append(event.symbol)
            return
        with self._notes.transaction():
            self.flush()
            kind, facts = _note(event)
            if kind:
                self._notes.note(kind, facts)

    def flush(self) -> None:
        """Keep what waits to be kept together."""
        waiting, self._left_out = self._left_out, {}
        for (decision, why), symbols in waiting.items():
            facts = {"decision": decision, "why": why, "symbols": symbols}
            self._notes.note("left-out", facts)


def _note(event: Event) -> tuple[str, dict[str, Any]]:
    if isinstance(event, BarTaken):
        return "bar", {
            "time": event.time,
            "symbols": event.symbols,
            "missing": list(event.missing),
            "late": event.late,
        }
    if isinstance(event, Decided):
        return "decided", {
            "decision": event.decision,
            "time": event.time,
            "level": event.level,
            "why": event.why,
            "binds": event.binds,
            "because": event.because,
        }
    if isinstance(event, NotDecided):
        return "not-decided", {"time": event.time, "why": event.why, "in_a_row": event.in_a_row}
    if isinstance(event, Valued):
        return "valued", {
            "account": event.account,
            "session": event.session,
            "nav": event.nav,
            "prior_nav": event.prior_nav,
            "cash": event.cash,
            "gross": event.gross,
            "net": event.net,
            "largest": event.largest,
        }
    if isinstance(event, LevelChanged):
        return "level", {"level": event.level, "by": event.by, "why": event.why}
    if isinstance(event, Alert):
        facts = {name: str(value) for name, value in event.facts.items()}
        severity = event.severity.name.lower()
        return "alert", {"severity": severity, "kind": event.kind, "what": event.what, **facts}
    return "", {}
