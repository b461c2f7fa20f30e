"""What ends a run, finished or interrupted: tables, promoted model, report, closing words."""

from dpa.clock import Clock
from dpa.research.results import read_run, write_grid_csv
from dpa.runs import RunDirectory, promote


def close_run(run: RunDirectory, clock: Clock) -> int:
    results = read_run(run.path)
    write_grid_csv(results)
    if results.best is not None and results.best.status == "done":
        promote(run, results.best.name, clock)
    return sum(trial.status == "done" for trial in results.trials)


def closing_words(run: RunDirectory) -> str:
    return "words"
