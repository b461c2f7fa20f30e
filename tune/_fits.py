"""Blocks of features and fits as Ray tasks: what is missing is done, whatever order, once."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from _meters import ray_meters
from _progress import PLAIN_SECONDS, duration
from ray.exceptions import RayError, RayTaskError
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from dpa.clock import Clock
from dpa.horizons.dataset import BlockSpan, Dataset, make_block, write_block
from dpa.horizons.recipe import Recipe
from dpa.horizons.training import SUMMARY, Task, run_task
from dpa.market.session_grid import GridSource
from dpa.telemetry import catalogue
from dpa.telemetry.ids import about
from dpa.telemetry.logs import log_to_files
from dpa.telemetry.meters import Meters
from dpa.validation.splits import Fold

log = logging.getLogger("dpa.fits")
DEATHS_FORGIVEN = 3  # times the process of one task may die
POLL_SECONDS = 0.5


@ray.remote(num_cpus=1, max_retries=DEATHS_FORGIVEN)
def block_task(source: GridSource, recipe: Recipe, span: BlockSpan, folder: Path) -> None:
    """Compute and write the features and labels of some sessions."""
    if not (folder / span.file).is_file():
        write_block(folder, make_block(source, recipe, span), span)


@ray.remote(num_cpus=1, max_retries=DEATHS_FORGIVEN)
def fit_task(task: Task, folds: Sequence[Fold], dataset: Dataset, recipe: Recipe, to: Path) -> None:
    """Fit one family on one fold."""
    log_to_files(recipe.settings.logging, to.parent.parent, "fit")
    with about(run_id=to.parent.name, trial=task.key):
        run_task(task, folds, dataset, recipe, to)
        log.info("fitted: %s", task.label)


@dataclass
class Progress:
    """Where one stage of a run stands.

    Parameters
    ----------
    stage : str
        Such as ``features``.
    total : int
        Pieces of work.
    done : int
        Pieces that were done before.
    clock : Clock
    """

    stage: str
    total: int
    done: int
    clock: Clock
    running: tuple[str, ...] = ()
    failed: int = 0
    _began: float = field(init=False)
    _before: int = field(init=False)

    def __post_init__(self) -> None:
        self._began, self._before = self.clock.elapsed(), self.done

    def line(self) -> str:
        """Everything in one line."""
        parts = [f"{self.stage} {self.done}/{self.total}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        fresh = self.done - self._before
        if fresh > 0 and self.done < self.total:
            pace = (self.clock.elapsed() - self._began) / fresh
            parts.append(f"about {duration(pace * (self.total - self.done))} left")
        if self.running:
            parts.append("running " + ", ".join(self.running[:4]))
        return "; ".join(parts)

    def __rich__(self) -> Group:
        bar = ProgressBar(total=max(self.total, 1), completed=self.done)
        return Group(Padding(bar, 0), Text(self.line()))


@contextmanager
def shown(progress: Progress, console: Console) -> Iterator[Callable[[], None]]:
    """Show a stage: a bar in a terminal, a plain line every ten seconds elsewhere."""
    printed = [progress.clock.elapsed()]

    def plain() -> None:
        now = progress.clock.elapsed()
        if now - printed[0] >= PLAIN_SECONDS:
            printed[0] = now
            console.print(progress.line(), soft_wrap=True, highlight=False)

    if console.is_terminal:
        with Live(progress, console=console, refresh_per_second=4):
            yield lambda: None
    else:
        yield plain
    progress.running = ()
    console.print(progress.line(), soft_wrap=True, highlight=False)


@contextmanager
def cancelled(pending: Mapping[Any, str]) -> Iterator[None]:
    """Stop what still runs when the block is left early, as by Ctrl-C."""
    try:
        yield
    except BaseException:
        for reference in list(pending):
            ray.cancel(reference, force=True)
        raise


def work_off(
    submit: Mapping[str, Callable[[], Any]],
    total: int,
    stage: str,
    console: Console,
    clock: Clock,
    ended: Callable[[str, str | None], None] = lambda label, error: None,
) -> dict[str, str]:
    """Run the pieces of work that are missing; the errors of those that failed, by label.

    Parameters
    ----------
    submit : mapping of label to callable
        Each starts a Ray task and returns its reference.
    total : int
        Pieces of the stage, those done before included.
    stage, console, clock
        What is shown, where, and how time is told.
    ended : callable
        Told the label of each piece that ended, and its error.
    """
    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(submit.items())[::-1]
    pending: dict[Any, str] = {}
    errors: dict[str, str] = {}
    progress = Progress(stage, total, total - len(submit), clock)
    with shown(progress, console) as tell, cancelled(pending):
        while waiting or pending:
            while waiting and len(pending) < at_once + 1:  # one more, so that no core waits
                label, start = waiting.pop()
                pending[start()] = label
            progress.running = tuple(pending.values())[:at_once]
            ready, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
            for reference in ready:
                label = pending.pop(reference)
                error = _outcome(reference)
                if error is None:
                    progress.done += 1
                else:
                    progress.failed += 1
                    errors[label] = error
                ended(label, error)
            tell()
    return errors


def _outcome(reference: Any) -> str | None:
    try:
        ray.get(reference)
    except RayTaskError as e:
        cause = e.cause if isinstance(e.cause, Exception) else e
        return " ".join(str(cause).split())[:300] or type(cause).__name__
    except RayError as e:
        return " ".join(str(e).split())[:300]
    return None


def make_dataset(
    source: GridSource,
    recipe: Recipe,
    spans: Sequence[BlockSpan],
    folder: Path,
    console: Console,
    clock: Clock,
) -> tuple[Dataset | None, dict[str, str]]:
    """Compute the blocks that are missing; the data set, and errors by block."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = ray.put(source), ray.put(recipe)
    missing = [span for span in spans if not (folder / span.file).is_file()]

    def starter(span: BlockSpan) -> Callable[[], Any]:
        options = block_task.options(name=f"features {span.start}-{span.stop}")
        return lambda: options.remote(*shared, span, folder)

    pieces = {f"bars {span.start} to {span.stop}": starter(span) for span in missing}
    errors = work_off(pieces, len(spans), "features", console, clock)
    return (None if errors else Dataset.finish(folder, spans)), errors


def fit_all(
    tasks: Iterable[Task],
    folds: Sequence[Fold],
    dataset: Dataset,
    recipe: Recipe,
    to: Path,
    gpus: float,
    console: Console,
    clock: Clock,
) -> dict[str, str]:
    """Run the fits that are missing; errors by fit."""
    every = list(tasks)
    shared = ray.put(list(folds)), ray.put(dataset), ray.put(recipe)
    missing = [task for task in every if not (to / task.key / SUMMARY).is_file()]

    def starter(task: Task) -> Callable[[], Any]:
        share = gpus if task.family == "encoder" else 0.0
        options = fit_task.options(name=task.label, num_gpus=share)
        return lambda: options.remote(task, *shared, to)

    pieces = {task.label: starter(task) for task in missing}
    by_label, meters = {task.label: task for task in missing}, ray_meters()

    def ended(label: str, error: str | None) -> None:
        count_fit(meters, by_label[label], error, to)

    return work_off(pieces, len(every), "fits", console, clock, ended)


def count_fit(meters: Meters, task: Task, error: str | None, to: Path) -> None:
    """Count a fit that ended, and how long it took."""
    outcome = "done" if error is None else "failed"
    meters.count(catalogue.FITS_DONE, family=task.family, outcome=outcome)
    if error is None:
        seconds = json.loads((to / task.key / SUMMARY).read_text(encoding="utf-8"))["seconds"]
        meters.observe(catalogue.FIT_SECONDS, float(seconds), family=task.family)
