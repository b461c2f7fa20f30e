"""What a scenario found, and whether it is as it must be."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fact:
    """One line of the table.

    Parameters
    ----------
    what, found : str
    holds : bool, optional
        Whether a promise is kept; none: a measurement.
    """

    what: str
    found: str
    holds: bool | None = None


@dataclass
class Facts:
    """Facts of one scenario, in order.

    Parameters
    ----------
    title : str
    """

    title: str
    rows: list[Fact] = field(default_factory=list)

    def measured(self, what: str, found: object) -> None:
        """Something that is only said."""
        self.rows.append(Fact(what, str(found)))

    def promised(self, what: str, found: object, holds: bool) -> None:
        """Something that must hold."""
        self.rows.append(Fact(what, str(found), holds))

    @property
    def broken(self) -> list[Fact]:
        """Promises that were not kept."""
        return [fact for fact in self.rows if fact.holds is False]


def table(found: Iterable[Facts]) -> str:
    """Markdown, one table a scenario."""
    parts = []
    for facts in found:
        lines = [f"### {facts.title}", "", "| what | found | |", "|---|---|---|"]
        for fact in facts.rows:
            mark = {None: "", True: "holds", False: "**BROKEN**"}[fact.holds]
            lines.append(f"| {fact.what} | {fact.found.replace('|', '/')} | {mark} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
