"""The registry of features: what each is, how far it looks back, which horizons it may serve.

A feature is a function of a :class:`~dpa.horizons.views.View` and, where it comes in several
look-backs, of minutes. It is written once and runs in two ways: over a whole stretch of history,
and for the last bar alone. Look-backs are session minutes, and a feature's name carries them, so a
feature on another interval is computed anew from its look-back, never renamed. docs/horizons.md
shows how to add one in a file of its own.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

import dpa
from dpa.errors import ConfigError
from dpa.market.interval_specs import Horizon, IntervalSpec

if TYPE_CHECKING:
    from dpa.horizons.views import View

Doubles = NDArray[np.float64]
LONGEST_INTRADAY = 1950  # session minutes
Role = Literal["alpha", "risk", "context"]
SeriesFunction = Callable[["View"], Doubles]


@dataclass(frozen=True)
class Feature:
    """One column of the predictors' input.

    Parameters
    ----------
    name : str
        Carries the look-back, ``momentum_60m``.
    words : str
        What it is, one line.
    minutes : int
        Declared look-back, session minutes; 0 for the bar itself.
    serves : tuple of float
        Shortest and longest horizon it may serve, session minutes.
    role : {"alpha", "risk", "context"}
        Whether it says something about the direction, the size or the circumstances of a move.
    version : int
        Raised by its author when its values change.
    bars : int
        Least bars the look-back must hold to mean anything.
    compute : callable
        Maps a View to values of shape (n_rows, n_assets) or (n_rows, 1).
    source : str
        Text of the function, for fingerprints.
    intraday : bool
        Whether it means nothing on daily bars.
    file_hash : str
        Of the whole file it was defined in, where that is not dpa's own.
    """

    name: str
    words: str
    minutes: int
    serves: tuple[float, float]
    role: Role
    version: int
    bars: int
    compute: SeriesFunction
    source: str
    intraday: bool = False
    file_hash: str = ""

    def fits(self, spec: IntervalSpec) -> bool:
        """Whether the look-back holds enough bars of the interval, and whole ones.

        On intraday bars look-backs end at five sessions, so that a live tail stays short.
        """
        if self.minutes == 0 or self.intraday:
            return not (self.intraday and spec.interval.is_daily)
        bars = self.minutes / spec.bar_minutes
        short = spec.interval.is_daily or self.minutes <= LONGEST_INTRADAY
        return short and bars == int(bars) and bars >= self.bars

    def serves_horizon(self, horizon: Horizon) -> bool:
        """Whether it may be used to forecast `horizon`."""
        return self.serves[0] <= horizon.minutes <= self.serves[1]


@dataclass(frozen=True)
class Series:
    """A quantity per bar that features look back over; computed once, kept while needed."""

    name: str
    compute: SeriesFunction
    source: str
    file_hash: str = ""


FEATURES: dict[str, Feature] = {}
SERIES: dict[str, Series] = {}


def series(function: SeriesFunction) -> SeriesFunction:
    """Decorator: make a function of a View a series that features can look back over.

    Its name is the function's; its values are of shape (n_rows, n_assets) or (n_rows, 1).
    """
    source = inspect.getsource(function)
    _add(SERIES, Series(function.__name__, function, source, _file_hash(function)))
    return function


def feature(
    words: str,
    minutes: Iterable[int] | None = None,
    *,
    serves: tuple[float, float] = (0, math.inf),
    role: Role = "alpha",
    version: int = 1,
    bars: int = 1,
    look_back: int = 0,
    intraday: bool = False,
) -> Callable[[Callable[..., Doubles]], Callable[..., Doubles]]:
    """Decorator: register a function of a View as a feature, or as one for each look-back.

    Parameters
    ----------
    words : str
        What it is, one line.
    minutes : iterable of int, optional
        Look-backs in session minutes; the function is then called as ``f(view, minutes)`` and
        ``_<minutes>m`` is added to the name. Without it, as ``f(view)``.
    serves, role, version, bars, intraday
        See :class:`Feature`.
    look_back : int
        Declared look-back of a feature without `minutes`.

    Examples
    --------
    >>> @feature("return over the look-back in units of its volatility", (5, 30, 390))
    ... def momentum_of_mine(view, minutes):
    ...     return view.scaled(view.now("log_close") - view.ago("log_close", minutes), minutes)
    """

    def register(function: Callable[..., Doubles]) -> Callable[..., Doubles]:
        source = inspect.getsource(function)
        base = function.__name__

        def add(name: str, length: int, compute: SeriesFunction) -> None:
            _add(
                FEATURES,
                Feature(
                    name,
                    words,
                    length,
                    serves,
                    role,
                    version,
                    bars,
                    compute,
                    source,
                    intraday,
                    _file_hash(function),
                ),
            )

        if minutes is None:
            add(base, look_back, function)
        else:
            for length in minutes:
                add(f"{base}_{length}m", length, _bound(function, length))
        return function

    return register


def _file_hash(function: Callable[..., Doubles]) -> str:
    """SHA-256 of the file of a function of the user's: constants and helpers there count too."""
    path = Path(inspect.getsourcefile(function) or "").resolve()
    if not path.is_file() or path.is_relative_to(Path(dpa.__file__).resolve().parent):
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _bound(function: Callable[..., Doubles], minutes: int) -> SeriesFunction:
    def compute(view: "View") -> Doubles:
        return function(view, minutes)

    return compute


def _add(registry: dict[str, Feature] | dict[str, Series], entry: Feature | Series) -> None:
    known = registry.get(entry.name)
    if known is not None and known.source != entry.source:
        raise ConfigError(f"{entry.name!r} is registered twice", "give one of them another name")
    registry[entry.name] = entry  # type: ignore[assignment]


def find_feature(name: str) -> Feature:
    """The feature called `name`; a :class:`ConfigError` when there is none."""
    if name not in FEATURES:
        raise ConfigError(f"feature {name!r} is not known", "see 'dpa features list'")
    return FEATURES[name]
