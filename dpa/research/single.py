"""The single steps, for people who work by hand: train once, trade a trained model."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dpa.cluster.loss import make_outcome
from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import load_model, read_model_manifest, save_model
from dpa.cluster.tracker import ClusterTracker
from dpa.config import Settings
from dpa.errors import DataError, RunError
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
    outcome = make_outcome(
        panel, per_year, per_session, delisting_return=settings.costs.delisting_return
    )
    costs = CostModel(settings.costs)
    result = FoldTraining(
        model, inputs, outcome, span, costs, settings.training, per_year, lag
    ).run()
    facts = {
        "calendar": panel.calendar,
        "interval": panel.interval,
        "settings": settings.model_dump(mode="json"),
        "seen_until": panel.times[-1].isoformat(),
    }
    save_model(model, out, panel.names, facts)
    return result


def backtest_model(
    folder: Path,
    settings: Settings,
    panel: Panel,
    out: Path,
    start: pd.Timestamp | None = None,
    in_sample: bool = False,
) -> dict[str, Any]:
    """Trade a trained model as it is, and write what came of it to `out`.

    Parameters
    ----------
    folder : Path
        A model folder: ``best/`` of a run, or what :func:`train_once` wrote. Its own settings of
        the model are used; costs and walk-forward lengths come from `settings`.
    settings : Settings
    panel : Panel
        History up to the last bar to trade. The ``train_bars`` bars before each stretch, and the
        model's look-back before them, warm it up, exactly as in a walk-forward test.
    out : Path
        Receives the files of a trial.
    start : Timestamp (UTC), optional
        First bar to trade; none: the first one the model has not seen.
    in_sample : bool
        Allow bars the model was trained, tested or chosen on.

    Returns
    -------
    dict
        Summary, as a row of ``grid_search_results.csv``.

    Raises
    ------
    RunError
        When the model cannot be read, belongs to another interval or calendar, or has seen the
        bars to be traded.
    DataError
        When there are too few bars before `start`, or none from it on.
    """
    model, _ = load_model(folder)
    manifest = read_model_manifest(folder)
    for what, here in (("interval", panel.interval), ("calendar", panel.calendar)):
        if manifest.get(what) != here:
            raise RunError(
                f"{folder}: the model's {what} is {manifest.get(what)}, the data's is {here}",
                "give data of the same kind",
            )
    context = model.config.context_bars
    first = _first_unseen(folder, manifest, panel, start, in_sample, context)
    # its clusters belong to the day it was trained; here they are followed from the first bar on
    model.tracker = ClusterTracker(model.config.n_clusters, model.seed, model.config.reseed_bars)
    lengths = settings.walk_forward
    folds = []
    for index, test_start in enumerate(range(first, panel.n_bars, lengths.test_bars)):
        warm = max(context, test_start - lengths.train_bars)
        test_stop = min(test_start + lengths.test_bars, panel.n_bars)
        folds.append(Fold(index, warm, warm, test_start, test_stop, False))
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


def _first_unseen(
    folder: Path,
    manifest: dict[str, Any],
    panel: Panel,
    start: pd.Timestamp | None,
    in_sample: bool,
    context: int,
) -> int:
    """Bar number of the first bar to trade."""
    try:
        seen_until = pd.Timestamp(datetime.fromisoformat(manifest["seen_until"])).tz_convert("UTC")
    except (LookupError, TypeError, ValueError) as e:
        raise RunError(
            f"{folder}: the model does not say which bars it has seen", "train it again"
        ) from e
    unseen = int(panel.times.searchsorted(seen_until, side="right"))
    fallback = context if in_sample else max(context, unseen)
    first = fallback if start is None else int(panel.times.searchsorted(start))
    if first >= panel.n_bars:
        raise DataError(
            f"no bars to trade after {(start or seen_until).date()}, the last ones the model has "
            "seen"
            if start is None
            else f"no bars to trade from {start.date()} on",
            "give later data, or look at what it has seen with --start and --in-sample",
        )
    if first < unseen and not in_sample:
        raise RunError(
            f"{folder}: the model was trained, tested or chosen on bars until {seen_until.date()}",
            "start later, or say --in-sample if that is what you want to see",
        )
    if first < context:
        raise DataError(
            f"{first} bars before {panel.times[first].date()} are too few: the model needs "
            f"{context} to warm up",
            "start later or give more history",
        )
    return first
