"""Tables of how good forecasts were: information coefficients, decay, agreement, barriers.

Test windows are scored one after another and dropped: what is kept is a number per bar, so memory
does not grow with the names of a long history. The stacker is judged like a family.
Errors respect overlap: the label of h bars at lag L spans ``L - 1 + h`` bars, see
:func:`dpa.validation.information.mean_ic`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.horizons.calibration import wilson
from dpa.horizons.types import BARRIERS, Doubles
from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.interval_specs import Horizon
from dpa.validation.information import cross_sectional_ic, ic_by_month, linear_ic, mean_ic

BINS = 2000  # of probability
LEAST_NAMES = 5  # fewest names for a rank correlation


@dataclass(frozen=True, eq=False)
class ForecastWindow:
    """Forecasts of one test window and what came of them.

    Parameters
    ----------
    times : DatetimeIndex of shape (n_bars,)
        UTC, increasing.
    first_bar : int
        Number of the first bar in the whole history.
    forecasts : mapping of str to ndarray of shape (n_bars, n_assets, n_horizons)
        Scaled forward return forecast, by family; NaN where it says nothing.
    outcomes : ndarray of shape (n_bars, n_assets, n_horizons)
        Scaled forward return, NaN where unknown.
    probabilities : mapping of str to ndarray of shape (n_bars, n_assets, 2)
        Probability of peak and valley, by family; NaN where it says nothing.
    labels : ndarray of shape (n_bars, n_assets, 2), optional
        Peak and valley, 0 or 1, NaN where unknown.

    Raises
    ------
    DataError
        When the shapes do not fit together.
    """

    times: pd.DatetimeIndex
    first_bar: int
    forecasts: Mapping[str, NDArray[Any]]
    outcomes: NDArray[Any]
    probabilities: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        shape = self.outcomes.shape
        if len(shape) != 3 or shape[0] != len(self.times):
            raise DataError(
                f"test window: outcomes {shape} at {len(self.times)} times",
                "give (n_bars, n_assets, n_horizons)",
            )
        barriers = (*shape[:2], len(BARRIERS))
        found = [(name, values, shape) for name, values in self.forecasts.items()]
        found += [(name, values, barriers) for name, values in self.probabilities.items()]
        if self.labels is not None:
            found.append(("labels", self.labels, barriers))
        for name, values, wanted in found:
            if values.shape != wanted:
                raise DataError(f"test window: {name} is {values.shape}, not {wanted}")


class Tally:
    """Probabilities and what came of them, as sums over narrow bins: it does not grow.

    Brier score, skill and base rate are exact; the curve's groups are bins put together.
    """

    def __init__(self) -> None:
        self._count = np.zeros(BINS)
        self._given = np.zeros(BINS)
        self._seen = np.zeros(BINS)
        self._squares = 0.0

    def add(self, probability: NDArray[Any], label: NDArray[Any]) -> None:
        """Count the rows where both are known; arrays of one shape."""
        known = np.isfinite(probability) & np.isfinite(label)
        given, seen = probability[known].astype(np.float64), label[known].astype(np.float64)
        place = np.minimum((given * BINS).astype(np.int64), BINS - 1)
        self._count += np.bincount(place, minlength=BINS)
        self._given += np.bincount(place, given, BINS)
        self._seen += np.bincount(place, seen, BINS)
        self._squares += float(((given - seen) ** 2).sum())

    @property
    def n(self) -> int:
        """Rows."""
        return int(self._count.sum())

    @property
    def base_rate(self) -> float:
        """Frequency of the label."""
        return float(self._seen.sum() / self.n)

    @property
    def brier(self) -> float:
        """Mean squared error (Brier 1950)."""
        return self._squares / self.n

    @property
    def skill(self) -> float:
        """``1 - Brier / Brier of the base rate``; NaN where all labels are equal."""
        rate = self.base_rate
        return 1.0 - self.brier / (rate * (1.0 - rate)) if 0 < rate < 1 else float("nan")

    def reliability(self, groups: int = 10) -> pd.DataFrame:
        """Forecast against frequency, in groups of about equally many rows.

        Returns
        -------
        DataFrame
            Columns forecast (mean), frequency, count, lower and upper: the 95 % interval of the
            frequency (Wilson 1927), which takes rows as independent and so is too narrow.
        """
        filled = np.flatnonzero(self._count)
        before = np.cumsum(self._count[filled]) - 0.5 * self._count[filled]
        group = np.minimum((before * groups / max(self.n, 1)).astype(np.int64), groups - 1)
        _, starts = np.unique(group, return_index=True)
        count, given, seen = (
            np.add.reduceat(values[filled], starts) if len(filled) else np.zeros(0)
            for values in (self._count, self._given, self._seen)
        )
        lower, upper = wilson(seen / count, count.astype(np.int64))
        return pd.DataFrame(
            {
                "forecast": given / count,
                "frequency": seen / count,
                "count": count.astype(np.int64),
                "lower": lower,
                "upper": upper,
            }
        )


class Scores:
    """What is kept of test windows: rank correlations by bar, and barrier probabilities.

    Parameters
    ----------
    horizons : sequence of Horizon
    lag : int
        Execution lag.
    """

    def __init__(self, horizons: Sequence[Horizon], lag: int) -> None:
        self.horizons, self.lag = tuple(horizons), lag
        self._spans: list[tuple[int, pd.DatetimeIndex]] = []
        self._ic: dict[tuple[str, int, int], list[Doubles | None]] = {}
        self._linear: dict[tuple[str, int], list[Doubles | None]] = {}
        self._names: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
        self._alike: dict[tuple[int, str, str], list[Doubles]] = {}
        self._barriers: dict[tuple[str, int], Tally] = {}

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families seen, in the order they came."""
        return tuple(dict.fromkeys(family for family, _ in self._names))

    def add(self, window: ForecastWindow) -> None:
        """Score a window; windows come in time order."""
        before = len(self._spans)
        self._spans.append((window.first_bar, window.times))
        places = range(len(self.horizons))
        for family, forecast in window.forecasts.items():
            for place in places:
                known = np.isfinite(forecast[:, :, place]) & np.isfinite(
                    window.outcomes[:, :, place]
                )
                self._names.setdefault((family, place), []).append(known.sum(axis=1))
                linear = self._linear.setdefault((family, place), [None] * before)
                linear.append(
                    linear_ic(forecast[:, :, place], window.outcomes[:, :, place], LEAST_NAMES)
                )
                for judged in places:
                    series = self._ic.setdefault((family, place, judged), [None] * before)
                    series.append(
                        cross_sectional_ic(
                            forecast[:, :, place], window.outcomes[:, :, judged], LEAST_NAMES
                        )
                    )
        for series in [*self._ic.values(), *self._linear.values()]:
            series += [None] * (len(self._spans) - len(series))
        for place in places:
            for family, other in combinations(window.forecasts, 2):
                one, two = (window.forecasts[name][:, :, place] for name in (family, other))
                self._alike.setdefault((place, family, other), []).append(
                    cross_sectional_ic(one, two, LEAST_NAMES)
                )
        self._add_barriers(window)

    def _add_barriers(self, window: ForecastWindow) -> None:
        if window.labels is None:
            return
        for family, probability in window.probabilities.items():
            for place in range(len(BARRIERS)):
                tally = self._barriers.setdefault((family, place), Tally())
                tally.add(probability[:, :, place], window.labels[:, :, place])

    def ic_series(self, family: str, horizon: int, outcome: int | None = None) -> Doubles:
        """Cross-sectional Spearman IC at every bar of a stretch of history.

        Parameters
        ----------
        family : str
        horizon : int
            Position of the horizon forecast.
        outcome : int, optional
            Position of the horizon it is judged by; none: the same.

        Returns
        -------
        float64 ndarray of shape (n_bars,)
            From the first window's first bar to the last window's last; NaN between windows, and
            where fewer than 5 names have both.
        """
        parts = self._ic[family, horizon, horizon if outcome is None else outcome]
        return self._along(parts)

    def _along(self, parts: Sequence[Doubles | None]) -> Doubles:
        """Values by bar, each window's at its place in history, NaN between and where none."""
        start = min(first for first, _ in self._spans)
        stop = max(first + len(times) for first, times in self._spans)
        out = np.full(stop - start, np.nan)
        for (first, _), values in zip(self._spans, parts, strict=True):
            if values is not None:
                out[first - start : first - start + len(values)] = values
        return out

    def _times(self) -> pd.DatetimeIndex:
        start = min(first for first, _ in self._spans)
        stop = max(first + len(times) for first, times in self._spans)
        out = np.full(stop - start, pd.NaT.value, dtype=np.int64)
        for first, times in self._spans:
            out[first - start : first - start + len(times)] = nanoseconds(times)
        return utc_index(out)

    def _overlap(self, horizon: Horizon) -> int:
        return self.lag - 1 + horizon.bars

    def _mean_names(self, family: str, horizon: int) -> float:
        """Mean number of names with forecast and outcome, over the bars with enough of them."""
        count = np.concatenate(self._names[family, horizon])
        enough = count[count >= LEAST_NAMES]
        return float(enough.mean()) if len(enough) else float("nan")

    def ic_table(self) -> pd.DataFrame:
        """Information coefficient of every family at every horizon.

        Returns
        -------
        DataFrame
            Columns family, horizon, ic, se, t, n_bars, mean_names.
        """
        rows = []
        for family in self.families:
            for place, horizon in enumerate(self.horizons):
                found = mean_ic(self.ic_series(family, place), self._overlap(horizon))
                numbers = (found.ic, found.se, found.t, found.n_bars)
                rows.append((family, horizon.label, *numbers, self._mean_names(family, place)))
        columns = ["family", "horizon", "ic", "se", "t", "n_bars", "mean_names"]
        return pd.DataFrame(rows, columns=columns)

    def against_best(self, family: str) -> pd.DataFrame:
        """One family against the best of the others at each horizon, over the bars both score.

        The best is chosen by its IC over those very bars, in hindsight: a hard benchmark.

        Returns
        -------
        DataFrame
            Columns horizon, best, ic, best_ic, difference, se (of the difference, paired by bar),
            linear_ic, best_linear_ic (mean cross-sectional Pearson correlation: a rank
            correlation flatters forecasts with many ties), n_bars.
        """
        rows = []
        for place, horizon in enumerate(self.horizons):
            own = self.ic_series(family, place)
            ranked = []
            for other in self.families:
                both = np.isfinite(own) & np.isfinite(self.ic_series(other, place))
                if other != family and both.any():
                    ranked.append((float(self.ic_series(other, place)[both].mean()), other))
            if not ranked:
                continue
            best = max(ranked)[1]
            theirs = self.ic_series(best, place)
            found = mean_ic(own - theirs, self._overlap(horizon))
            both = np.isfinite(own) & np.isfinite(theirs)
            linear = [
                float(np.nanmean(self._along(self._linear[name, place])[both]))
                for name in (family, best)
            ]
            means = float(own[both].mean()), float(theirs[both].mean())
            rows.append((horizon.label, best, *means, found.ic, found.se, *linear, found.n_bars))
        names = ["horizon", "best", "ic", "best_ic", "difference", "se"]
        return pd.DataFrame(rows, columns=[*names, "linear_ic", "best_linear_ic", "n_bars"])

    def decay_table(self) -> pd.DataFrame:
        """Forecasts of every horizon judged by the returns of every horizon.

        Returns
        -------
        DataFrame
            Columns family, horizon (forecast), outcome (horizon realised), ic, se, t, n_bars.
        """
        rows = []
        for family in self.families:
            for place, horizon in enumerate(self.horizons):
                for judged, outcome in enumerate(self.horizons):
                    series = self.ic_series(family, place, judged)
                    found = mean_ic(series, self._overlap(outcome))
                    numbers = (found.ic, found.se, found.t, found.n_bars)
                    rows.append((family, horizon.label, outcome.label, *numbers))
        columns = ["family", "horizon", "outcome", "ic", "se", "t", "n_bars"]
        return pd.DataFrame(rows, columns=columns)

    def month_table(self) -> pd.DataFrame:
        """Information coefficient by calendar month (UTC).

        Returns
        -------
        DataFrame
            Columns family, horizon, month, ic, se, t, n_bars, n_effective.
        """
        times = self._times()
        tables = []
        for family in self.families:
            for place, horizon in enumerate(self.horizons):
                series = self.ic_series(family, place)
                table = ic_by_month(series, times, self._overlap(horizon))
                table.insert(0, "horizon", horizon.label)
                table.insert(0, "family", family)
                tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def family_correlations(self) -> pd.DataFrame:
        """How alike families rank names: mean rank correlation of their forecasts across names.

        Returns
        -------
        DataFrame
            Columns horizon, family, other, correlation, n_bars; each pair once.
        """
        rows = []
        for (place, family, other), parts in sorted(
            self._alike.items(), key=lambda item: item[0][0]
        ):
            by_bar = np.concatenate(parts)
            known = by_bar[np.isfinite(by_bar)]
            mean = float(known.mean()) if len(known) else float("nan")
            rows.append((self.horizons[place].label, family, other, mean, len(known)))
        return pd.DataFrame(rows, columns=["horizon", "family", "other", "correlation", "n_bars"])

    def barrier_table(self) -> pd.DataFrame:
        """Brier score of the barrier heads.

        Returns
        -------
        DataFrame
            Columns family, barrier (peak or valley), brier, skill (against the base rate),
            base_rate, n (rows); families without a known row are left out.
        """
        rows = []
        for (family, place), tally in self._barriers.items():
            if tally.n:
                rate = tally.base_rate
                rows.append((family, BARRIERS[place], tally.brier, tally.skill, rate, tally.n))
        columns = ["family", "barrier", "brier", "skill", "base_rate", "n"]
        return pd.DataFrame(rows, columns=columns)

    def reliability_table(self) -> pd.DataFrame:
        """Forecast against frequency of every barrier head.

        Returns
        -------
        DataFrame
            Columns family, barrier, and those of :meth:`Tally.reliability`.
        """
        tables = []
        for (family, place), tally in self._barriers.items():
            if tally.n:
                table = tally.reliability()
                table.insert(0, "barrier", BARRIERS[place])
                table.insert(0, "family", family)
                tables.append(table)
        if tables:
            return pd.concat(tables, ignore_index=True)
        nothing = Tally().reliability()
        return nothing.reindex(columns=["family", "barrier", *nothing.columns])
