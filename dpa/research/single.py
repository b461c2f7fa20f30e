"""The single steps, for people who work by hand: train once, trade a trained model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dpa.cluster.loss import make_outcome
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import load_model, save_model
from dpa.cluster.tracker import ClusterTracker
from dpa.config import Settings
from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.panel import Panel
from dpa.research.rolling import RollingTrainer
from dpa.research.training import FoldTraining, Span, TrainingResult
from dpa.validation.splits import Fold


def last_price_bars(panel: Panel) -> NDArray[np.int64]:
    """Number of the bar of each name's last price, shape (n_assets,); -1 for none at all."""
    priced = np.isfinite(panel.prices)
    last = panel.n_bars - 1 - priced[::-1].argmax(axis=0)
    return np.where(priced.any(axis=0), last, -1).astype(np.int64)


def train_once(settings: Settings, panel: Panel, out: Path) -> TrainingResult:
    """Train one model on all of `panel` and write it to `out`.

    The first ``model.context_bars`` bars only warm the model up; the last
    ``training.validation_fraction`` of the rest decides when to stop.

    Parameters
    ----------
    settings : Settings
        ``training.seed`` is used as it is.
    panel : Panel
        The training history, and nothing later.
    out : Path
        Folder of the model.

    Returns
    -------
    TrainingResult

    Raises
    ------
    DataError
        When the history is too short to train on.
    """
    model_settings, lag = settings.model, settings.walk_forward.execution_lag
    context = model_settings.context_bars
    least = context + lag + 20
    if panel.n_bars < least:
        raise DataError(
            f"{panel.n_bars} bars are too few to train on: window {model_settings.window} and "
            f"residual history {model_settings.residual_bars} need {least}",
            "give more history or a shorter --window",
        )
    calendar = TradingCalendar(panel.calendar)
    per_year = calendar.bars_per_year(panel.interval)
    per_session = per_year / calendar.bars_per_year("1d")
    torch.manual_seed(settings.training.seed)
    model = ClusterModel(model_settings, settings.training.seed)
    inputs = model.prepare(panel)
    if model_settings.centroids == "shape":
        model.seed_shapes(inputs.features, panel.n_bars)
    span = Span.of(context + lag, panel.n_bars, settings.training.validation_fraction)
    outcome = make_outcome(panel, per_year, per_session)
    costs = CostModel(settings.costs)
    result = FoldTraining(
        model, inputs, outcome, span, costs, settings.training, per_year, lag
    ).run()
    facts = {
        "calendar": panel.calendar,
        "interval": panel.interval,
        "settings": settings.model_dump(mode="json"),
        "trained_until": panel.times[-1].isoformat(),
    }
    save_model(model, out, panel.names, facts)
    return result


def backtest_model(
    folder: Path, settings: Settings, panel: Panel, out: Path, start: pd.Timestamp | None = None
) -> dict[str, Any]:
    """Trade a trained model as it is, and write what came of it to `out`.

    Parameters
    ----------
    folder : Path
        A model folder: ``best/`` of a run, or what :func:`train_once` wrote. Its own settings of
        the model are used; costs and walk-forward lengths come from `settings`.
    settings : Settings
    panel : Panel
        History up to the last bar to trade; the bars before `start` warm the model up.
    out : Path
        Receives the files of a trial.
    start : Timestamp (UTC), optional
        First bar to trade; none: as soon as the model is warm.

    Returns
    -------
    dict
        Summary, as a row of ``grid_search_results.csv``.

    Raises
    ------
    RunError
        When the model cannot be read.
    DataError
        When there are too few bars before `start`, or none from it on.
    """
    model, _ = load_model(folder)
    # its clusters belong to the day it was trained; here they are followed from the first bar on
    model.tracker = ClusterTracker(model.config.n_clusters, model.seed, model.config.reseed_bars)
    context = model.config.context_bars
    first = context if start is None else int(panel.times.searchsorted(start))
    if first >= panel.n_bars:
        raise DataError(
            f"no bars to trade from {start or 'the first'} on",
            f"the history ends at {panel.times[-1].isoformat()}" if panel.n_bars else "",
        )
    if first < context:
        raise DataError(
            f"{first} bars before {panel.times[first].date()} are too few: the model needs "
            f"{context} to warm up",
            "start later or give more history",
        )
    steps = range(first, panel.n_bars, settings.walk_forward.test_bars)
    stops = [*steps[1:], panel.n_bars]
    folds = [Fold(i, a, a, a, b, False) for i, (a, b) in enumerate(zip(steps, stops, strict=True))]
    trainer = RollingTrainer(
        settings.model_copy(update={"model": model.config}),
        panel,
        folds,
        out,
        last_price_bars(panel),
        model=model,
    )
    while not trainer.done:
        trainer.step()
    return trainer.finish()
