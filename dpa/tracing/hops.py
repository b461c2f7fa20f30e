"""A trace: what is known of one id, hop by hop, each with the place it is told in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

from dpa.text import columns


class Kind(StrEnum):
    """What an id names."""

    RUN = "run"
    DECISION = "decision"
    INTENT = "intent"
    ORDER = "order"
    EXECUTION = "execution"


class Stage(IntEnum):
    """Where a hop stands among those of the same moment."""

    RUN = 0
    BAR = 1
    DECISION = 2
    INTENT = 3
    ORDER = 4
    FILL = 5
    END = 6
    FEE = 7


@dataclass(frozen=True)
class Hop:
    """One thing that was told.

    Parameters
    ----------
    time : datetime
        UTC; of a replay the time of the market.
    stage : Stage
    source : str
        Where it is told, such as ``journal 12``.
    what : str
        In words.
    ids : mapping
        Those it names.
    """

    time: datetime
    stage: Stage
    source: str
    what: str
    ids: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "time": self.time.astimezone(UTC).isoformat(timespec="microseconds"),
            "stage": self.stage.name.lower(),
            "source": self.source,
            "what": self.what,
            "ids": dict(self.ids),
        }


@dataclass(frozen=True)
class Subject:
    """What is traced: an id, and all that belongs to it.

    Parameters
    ----------
    kind : Kind
    id : str
    decisions, intents, orders, executions, runs : frozenset of str
        Above and below it; `orders` are numbers at the broker.
    """

    kind: Kind
    id: str
    decisions: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()
    orders: frozenset[str] = frozenset()
    executions: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()

    @property
    def all(self) -> frozenset[str]:
        """Every id of it."""
        return self.decisions | self.intents | self.orders | self.executions | self.runs


@dataclass(frozen=True)
class Trace:
    """All that is known of an id.

    Parameters
    ----------
    subject : Subject
    hops : tuple of Hop
        In the order of time; of the same moment from the bar to the fee.
    notes : tuple of str
        What could not be read, or is not kept.
    """

    subject: Subject
    hops: tuple[Hop, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, subject: Subject, hops: Sequence[Hop], notes: Sequence[str]) -> "Trace":
        """A trace with its hops in order; those told in one place stay in that place's order."""
        ordered = sorted(hops, key=lambda hop: (hop.time, hop.stage))
        return cls(subject, tuple(ordered), tuple(dict.fromkeys(notes)))

    def to_dict(self, most: int | None = None) -> dict[str, Any]:
        """For JSON.

        Parameters
        ----------
        most : int, optional
            Hops that are given; of more the first and last ones.
        """
        hops, left_out = self.hops, 0
        if most is not None and len(hops) > most:
            left_out = len(hops) - most
            hops = (*hops[: most - most // 2], *hops[len(hops) - most // 2 :])
        subject = self.subject
        return {
            "kind": subject.kind.value,
            "id": subject.id,
            "decisions": sorted(subject.decisions),
            "intents": sorted(subject.intents)[:most],
            "hops": [hop.to_dict() for hop in hops],
            "left_out": left_out,
            "notes": list(self.notes),
        }

    def words(self) -> str:
        """A table of times, places and words."""
        subject = self.subject
        parts = [f"{subject.kind} {subject.id}"]
        if self.hops:
            rows = [
                (f"{hop.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3], hop.source, hop.what)
                for hop in self.hops
            ]
            parts.append(columns(("time, UTC", "told by", "what"), rows))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts[:2]) + "".join(f"\n{note}" for note in parts[2:])
