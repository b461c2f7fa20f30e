"""What a grid shows while it runs: a live table in a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dpa.clock import Clock

PLAIN_SECONDS = 10.0  # least time between two plain lines, but for finished trials


@dataclass
class Board:
    """Where the grid stands.

    Parameters
    ----------
    labels : mapping of str to str
        Trial id to its parameters in words.
    folds : mapping of str to int
        Trial id to its number of folds.
    clock : Clock
        For the time left.
    """

    labels: Mapping[str, str]
    folds: Mapping[str, int]
    clock: Clock
    folds_done: dict[str, int] = field(init=False)
    sharpe: dict[str, float] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folds_done = dict.fromkeys(self.folds, 0)  # whole from the start: a thread reads it
        self._before = 0
        self._first: tuple[float, int] | None = None  # when the first fold was done, and how many

    def restore(self, ended: Mapping[str, str]) -> None:
        """Count trials that an earlier session of the run has finished."""
        for trial, status in ended.items():
            self.ended[trial] = status
            self.folds_done[trial] = self.folds[trial]
        self._before = self.done_folds

    def update(self, trial: str, result: Mapping[str, Any]) -> None:
        """Take in what a trial reported after a fold."""
        before = self.folds_done[trial]
        now = int(result.get("folds_done", before))
        if before == 0 and now > 1:
            self._before += now - 1  # resumed: folds of an earlier session
        self.folds_done[trial] = now
        if self._first is None:
            self._first = self.clock.elapsed(), self.done_folds - self._before
        if "net_sharpe_so_far" in result:
            self.sharpe[trial] = float(result["net_sharpe_so_far"])
        if result.get("done"):
            self.ended[trial] = str(result.get("status", "done"))

    @property
    def done_folds(self) -> int:
        """Folds done over all trials."""
        return sum(self.folds_done.values())

    @property
    def total_folds(self) -> int:
        """Folds over all trials; those a failed trial never reached are not waited for."""
        return sum(
            self.folds_done[trial] if self.ended.get(trial) == "failed" else n
            for trial, n in self.folds.items()
        )

    def best(self) -> tuple[str, float] | None:
        """The trial with the highest running net Sharpe; None before the first report."""
        known = {trial: value for trial, value in tuple(self.sharpe.items()) if value == value}
        if not known:
            return None
        trial = max(known, key=known.__getitem__)
        return trial, known[trial]

    def seconds_left(self) -> float | None:
        """Time left at the pace since the first fold of this session; None before the second."""
        if self._first is None:
            return None
        began, before = self._first
        new = self.done_folds - self._before - before
        pace = (self.clock.elapsed() - began) / new if new > 0 else None
        return None if pace is None else pace * (self.total_folds - self.done_folds)

    def line(self) -> str:
        """Everything in one line."""
        failed = tuple(self.ended.values()).count("failed")
        parts = [f"trials {len(self.ended)}/{len(self.folds)}"]
        if failed:
            parts.append(f"{failed} failed")
        parts.append(f"folds {self.done_folds}/{self.total_folds}")
        best = self.best()
        if best is not None:
            parts.append(f"best net Sharpe so far {best[1]:.2f} ({self.labels[best[0]]})")
        left = self.seconds_left()
        parts.append(
            f"about {duration(left)} left" if left is not None else "time left not known yet"
        )
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as ``1h02m``, ``3m05s`` or ``12s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


class ProgressCallback(Callback):
    """Feeds the board from Tune, and prints plain lines where there is no live table."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self.console = console
        self._printed = -PLAIN_SECONDS

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks; a display is not part of an experiment

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One fold of one trial is done."""
        self._take(trial.config["point"]["trial_id"], result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process of a trial died, and the trial is put back into the queue."""
        name = self.board.labels[trial.config["point"]["trial_id"]]
        line = f"trial {name} lost its process; it resumes at the fold it lost"
        self.console.print(line, soft_wrap=True, highlight=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is given up after its process died again and again."""
        if trial.status == "ERROR":
            self._take(trial.config["point"]["trial_id"], {"done": True, "status": "failed"})

    def _take(self, trial: str, result: Mapping[str, Any]) -> None:
        self.board.update(trial, result)
        if self.console.is_terminal:
            return
        now = self.board.clock.elapsed()
        if result.get("done") or now - self._printed >= PLAIN_SECONDS:
            self._printed = now
            self.console.print(self.board.line(), soft_wrap=True, highlight=False)


class _Screen:
    """The live table, drawn anew by rich a few times a second."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __rich__(self) -> Group:
        board = self.board
        table = Table(box=None, pad_edge=False)
        for title in ("trial", "folds", "net Sharpe"):
            table.add_column(title, justify="left" if title == "trial" else "right")
        running = [t for t, done in board.folds_done.items() if done and t not in board.ended]
        for trial in running[:16]:
            sharpe = board.sharpe.get(trial, float("nan"))
            folds = f"{board.folds_done[trial]}/{board.folds[trial]}"
            table.add_row(board.labels[trial], folds, f"{sharpe:.2f}")
        bar = ProgressBar(total=max(board.total_folds, 1), completed=board.done_folds)
        return Group(table, Padding(bar, 0), Text(board.line()))


@contextmanager
def showing(board: Board, console: Console) -> Iterator[ProgressCallback]:
    """The callback for Tune, with the live table around it when `console` is a terminal."""
    callback = ProgressCallback(board, console)
    if not console.is_terminal:
        yield callback
        return
    with Live(_Screen(board), console=console, refresh_per_second=4):
        yield callback
