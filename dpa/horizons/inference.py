"""Forecasts from the last bars: a tail once, then one bar at a time.

Adding a bar touches ring buffers and the newest row only. What it gives is what a batch over the
whole history gives, since features have the same bits in both.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.calibration import Calibrator, barrier_mean, calibrated
from dpa.horizons.clock import SessionClock, bar_grid
from dpa.horizons.dataset import usable_rows
from dpa.horizons.stacker import CrossHorizonStacker
from dpa.horizons.targets import centred
from dpa.horizons.types import Doubles, Forecast, Integers, Singles
from dpa.horizons.views import BatchView, LiveView
from dpa.market.panel import Panel
from dpa.market.session_grid import on_session_grid

LEAST_SHARE = 0.5  # of the bundle's names a tail must have: they make the cross-section
ABSENT = "not in the data"


@dataclass(frozen=True, eq=False)
class BundleForecast:
    """What a bundle says after a bar.

    Parameters
    ----------
    time : Timestamp
        Close of the bar, UTC.
    names : tuple of str, length n_symbols
        Those of the bundle, then those of the data that the bundle does not know, sorted.
    horizons : tuple of str, length n_horizons
    families : tuple of str, length n_families
    returns : float64 ndarray of shape (n_horizons, n_families, n_symbols)
        Scaled forward return, in units of ``sigma * sqrt(minutes)``; NaN: no prediction.
    barriers : float64 ndarray of shape (2, n_symbols)
        Calibrated probability of peak and valley; NaN: no prediction.
    stacked, confidence : float64 ndarrays of shape (n_horizons, n_symbols)
        The stacker's forecast in the same units, and the agreement behind it, in [0, 1].
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    reasons : tuple of str, length n_symbols
        Why there is no prediction; empty where there is one.
    """

    time: pd.Timestamp
    names: tuple[str, ...]
    horizons: tuple[str, ...]
    families: tuple[str, ...]
    returns: Doubles
    barriers: Doubles
    stacked: Doubles
    confidence: Doubles
    sigma: Doubles
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """What families forecast from after a bar.

    Parameters
    ----------
    time : Timestamp
        Close of the bar, UTC.
    names : tuple of str, length n_symbols
    features : float32 ndarray of shape (n_rows, n_features)
        Of the symbols that can be forecast.
    places : int64 ndarray of shape (n_rows,)
        Their positions among `names`.
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    reasons : tuple of str, length n_symbols
        Why a symbol has no row; empty where it has one.
    """

    time: pd.Timestamp
    names: tuple[str, ...]
    features: Singles
    places: Integers
    sigma: Doubles
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Said:
    """Forecasts of rows, axes (..., n_rows)."""

    returns: Doubles
    barriers: Doubles
    stacked: Doubles
    confidence: Doubles


@dataclass(frozen=True, eq=False)
class Combiner:
    """What makes one forecast of a bundle out of what its families said of rows.

    Parameters
    ----------
    families : tuple of str, length n_families
    horizons : tuple of str, length n_horizons
    excess : bool
        Forecasts are of returns in excess of the members' mean, so they are centred.
    stacker : CrossHorizonStacker
    calibrators : tuple of Calibrator
        Of peak and valley; empty without barriers.
    """

    families: tuple[str, ...]
    horizons: tuple[str, ...]
    excess: bool
    stacker: CrossHorizonStacker
    calibrators: tuple[Calibrator, ...]

    @classmethod
    def of(cls, bundle: HorizonBundle) -> "Combiner":
        """That of a bundle."""
        manifest = bundle.manifest
        excess = manifest.settings.horizons.target == "excess"
        names = tuple(bundle.families)
        return cls(names, manifest.horizons, excess, bundle.stacker, bundle.calibrators)

    def combine(self, rows: FeatureRows, answers: Mapping[str, Forecast]) -> BundleForecast:
        """One forecast of a bar.

        Parameters
        ----------
        rows : FeatureRows
        answers : mapping of str to Forecast
            By family, of ``rows.features``; a family that gave none is left out of the stacker,
            and its forecasts are NaN.
        """
        said = self.of_rows(answers, np.zeros(len(rows.places), np.int64))
        length = len(rows.names)
        return BundleForecast(
            rows.time,
            rows.names,
            self.horizons,
            self.families,
            _spread(said.returns, rows.places, length),
            _spread(said.barriers, rows.places, length),
            _spread(said.stacked, rows.places, length),
            _spread(said.confidence, rows.places, length),
            rows.sigma,
            rows.reasons,
        )

    def of_rows(self, answers: Mapping[str, Forecast], bar: Integers) -> _Said:
        """Forecasts of rows (n_rows,).

        `bar` never decreases: rows of one bar are one cross-section.
        """
        nothing = np.full((len(self.horizons), len(bar)), np.nan)
        columns = [
            np.ascontiguousarray(answers[name].returns.T) if name in answers else nothing
            for name in self.families
        ]
        returns = np.stack(columns, axis=1)
        if self.excess:
            edges = np.flatnonzero(np.diff(bar, prepend=-1, append=-1))
            for first, last in itertools.pairwise(edges):
                returns[..., first:last] = centred(returns[..., first:last])
        stack = self.stacker.predict(returns)
        heads = [answers[name].barriers for name in self.families if name in answers]
        mean = barrier_mean([head for head in heads if head is not None])
        barriers = np.full((2, len(bar)), np.nan)
        if mean is not None and self.calibrators:
            barriers = np.ascontiguousarray(calibrated(self.calibrators, mean).T)
        return _Said(returns, barriers, stack.forecast, stack.confidence)


def _forecast_rows(bundle: HorizonBundle, features: Singles, bar: Integers) -> _Said:
    """Every family, the stacker and the calibrated barriers on rows (n_rows, n_features)."""
    said = {name: family.predict(features) for name, family in bundle.families.items()}
    return Combiner.of(bundle).of_rows(said, bar)


def _spread(values: Doubles, places: NDArray[np.int64], length: int) -> Doubles:
    """Values of some symbols among all; NaN for the others."""
    out = np.full((*values.shape[:-1], length), np.nan)
    out[..., places] = values
    return out


@dataclass
class LivePredictor:
    """Forecasts bar by bar; made by :func:`start`.

    Attributes
    ----------
    bundle : HorizonBundle
    names : tuple of str
        Those of the bundle, then those of the data that the bundle does not know, sorted.
    given : frozenset of str
        Names of the data it began with.
    time : Timestamp
        Close of the newest bar, UTC.
    """

    bundle: HorizonBundle
    names: tuple[str, ...]
    given: frozenset[str]
    time: pd.Timestamp
    _view: LiveView = field(repr=False)
    newest: Panel = field(repr=False)

    def update(self, bar: Panel) -> BundleForecast:
        """Take in the next bar and forecast from it; parameters and errors of :meth:`advance`."""
        self.advance(bar)
        return self.forecast()

    def advance(self, bar: Panel) -> None:
        """Take in the next bar.

        Parameters
        ----------
        bar : Panel of one bar
            Names the data began with that are missing in it count as missing prices. Bars of
            the session grid between the newest one and it count as missing too.

        Raises
        ------
        DataError
            When the bar is not later than the newest, is of another interval or calendar, is no
            bar of the calendar, has a name the data did not begin with, or lacks an array.
        """
        self.check(bar)
        whole = aligned(bar, self.names)
        for missing in self._skipped(bar):
            self._view.advance(missing)
        self._view.advance(whole)
        self.time, self.newest = bar.times[0], whole

    def check(self, bar: Panel) -> None:
        """Whether :meth:`advance` would take a bar in; errors as there, and nothing changes."""
        if bar.n_bars != 1:
            raise DataError(f"an update of {bar.n_bars} bars", "give one bar at a time")
        _check_kind(self.bundle, bar)
        unknown = sorted(set(bar.names) - self.given)
        if unknown:
            raise DataError(
                f"bar {bar.times[0]}: name {unknown[0]!r} was not in the tail",
                "start again with a tail that has it",
            )
        self._skipped(bar)

    def forecast(self) -> BundleForecast:
        """What the bundle says now."""
        rows = self.rows()
        families = self.bundle.families.items()
        answers = {name: family.predict(rows.features) for name, family in families}
        return Combiner.of(self.bundle).combine(rows, answers)

    def rows(self) -> FeatureRows:
        """The newest bar's rows, for families that forecast elsewhere; see :class:`Combiner`."""
        bundle = self.bundle
        features, sigma = bundle.features.compute(self._view)
        least = bundle.manifest.settings.horizons.min_features
        usable = usable_rows(features, sigma, self.newest.mask, least)[0]
        places = np.flatnonzero(usable)
        return FeatureRows(
            self.time,
            self.names,
            features[0][places],
            places,
            sigma[0].copy(),  # the view overwrites its memory some bars later
            self._reasons(features[0], sigma[0], usable),
        )

    def _reasons(
        self, features: Singles, sigma: Doubles, usable: NDArray[np.bool_]
    ) -> tuple[str, ...]:
        known = np.isfinite(features).sum(axis=1)
        priced, member = np.isfinite(self.newest.prices[0]), self.newest.mask[0]

        def reason(place: int) -> str:
            if usable[place]:
                return ""
            if self.names[place] not in self.given:
                return ABSENT
            if not priced[place]:
                return "no price in this bar"
            if not member[place]:
                return "not a member of the universe"
            if not np.isfinite(sigma[place]):
                return "too few prices for a volatility"
            return f"only {known[place]} of {features.shape[1]} features are known"

        return tuple(reason(place) for place in range(len(self.names)))

    def _skipped(self, bar: Panel) -> list[Panel]:
        """Empty bars for those between the newest one and `bar`."""
        grid = bar_grid(bar.calendar, bar.interval, self.time, bar.times[0])
        here, there = (
            int(grid.positions(pd.DatetimeIndex([time]))[0]) for time in (self.time, bar.times[0])
        )
        if there <= here:
            words = "is the newest bar again" if there == here else "is out of order"
            raise DataError(f"bar {bar.times[0]}: {words}, after {self.time}", "give later bars")
        if there - here > self.bundle.features.reach:
            raise DataError(
                f"bar {bar.times[0]}: {there - here - 1} bars are missing after {self.time}",
                "start again with a new tail",
            )
        nothing = np.full((1, len(self.names)), np.nan)
        return [
            Panel(
                pd.DatetimeIndex([grid.time(position)]),
                self.names,
                nothing,
                np.zeros(nothing.shape, bool),
                bar.interval,
                bar.calendar,
                **dict.fromkeys(self.bundle.recipe.extras, nothing),
            )
            for position in range(here + 1, there)
        ]


def canonical_names(bundle: HorizonBundle, panel: Panel) -> tuple[str, ...]:
    """The bundle's names in its order, then others of the data, sorted: columns are then where
    they were in training, whatever order the data come in."""
    known = set(bundle.manifest.names)
    return bundle.manifest.names + tuple(sorted(name for name in panel.names if name not in known))


def aligned(panel: Panel, names: tuple[str, ...]) -> Panel:
    """A panel with its columns in another order; names it does not have are missing throughout."""
    if panel.names == names:
        return panel
    place = {name: k for k, name in enumerate(panel.names)}
    chosen = np.array([place.get(name, -1) for name in names])

    def column(array: Doubles) -> Doubles:
        return np.where(chosen >= 0, array[:, chosen], np.nan)

    mask = np.where(chosen >= 0, panel.mask[:, chosen], False)
    extras = {name: column(array) for name, array in panel.extras().items()}
    prices, interval, calendar = column(panel.prices), panel.interval, panel.calendar
    return Panel(panel.times, names, prices, mask, interval, calendar, **extras)


def _check_kind(bundle: HorizonBundle, panel: Panel) -> None:
    manifest = bundle.manifest
    for what, theirs, ours in (
        ("interval", panel.interval, manifest.interval),
        ("calendar", panel.calendar, manifest.calendar),
    ):
        if theirs != ours:
            raise DataError(
                f"{what} of the data is {theirs}, the bundle's is {ours}",
                "give bars of the same kind, or resample them with 'dpa data resample'",
            )
    wrong = np.argwhere((panel.prices <= 0) | np.isinf(panel.prices))
    if len(wrong):
        bar, asset = wrong[0]
        raise DataError(
            f"bar {panel.times[bar]}: price {panel.prices[bar, asset]:g} of {panel.names[asset]}",
            "leave it missing (NaN): prices are finite and above zero",
        )
    missing = [n for n in bundle.recipe.extras if n not in panel.extras()]
    if missing:
        raise DataError(f"the bars have no {missing[0]}", "give bars with every array it needs")


def start(bundle: HorizonBundle, tail: Panel) -> LivePredictor:
    """Begin from the last bars.

    Parameters
    ----------
    bundle : HorizonBundle
    tail : Panel
        At least ``bundle.manifest.tail_bars`` bars of the session grid; a gap counts as missing.

    Raises
    ------
    DataError
        When the tail is too short, of another interval or calendar, lacks an array, or has any
        price of less than half of the names the bundle was trained on.
    """
    _check_kind(bundle, tail)
    whole = on_session_grid(tail) if tail.n_bars else tail
    before = whole.times.searchsorted(tail.times[0]) if tail.n_bars else 0  # filled up, not given
    given = whole.n_bars - int(before)
    if given < bundle.manifest.tail_bars:
        raise DataError(
            f"a tail of {given} bars is too short: the features look back over "
            f"{bundle.manifest.tail_bars}",
            "give a longer tail",
        )
    seen = {tail.names[k] for k in np.flatnonzero(np.isfinite(tail.prices).any(axis=0))}
    share = len(seen & set(bundle.manifest.names)) / len(bundle.manifest.names)
    if share < LEAST_SHARE:
        raise DataError(
            f"the data have prices of {share:.0%} of the names the bundle was trained on",
            "give more of them: they are the market that names are held against",
        )
    names = canonical_names(bundle, tail)
    whole = aligned(whole, names)
    view = BatchView(whole, bundle.features.settings, bundle.reader())
    bundle.features.compute(view)
    newest = whole.window(whole.n_bars - 1, whole.n_bars)
    begun = frozenset(tail.names)
    return LivePredictor(bundle, names, begun, whole.times[-1], LiveView(view), newest)


@dataclass(frozen=True, eq=False)
class BatchForecast:
    """What a bundle says at every bar of a panel.

    Parameters
    ----------
    names : tuple of str, length n_symbols
        As in :class:`BundleForecast`.
    clock : SessionClock
    returns : float64 ndarray of shape (n_bars, n_horizons, n_families, n_symbols)
    barriers : float64 ndarray of shape (n_bars, 2, n_symbols)
    stacked, confidence : float64 ndarrays of shape (n_bars, n_horizons, n_symbols)
    sigma : float64 ndarray of shape (n_bars, n_symbols)
        NaN throughout where nothing is forecast.
    """

    names: tuple[str, ...]
    clock: SessionClock
    returns: Doubles
    barriers: Doubles
    stacked: Doubles
    confidence: Doubles
    sigma: Doubles


def predict_batch(bundle: HorizonBundle, panel: Panel) -> BatchForecast:
    """Forecast at every bar of a panel on its session grid.

    The first ``tail_bars - 1`` bars carry no forecast. Errors as :func:`start`, but any names do.
    """
    _check_kind(bundle, panel)
    panel = aligned(panel, canonical_names(bundle, panel))
    view = BatchView(panel, bundle.features.settings, bundle.reader())
    features, sigma = bundle.features.compute(view)
    least = bundle.manifest.settings.horizons.min_features
    usable = usable_rows(features, sigma, panel.mask, least)
    usable[: bundle.features.reach] = False
    bar, asset = np.nonzero(usable)
    said = _forecast_rows(bundle, features[bar, asset], bar)

    def dense(values: Doubles) -> Doubles:
        out = np.full((panel.n_bars, *values.shape[:-1], panel.n_assets), np.nan)
        out[bar, ..., asset] = np.moveaxis(values, -1, 0)
        return out

    return BatchForecast(
        panel.names,
        view.clock,
        dense(said.returns),
        dense(said.barriers),
        dense(said.stacked),
        dense(said.confidence),
        sigma,
    )
