"""What is wrong with a machine, in one line with its cure."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpa.errors import DpaError, UserError


class HostError(UserError):
    """A machine, or what lies between two of them, must be mended first."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something found wrong.

    Parameters
    ----------
    host : str
        Address of the machine; empty: this one.
    kind : str
        A word for programs, such as ``clock`` or ``ssh-timeout``.
    what, cure : str
        As of :class:`dpa.errors.DpaError`.
    """

    host: str
    kind: str
    what: str
    cure: str

    def __str__(self) -> str:
        place = f"{self.host}: " if self.host else ""
        return f"{place}{self.what}; {self.cure}"

    def error(self) -> HostError:
        """The same, to be raised."""
        place = f"{self.host}: " if self.host else ""
        return HostError(place + self.what, self.cure)


class ProblemFound(DpaError):
    """Raised where a step cannot go on; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what, problem.cure)
        self.problem = problem

    def __str__(self) -> str:
        return str(self.problem)


def summary(problems: Sequence[Problem], again: str) -> HostError:
    """One error for all of them; each should have been shown before where there are several."""
    if len(problems) == 1:
        return problems[0].error()
    hosts = len({problem.host for problem in problems})
    return HostError(
        f"{len(problems)} problems on {hosts} machine{'s' if hosts > 1 else ''}, listed above",
        f"mend them, then: {again}",
    )
