"""One id followed through everything a storage holds."""

import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime

from dpa.errors import DpaError
from dpa.tracing.finding import find
from dpa.tracing.hops import Hop, Kind, Trace
from dpa.tracing.journal_hops import bars_of, journal_hops
from dpa.tracing.log_lines import log_hops
from dpa.tracing.other_hops import decision_hops, gateway_hops, paper_hops, run_hops
from dpa.tracing.places import Sources


def follow(text: str, sources: Sources, kind: Kind | None = None) -> Trace:
    """All that is known of the id that `text` is, or begins.

    Parameters
    ----------
    text : str
    sources : Sources
    kind : Kind, optional
        Where ids of several kinds begin so.

    Returns
    -------
    Trace
        A place that cannot be read is a note of it, not an error: the others still tell.

    Raises
    ------
    UnknownId
        As :func:`dpa.tracing.finding.find`.
    """
    subject = find(text, sources, kind)
    hops: list[Hop] = []
    notes: list[str] = []
    bars: set[datetime] = set()
    for path in sources.journals:
        with sources.open_journal(path) as journal, journal.snapshot():
            bars |= bars_of(journal, subject.decisions)
            hops += journal_hops(journal, subject)
    of_them = frozenset(bars)
    told: dict[str, Callable[[], Iterable[Hop]]] = {
        "runs": lambda: run_hops(sources, subject),
        "decision store": lambda: decision_hops(sources, subject, notes),
        "paper broker": lambda: paper_hops(sources, subject),
        "gateway": lambda: gateway_hops(sources, subject),
        "logs": lambda: log_hops(sources, subject, of_them, notes),
    }
    for name, tell in told.items():
        try:
            hops += tell()
        except (DpaError, OSError, sqlite3.Error, ValueError, KeyError, TypeError) as e:
            notes.append(f"{name}: cannot be read ({e})")
    if not sources.log_files:
        notes.append("there are no logs: give --logs, or see logging.log_files")
    return Trace.of(subject, hops, notes)
