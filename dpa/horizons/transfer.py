"""Train on one interval, validate on another: what a predictor keeps when the bars change.

Features are computed anew on either interval from their look-backs in session minutes; a feature
that does not fit both is left out. Folds are whole sessions, the same dates on both intervals. A
model learns from rows of one interval and forecasts the test sessions on both, bar by bar.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

import dpa.horizons.families  # noqa: F401  registers the families that come with dpa
from dpa.config import HorizonsConfig, Settings
from dpa.errors import ConfigError, DataError
from dpa.horizons.clock import SessionClock
from dpa.horizons.dataset import Block, BlockSpan, Dataset, make_block, plan_blocks, write_block
from dpa.horizons.families.protocol import Family, family_class
from dpa.horizons.feature_set import available_features
from dpa.horizons.plugins import load_plugins
from dpa.horizons.recipe import Recipe, interval_spec
from dpa.horizons.registry import find_feature
from dpa.horizons.training import Task, clipped, predict_rows, task_seed
from dpa.horizons.types import Doubles, Integers
from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.interval_specs import (
    Horizon,
    IntervalSpec,
    check_divides,
    parse_horizon,
    parse_horizons,
)
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.market.resampling import resample
from dpa.market.session_grid import GridSource, bars_around
from dpa.validation.information import ICEstimate, cross_sectional_ic, mean_ic
from dpa.validation.purge import holdout, session_folds
from dpa.validation.splits import Fold

RETAINED = 0.5  # fraction of the IC that must be left for "transfers"
ERRORS = 2.0  # standard errors an IC must be above zero to count
LEAST_NAMES = 5  # fewest names for a rank correlation
TRANSFERS, FAILS, NOTHING = "transfers", "does not transfer", "nothing to transfer"
UNSURE = "too few bars to tell"
VERDICTS = (
    f"{TRANSFERS}: IC of the validation at least {RETAINED:g} of that of the training interval, "
    f"and above {ERRORS:g} standard errors",
    f"{FAILS}: one of the two is missing",
    f"{NOTHING}: IC on the training interval itself not above {ERRORS:g} standard errors",
)


class ResampledSource:
    """Longer bars of a history on its session grid, made window by window.

    Together the windows are what :func:`~dpa.market.resampling.resample` makes of the whole
    history, which is never in memory as a whole.

    Parameters
    ----------
    source : GridSource
    interval : str
        A multiple of the interval of `source`.

    Raises
    ------
    DataError
        When `interval` is no multiple, or `source` holds no whole bar of it.
    """

    def __init__(self, source: GridSource, interval: str) -> None:
        length = parse_interval(interval)
        check_divides(parse_interval(source.interval), length)
        self._source, self._interval = source, str(length)
        times = source.times()
        closes = nanoseconds(times)
        bars = bars_around(times, self._interval, source.calendar)
        numbers, starts = np.unique(np.searchsorted(bars.closes, closes), return_index=True)
        whole = int((bars.closes[numbers] <= closes[-1]).sum())  # the last one may be cut
        if not whole:
            raise DataError(f"the data hold no whole bar of {length}", "give more history")
        self._closes = bars.closes[numbers[:whole]]
        self._edges = np.append(starts, len(closes))[: whole + 1]

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return len(self._closes)

    @property
    def names(self) -> tuple[str, ...]:
        """Ticker symbols, in column order."""
        return self._source.names

    @property
    def interval(self) -> str:
        """Bar length."""
        return self._interval

    @property
    def calendar(self) -> str:
        """exchange_calendars code."""
        return self._source.calendar

    def times(self) -> pd.DatetimeIndex:
        """Closes of the bars, UTC."""
        return utc_index(self._closes)

    def window(self, start: int, stop: int) -> Panel:
        """Bars ``start`` (inclusive) to ``stop`` (exclusive); a :class:`DataError` outside."""
        if not 0 <= start <= stop <= self.n_bars:
            raise DataError(f"bars [{start}, {stop}) are outside [0, {self.n_bars})")
        fine = self._source.window(int(self._edges[start]), int(self._edges[stop]))
        return resample(fine, self._interval)


Source = GridSource | ResampledSource


def at_interval(source: GridSource, interval: str) -> Source:
    """The history in bars of `interval`: itself, or resampled; errors as there."""
    same = parse_interval(interval) == parse_interval(source.interval)
    return source if same else ResampledSource(source, interval)


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two intervals.

    Parameters
    ----------
    source : GridSource or ResampledSource
    recipe : Recipe
        Of equal features and horizons on both sides.
    session : int64 ndarray of shape (n_bars,)
        Number of each bar's session on this side, from 0.
    ends : int64 ndarray of shape (n_sessions,)
        Close of each session, UTC nanoseconds: what names a session on both sides.
    """

    source: Source
    recipe: Recipe
    session: Integers
    ends: Integers
    edges: Integers = field(init=False)

    def __post_init__(self) -> None:
        edges = np.searchsorted(self.session, np.arange(len(self.ends) + 1))
        object.__setattr__(self, "edges", edges.astype(np.int64))

    @classmethod
    def of(cls, source: Source, recipe: Recipe) -> "Side":
        """A side of `source`."""
        clock = SessionClock.of(source.times(), source.interval, source.calendar)
        numbers, session = np.unique(clock.session, return_inverse=True)
        ends = clock.grid.closes[clock.grid.first[numbers + 1] - 1]
        return cls(source, recipe, session.astype(np.int64), ends)

    @property
    def interval(self) -> str:
        """Bar length."""
        return self.recipe.interval

    def time(self, bar: int) -> pd.Timestamp:
        """Close of a bar, UTC."""
        return self.source.times()[bar]

    def bars_of(self, ends: Integers) -> tuple[int, int]:
        """First bar and stop of the sessions that end at `ends`; none is (0, 0)."""
        held = np.flatnonzero(np.isin(self.ends, ends))
        if not len(held):
            return 0, 0
        return int(self.edges[held[0]]), int(self.edges[held[-1] + 1])

    def tested(self, fold: Fold) -> Integers:
        """Ends of the sessions a fold of this side tests."""
        first, last = self.session[fold.test_start], self.session[fold.test_stop - 1]
        return self.ends[first : last + 1]

    def spans(self, start: int, stop: int) -> list[BlockSpan]:
        """Blocks of whole sessions between two bars."""
        size = self.recipe.sessions_per_block
        part = self.session[start:stop]
        planned = plan_blocks(part, size) if len(part) else []
        return [BlockSpan(span.start + start, span.stop + start) for span in planned]

    def overlap(self, place: int) -> int:
        """Bars from a decision to the end of the label of the horizon at `place`."""
        return self.recipe.lag - 1 + self.recipe.horizons[place].bars


@dataclass(frozen=True)
class TransferFold:
    """When one fold learned and when it was tested.

    Parameters
    ----------
    first_row, last_label : Timestamp
        Close of the first training bar, and of the last bar that a training label reads; UTC.
    first_test : tuple of two Timestamp
        Close of the first bar tested, on the training and on the validation interval.
    n_rows : int
        Rows the model was fitted on, those of early stopping left out.
    """

    first_row: pd.Timestamp
    last_label: pd.Timestamp
    first_test: tuple[pd.Timestamp, pd.Timestamp]
    n_rows: int


@dataclass(frozen=True)
class HorizonTransfer:
    """What one horizon keeps.

    Parameters
    ----------
    horizon : str
    train, validate : ICEstimate
        Mean IC by bar over the test sessions both intervals have, with errors that respect
        overlapping labels on the interval's own bars.
    degradation : ICEstimate
        Mean over sessions of the IC of the validation less that of the training interval, each a
        session's mean; paired, so that what moves both cancels in its error.
    verdict : str
        See :data:`VERDICTS`.
    """

    horizon: str
    train: ICEstimate
    validate: ICEstimate
    degradation: ICEstimate
    verdict: str


@dataclass(frozen=True)
class Transfer:
    """What came of the experiment.

    Parameters
    ----------
    family : str
    train_interval, validate_interval : str
    features : tuple of str
        Used on both intervals.
    left_out : dict of str to str
        Features that fit one interval only, or neither though asked for, and why.
    folds : tuple of TransferFold
    horizons : tuple of HorizonTransfer
    """

    family: str
    train_interval: str
    validate_interval: str
    features: tuple[str, ...]
    left_out: dict[str, str]
    folds: tuple[TransferFold, ...]
    horizons: tuple[HorizonTransfer, ...]

    def table(self) -> pd.DataFrame:
        """One row a horizon; what the columns mean: docs/horizons.md."""
        return pd.DataFrame(
            [
                {
                    "horizon": row.horizon,
                    "train_interval": self.train_interval,
                    "validate_interval": self.validate_interval,
                    "family": self.family,
                    "ic_train": row.train.ic,
                    "se_train": row.train.se,
                    "n_bars_train": row.train.n_bars,
                    "ic_validate": row.validate.ic,
                    "se_validate": row.validate.se,
                    "n_bars_validate": row.validate.n_bars,
                    "degradation": row.degradation.ic,
                    "se_degradation": row.degradation.se,
                    "n_sessions": row.degradation.n_bars,
                    "verdict": row.verdict,
                }
                for row in self.horizons
            ]
        )


def _silent(words: str) -> None:
    """Tell nobody."""


def run_transfer(
    settings: Settings,
    family: str,
    train: Source,
    validate: Source,
    scratch: Path | None = None,
    tell: Callable[[str], None] = _silent,
) -> Transfer:
    """Walk forward on `train`, test on both.

    Memory is bounded by a training window and a block of sessions; features of the training
    interval lie on disk while it runs.

    Parameters
    ----------
    settings : Settings
        Horizons, features, windows, lag and the family's own.
    family : str
    train, validate : GridSource or ResampledSource
        The same names on the two intervals; see :func:`at_interval`.
    scratch : Path, optional
        Where the features lie meanwhile; none: the system's folder for such files.
    tell : callable
        Receives a line of progress now and then.

    Raises
    ------
    ConfigError
        When there is no common feature or horizon, or settings contradict each other.
    DataError
        When names or calendars differ, or there are too few sessions.
    """
    sides, left_out = plan_sides(settings, family, train, validate)
    first = sides[0]
    config = settings.horizons
    folds = session_folds(
        first.session,
        config.train_sessions,
        config.test_sessions,
        first.recipe.purge,
        first.recipe.feature_set().reach,
    )
    series = tuple(_unknown(side) for side in sides)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="transfer.") as folder:
        dataset = training_rows(first, folds[-1].train_stop, Path(folder), tell)
        done = []
        for fold in folds:
            windows = [side.bars_of(first.tested(fold)) for side in sides]
            if windows[1][0] == windows[1][1]:
                continue
            model, n_rows = fit_fold(family, first, dataset, fold)
            for side, known, (start, stop) in zip(sides, series, windows, strict=True):
                known[start:stop] = information(model, side, start, stop)
            starts = [side.time(window[0]) for side, window in zip(sides, windows, strict=True)]
            done.append(_fold_record(first, fold, (starts[0], starts[1]), n_rows))
            tell(f"fold {fold.index + 1}/{len(folds)} from {starts[0]:%Y-%m-%d}, {n_rows:,} rows")
    if not done:
        raise DataError("the intervals have no test session in common", "give data of equal dates")
    return Transfer(
        family,
        sides[0].interval,
        sides[1].interval,
        first.recipe.features,
        left_out,
        tuple(done),
        compare(sides, series),
    )


def plan_sides(
    settings: Settings, family: str, train: Source, validate: Source
) -> tuple[tuple[Side, Side], dict[str, str]]:
    """Both sides with equal features and horizons, and the features left out with the reason."""
    if train.calendar != validate.calendar or set(train.names) != set(validate.names):
        raise DataError("the two histories differ in names or calendar", "select equal ones")
    load_plugins(settings.horizons.plugins)
    family_class(family)
    sources = train, validate
    dates = _dates(sources)
    specs = [interval_spec(s.interval, s.calendar, dates) for s in sources]
    labels = common_horizons(settings.horizons.horizons, specs[0], specs[1])
    extras = [tuple(s.window(0, 0).extras()) for s in sources]
    config = settings.horizons.model_copy(update={"horizons": labels})
    chosen, left_out = common_features(config, specs, extras, train.calendar)
    settings = settings.model_copy(update={"horizons": config})
    first, second = (
        Side.of(s, Recipe(settings, s.names, s.interval, s.calendar, held, chosen, dates=dates))
        for s, held in zip(sources, extras, strict=True)
    )
    try:
        family_class(family)(first.recipe.schema(), settings.families)
    except ConfigError as e:
        raise ConfigError(e.what, "choose another family") from e
    return (first, second), left_out


def _dates(sources: tuple[Source, Source]) -> tuple[str, str]:
    """First and last date of either history: a regular session is the same on both sides."""
    times = [source.times() for source in sources]
    first, last = min(t[0] for t in times), max(t[-1] for t in times)
    return f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"


def common_horizons(
    texts: tuple[str, ...] | None, train: IntervalSpec, validate: IntervalSpec
) -> tuple[str, ...]:
    """Labels of the horizons that are whole bars of both intervals.

    Raises
    ------
    ConfigError
        When a horizon asked for is not exact on both, or no usual one is.
    """
    found = parse_horizons(texts, train)
    if texts is not None:
        parse_horizons(texts, validate)
        return tuple(horizon.label for horizon in found)
    exact = tuple(h.label for h in found if _is_exact(h, validate))
    if not exact:
        raise ConfigError(
            f"no usual horizon is whole bars of {train.interval} and of {validate.interval}",
            "give some with --horizons",
        )
    return exact


def _is_exact(horizon: Horizon, spec: IntervalSpec) -> bool:
    try:
        parse_horizon(horizon.label, spec)
    except ConfigError:
        return False
    return True


def common_features(
    config: HorizonsConfig,
    specs: list[IntervalSpec],
    extras: list[tuple[str, ...]],
    calendar: str,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Features that can be computed on both intervals, and those of one only, with the reason.

    A cluster model belongs to the bars it was trained on, so what needs one is left out.
    """
    reasons = [
        {f.name: why for f, why in available_features(spec, frozenset(held), config, calendar)}
        for spec, held in zip(specs, extras, strict=True)
    ]
    asked = config.feature_list
    names = list(reasons[0]) if asked is None else [find_feature(n).name for n in asked]
    chosen, left_out = [], {}
    for name in dict.fromkeys(names):
        why = [
            f"{spec.interval}: {reason[name]}"
            for spec, reason in zip(specs, reasons, strict=True)
            if reason[name]
        ]
        if not why:
            chosen.append(name)
        elif asked is not None or len(why) == 1:
            left_out[name] = "; ".join(why)
    if not chosen:
        raise ConfigError("no feature can be computed on both intervals", "see 'dpa features list'")
    return tuple(chosen), left_out


def training_rows(side: Side, stop: int, folder: Path, tell: Callable[[str], None]) -> Dataset:
    """Features and labels of the training interval on disk, up to bar `stop` or a little later."""
    last = side.edges[np.searchsorted(side.edges, stop)]
    spans = side.spans(0, int(last))
    for number, span in enumerate(spans, 1):
        write_block(folder, make_block(side.source, side.recipe, span), span)
        tell(f"features of {side.interval} bars {number}/{len(spans)}")
    return Dataset.finish(folder, spans)


def fit_fold(family: str, side: Side, dataset: Dataset, fold: Fold) -> tuple[Family, int]:
    """Fit a family on a training window; the model and the number of rows it was fitted on."""
    recipe = side.recipe
    config, schema = recipe.settings.horizons, recipe.schema()
    fit_stop, later = holdout(fold.train_start, fold.train_stop, config.holdout, recipe.purge)
    rows = clipped(dataset.rows(fold.train_start, fit_stop), config.target_clip)
    kept = clipped(dataset.rows(later, fold.train_stop), config.target_clip)
    seed = task_seed(Task(f"{fold.index:03d}", family), config.horizon_seed)
    kind = family_class(family)
    model = kind(schema, recipe.settings.families)
    model.fit(rows, kept, seed, schema.labels if kind.splits_by_target else None)
    return model, len(rows)


def information(model: Family, side: Side, start: int, stop: int) -> Doubles:
    """IC of a model's forecasts at the bars of a test window, shape (n_bars, n_horizons)."""
    parts = [
        _block_information(model, make_block(side.source, side.recipe, span))
        for span in side.spans(start, stop)
    ]
    return np.concatenate(parts)


def _block_information(model: Family, block: Block) -> Doubles:
    bar, asset = np.nonzero(block.usable)
    said = predict_rows(model, block.features[bar, asset]).returns
    forecast = np.full(block.targets.shape, np.nan)
    forecast[bar, asset] = said
    return np.stack(
        [
            cross_sectional_ic(forecast[:, :, place], block.targets[:, :, place], LEAST_NAMES)
            for place in range(said.shape[1])
        ],
        axis=1,
    )


def _unknown(side: Side) -> Doubles:
    return np.full((side.source.n_bars, len(side.recipe.horizons)), np.nan)


def _fold_record(
    side: Side, fold: Fold, first_test: tuple[pd.Timestamp, pd.Timestamp], n_rows: int
) -> TransferFold:
    read = fold.train_stop - 1 + side.recipe.purge.label_bars
    return TransferFold(side.time(fold.train_start), side.time(read), first_test, n_rows)


def session_means(side: Side, values: Doubles) -> Doubles:
    """Mean of the known values of each session, shape (n_sessions,); NaN where none is."""
    known = np.isfinite(values)
    total = np.bincount(side.session, np.where(known, values, 0.0), len(side.ends))
    count = np.bincount(side.session, known, len(side.ends))
    out: Doubles = np.full(len(side.ends), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


def compare(sides: tuple[Side, Side], series: tuple[Doubles, ...]) -> tuple[HorizonTransfer, ...]:
    """IC on both sides and their difference, over the sessions for which both are known.

    Parameters
    ----------
    sides : tuple of two Side
    series : tuple of two float64 ndarrays of shape (n_bars, n_horizons)
        IC by bar of each side, NaN where nothing was tested.
    """
    return tuple(
        _compare(sides, (series[0][:, place], series[1][:, place]), place)
        for place in range(series[0].shape[1])
    )


def _compare(
    sides: tuple[Side, Side], series: tuple[Doubles, Doubles], place: int
) -> HorizonTransfer:
    first, second = sides
    means = [session_means(side, values) for side, values in zip(sides, series, strict=True)]
    other = np.full(len(first.ends), np.nan)
    other[np.isin(first.ends, second.ends)] = means[1][np.isin(second.ends, first.ends)]
    change = other - means[0]
    common = first.ends[np.isfinite(change)]
    train, validate = (
        mean_ic(np.where(np.isin(side.ends, common)[side.session], values, np.nan), overlap)
        for side, values, overlap in zip(
            sides, series, (side.overlap(place) for side in sides), strict=True
        )
    )
    degradation = mean_ic(change, max(_sessions_spanned(side, place) for side in sides))
    label = first.recipe.horizons[place].label
    return HorizonTransfer(label, train, validate, degradation, verdict(train, validate))


def _sessions_spanned(side: Side, place: int) -> int:
    """Sessions whose means share returns through the labels of a horizon."""
    return 1 + side.overlap(place) // side.recipe.spec.bars_per_session


def verdict(train: ICEstimate, validate: ICEstimate) -> str:
    """Whether a horizon transfers; see :data:`VERDICTS`."""
    if not (np.isfinite(train.se) and np.isfinite(validate.se)):
        return UNSURE
    if not train.ic > ERRORS * train.se:
        return NOTHING
    enough = validate.ic >= RETAINED * train.ic and validate.ic > ERRORS * validate.se
    return TRANSFERS if enough else FAILS
