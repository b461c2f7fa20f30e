"""What the logs tell of an id."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from dpa.tracing.hops import Hop, Kind, Stage, Subject
from dpa.tracing.places import Sources

FIELDS = {
    "run_id": Kind.RUN,
    "decision_id": Kind.DECISION,
    "intent_id": Kind.INTENT,
    "order_id": Kind.ORDER,
    "exec_id": Kind.EXECUTION,
}
FEW = 50  # ids that are looked for in the text of a line before it is read as JSON
_STAGES = (
    ("exec_id", Stage.FILL),
    ("order_id", Stage.ORDER),
    ("intent_id", Stage.INTENT),
    ("decision_id", Stage.DECISION),
    ("bar", Stage.BAR),
)
Lines = Iterator[tuple[str, dict[str, Any]]]


def lines_of(sources: Sources, having: frozenset[str], notes: list[str]) -> Lines:
    """Lines of all files that hold one of some texts, with the name of their file."""
    few = having if len(having) <= FEW else None
    for path in sources.log_files:
        bad = 0
        with path.open(encoding="utf-8", errors="replace") as stream:
            for text in stream:
                if few is not None and not any(name in text for name in few):
                    continue
                try:
                    line = json.loads(text)
                    datetime.fromisoformat(line.get("at") or line["time"])
                except (ValueError, KeyError, TypeError, AttributeError):
                    bad += 1
                    continue
                yield path.name, line
        if bad:
            notes.append(f"{path.name}: {bad} lines cannot be read")


def ids_in_logs(sources: Sources, text: str) -> Iterator[tuple[str, str]]:
    """Kinds and ids of lines that begin with `text`: what is in no journal any more."""
    for _, line in lines_of(sources, frozenset({text}), []):
        for name, kind in FIELDS.items():
            value = str(line.get(name) or "")
            if value.startswith(text):
                yield kind.value, value


def log_hops(
    sources: Sources, subject: Subject, bars: frozenset[datetime], notes: list[str]
) -> Iterator[Hop]:
    """Hops of the logs.

    Parameters
    ----------
    sources : Sources
    subject : Subject
    bars : frozenset of datetime
        Closes of the bars its decisions were made on: what was logged of them counts.
    notes : list of str
        Receives what could not be read.
    """
    texts = subject.all | {bar.isoformat() for bar in bars}
    for file, line in lines_of(sources, texts, notes):
        if _belongs(line, subject, bars):
            yield _hop(file, line)


def _belongs(line: Mapping[str, Any], subject: Subject, bars: frozenset[datetime]) -> bool:
    """Whether a line is of the subject: the narrowest id of a line decides."""
    of = {name: str(line[name]) for name in FIELDS if line.get(name)}
    if "exec_id" in of:
        return of["exec_id"] in subject.executions
    if "intent_id" in of:
        told = of.get("order_id")
        narrow = subject.kind in (Kind.ORDER, Kind.EXECUTION) and told is not None
        return of["intent_id"] in subject.intents and (not narrow or told in subject.orders)
    if "decision_id" in of:
        return of["decision_id"] in subject.decisions
    if "order_id" in of:
        return of["order_id"] in subject.orders
    if "run_id" in of:
        return of["run_id"] in subject.runs
    return bool(line.get("bar")) and _moment(line["bar"]) in bars


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _hop(file: str, line: Mapping[str, Any]) -> Hop:
    stage = next((stage for name, stage in _STAGES if line.get(name)), Stage.RUN)
    words = str(line.get("message", ""))
    if line.get("level") in ("warning", "error", "critical"):
        words = f"{line['level']}: {words}"
    if line.get("trial"):
        words = f"{line['trial']}: {words}"
    ids = {name: str(line[name]) for name in (*FIELDS, "bar", "account") if line.get(name)}
    time = datetime.fromisoformat(line.get("at") or line["time"])
    return Hop(time, _end_or(stage, words), f"log of {line.get('process', file)}", words, ids)


def _end_or(stage: Stage, words: str) -> Stage:
    if stage is Stage.ORDER and any(f" is {state}" in words for state in ("filled", "cancelled")):
        return Stage.END
    return Stage.FEE if stage is Stage.FILL and words.startswith("fee ") else stage
