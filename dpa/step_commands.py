"""``dpa train``, ``dpa backtest`` and ``dpa rolling``: the single steps, by hand."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpa.clock import SystemClock
from dpa.errors import DataError, RunError
from dpa.market.ranges import date_span
from dpa.market.readers import load_wide_data
from dpa.options import refuse_settings, settings_from
from dpa.research.closing import close_run, closing_words
from dpa.research.grid import Grid
from dpa.research.plan import Plan, directory_of, plan_new, plan_resumed
from dpa.research.single import backtest_model, train_once
from dpa.research.trials import TrialRun, finish_baseline
from dpa.runs import RunDirectory, check_storage

MEASURES = {
    "net Sharpe": "net_sharpe",
    "standard error": "net_sharpe_se",
    "gross Sharpe": "gross_sharpe",
    "annual return": "annual_return",
    "annual volatility": "annual_volatility",
    "max drawdown": "max_drawdown",
    "turnover per bar": "turnover",
    "cost per year": "cost",
    "average gross": "average_gross",
    "bars": "bars",
}


def summary_lines(summary: Mapping[str, Any]) -> str:
    """A summary for the terminal; returns and exposures are fractions of NAV."""
    return "\n".join(f"{words:18s}{summary[key]:.4g}" for words, key in MEASURES.items())


def check_out(folder: Path) -> None:
    """Refuse a folder that holds something already, or that cannot be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"--out {folder}: exists already", "give a new folder, or remove it")
    check_storage(folder, "--out")


def train(arguments: argparse.Namespace) -> None:
    """Train one model on the history given."""
    settings = settings_from(arguments)
    check_out(arguments.out)
    result = train_once(settings, load_wide_data(settings.data), arguments.out)
    print(
        f"{result.epochs} epochs, net Sharpe {result.train_sharpe:.2f} in training, "
        f"{result.validation_sharpe:.2f} in validation"
    )
    print(f"model {arguments.out}")


def backtest(arguments: argparse.Namespace) -> None:
    """Trade a trained model from ``--start`` on; the bars before it warm the model up."""
    settings = settings_from(arguments)
    check_out(arguments.out)
    config = settings.data
    if not arguments.model.is_dir():
        raise RunError(f"{arguments.model}: is no model folder", "give what 'dpa train' wrote")
    panel = load_wide_data(config.model_copy(update={"start": None}))
    start = None
    if config.start is not None:
        closes = panel.times.as_unit("ns").asi8
        first, stop = date_span(config, panel.calendar, closes)
        if first >= stop:
            raise DataError(f"no bar from {config.start} on", f"the history ends {panel.times[-1]}")
        start = panel.times[first]
    summary = backtest_model(
        arguments.model, settings, panel, arguments.out, start, arguments.in_sample
    )
    print(summary_lines(summary))
    print(f"files {arguments.out}")


def rolling(arguments: argparse.Namespace) -> int:
    """Walk-forward one point in this process, and write it as a run."""
    clock, storage = SystemClock(), arguments.storage
    if arguments.resume:
        refuse_settings(arguments)
        plan = plan_resumed(arguments.resume, storage, arguments.accept_changed_code)
    else:
        plan = plan_new(Grid(settings_from(arguments), {}), storage)
    run = directory_of(plan, storage.absolute(), clock)
    print(f"run   {run.path}\ndata  {plan.history.words}", flush=True)
    with run.lock():
        run.set_status("running")
        try:
            _walk(run, plan)
            run.set_status("complete")
        except KeyboardInterrupt:
            run.set_status("interrupted")
            command = shlex.join(["dpa", "rolling", "--resume", str(run.path)])
            print(f"\ninterrupted; go on with: {command}", flush=True)
        close_run(run, clock)
    print(closing_words(run))
    return 0 if run.status() == "complete" else 130


def _walk(run: RunDirectory, plan: Plan) -> None:
    history, source = plan.history, plan.history.in_memory()
    for trial in plan.trials:
        attempt = TrialRun(trial, source, run.trial(trial.trial_id), history.last_bar)
        while not attempt.done:
            report = attempt.advance()
            if report is not None:
                print(
                    f"fold {attempt.folds_done}/{len(trial.folds)}  {report.test_start[:10]} to "
                    f"{report.test_stop[:10]}  net Sharpe {report.net_sharpe:6.2f}, "
                    f"so far {report.net_sharpe_so_far:6.2f}",
                    flush=True,
                )
    central = plan.central
    for name in run.read_manifest().baselines:
        finish_baseline(name, central, source, run.baseline(name), history.last_bar)
