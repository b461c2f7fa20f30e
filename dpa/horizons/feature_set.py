"""The features chosen for a run: which of the registry the data allow, and their values."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import dpa.horizons.features  # noqa: F401  registers the features that come with dpa
from dpa.config import HorizonsConfig
from dpa.errors import ConfigError
from dpa.horizons.clock import bar_grid
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.registry import FEATURES, SERIES, Feature, find_feature
from dpa.horizons.types import RowSchema, Singles
from dpa.horizons.views import BatchView, NoClusterModel, View, ViewSettings
from dpa.market.interval_specs import Horizon, IntervalSpec
from dpa.market.panel import EXTRAS, Panel
from dpa.runs import stable_hash

INTRADAY_SIGMA, DAILY_SIGMA_SESSIONS = 1950, 60


def view_settings(spec: IntervalSpec, config: HorizonsConfig) -> ViewSettings:
    """What views need to know, the long look-back of the interval filled in."""
    usual = DAILY_SIGMA_SESSIONS * spec.session_minutes
    minutes = config.sigma_minutes or (usual if spec.interval.is_daily else INTRADAY_SIGMA)
    return ViewSettings(spec, minutes, config.coverage)


@dataclass(frozen=True)
class FeatureSet:
    """Features in column order, and everything their values depend on but the bars.

    Parameters
    ----------
    features : tuple of Feature
    settings : ViewSettings
    calendar : str
        exchange_calendars code.
    reach : int
        Bars before the current one that any of them depends on.
    needs : frozenset of str
        Optional arrays of a panel they are made from; ``"cluster"`` for a cluster model.
    fingerprints : dict of str to str
        Name to a hash of the feature's version, look-back and source text, and of the source of
        every series it is made from.
    """

    features: tuple[Feature, ...]
    settings: ViewSettings
    calendar: str
    reach: int
    needs: frozenset[str]
    fingerprints: dict[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(feature.name for feature in self.features)

    def schema(self, horizons: tuple[Horizon, ...], primary: int) -> RowSchema:
        """What the columns of rows mean."""
        serves = np.array([[f.serves_horizon(h) for h in horizons] for f in self.features], bool)
        interval = str(self.settings.spec.interval)
        return RowSchema(self.names, horizons, serves, interval, primary)

    def compute(self, view: View) -> tuple[Singles, NDArray[np.float64]]:
        """Values of all features, and sigma, at every row of a view.

        Returns
        -------
        values : float32 ndarray of shape (n_rows, n_assets, n_features)
            NaN where a feature has no value; never infinite.
        sigma : float64 ndarray of shape (n_rows, n_assets)
            bps per square root of a session minute; NaN where unknown.
        """
        sigma = view.now("sigma")
        out = np.empty((*sigma.shape, len(self.features)), np.float32)
        with np.errstate(all="ignore"):
            for place, feature in enumerate(self.features):
                out[:, :, place] = _finite(feature.compute(view))
        return out, sigma


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(values) < np.finfo(np.float32).max, values, np.nan)


@dataclass(frozen=True)
class Trace:
    """What a feature turned out to depend on; see :func:`trace`."""

    reach: int
    needs: frozenset[str]
    fingerprint: str


def trace(
    feature: Feature, settings: ViewSettings, calendar: str, reader: ClusterReader | None = None
) -> Trace:
    """Learn what a feature depends on by computing it on two bars without prices.

    Raises
    ------
    NoClusterModel
        When it needs the cluster model and there is none.
    DataError
        When it needs a series that is not known.
    """
    view = BatchView(_two_bars(settings.spec, calendar), settings, reader)
    view.reach.begin(feature.name)
    with np.errstate(all="ignore"):
        feature.compute(view)
        reach = view.reach.bars[feature.name]
        view.now("sigma")  # what a row is scaled by is part of what it means
    own = view.reach
    made_from = sorted(name for name in own.inputs[feature.name] if name in SERIES)
    sources = [SERIES[name].source for name in made_from]
    files = [SERIES[name].file_hash for name in made_from]
    identity = [feature.name, feature.version, feature.minutes, feature.source, made_from]
    identity += [sources, files, feature.file_hash]
    return Trace(
        reach,
        frozenset(own.needs[feature.name]),
        stable_hash([*identity, settings.sigma_minutes, settings.coverage]),
    )


def _two_bars(spec: IntervalSpec, calendar: str) -> Panel:
    moment = pd.Timestamp("2019-01-02", tz="UTC")
    closes = bar_grid(calendar, str(spec.interval), moment, moment).closes[:2]
    nothing = np.full((2, 1), np.nan)
    return Panel(
        pd.DatetimeIndex(closes.view("M8[ns]"), tz="UTC"),
        ("X",),
        nothing,
        np.zeros((2, 1), bool),
        str(spec.interval),
        calendar,
        **{name: nothing.copy() for name in EXTRAS},
    )


def available_features(
    spec: IntervalSpec, extras: frozenset[str], config: HorizonsConfig, calendar: str
) -> Iterator[tuple[Feature, str]]:
    """Every registered feature, with the reason why it cannot be used here, empty if it can.

    Parameters
    ----------
    spec : IntervalSpec
    extras : frozenset of str
        Optional arrays the data have; ``"cluster"`` when there is a cluster model.
    config : HorizonsConfig
    calendar : str
    """
    settings = view_settings(spec, config)
    for feature in FEATURES.values():
        if not feature.fits(spec):
            yield feature, f"does not fit bars of {spec.interval}"
            continue
        try:
            missing = trace(feature, settings, calendar).needs - extras
        except NoClusterModel:
            missing = frozenset({"cluster"}) - extras
        words = ["a cluster model" if name == "cluster" else name for name in sorted(missing)]
        yield feature, f"needs {', '.join(words)}" if missing else ""


def choose_features(
    spec: IntervalSpec,
    extras: frozenset[str],
    config: HorizonsConfig,
    calendar: str,
    reader: ClusterReader | None = None,
) -> FeatureSet:
    """The features of a run: those named in the settings, or all the data allow.

    Parameters
    ----------
    spec : IntervalSpec
    extras : frozenset of str
        Optional arrays of a panel that the data have.
    config : HorizonsConfig
    calendar : str
        exchange_calendars code.
    reader : ClusterReader, optional
        The cluster model, where there is one.

    Raises
    ------
    ConfigError
        When a named feature is not known or cannot be used here, or none can.
    """
    allowed = extras | ({"cluster"} if reader is not None else frozenset())
    reasons = {f.name: why for f, why in available_features(spec, allowed, config, calendar)}
    if config.feature_list is None:
        chosen = [find_feature(name) for name, why in reasons.items() if not why]
    else:
        chosen = [find_feature(name) for name in dict.fromkeys(config.feature_list)]
        for feature in chosen:
            if reasons[feature.name]:
                raise ConfigError(
                    f"horizons.feature_list: {feature.name} {reasons[feature.name]}",
                    "leave it out, or give data that allow it",
                )
    if not chosen:
        raise ConfigError(
            "horizons.feature_list: no feature can be used", "see 'dpa features list'"
        )
    return feature_set(tuple(chosen), view_settings(spec, config), calendar, reader)


def feature_set(
    features: tuple[Feature, ...],
    settings: ViewSettings,
    calendar: str,
    reader: ClusterReader | None,
) -> FeatureSet:
    """A feature set of `features`, what they depend on worked out."""
    traces = {feature.name: trace(feature, settings, calendar, reader) for feature in features}
    needs: frozenset[str] = frozenset().union(*(t.needs for t in traces.values()))
    sigma_bars = -(-settings.sigma_minutes // settings.spec.bar_minutes)
    reach = max(sigma_bars, *(t.reach for t in traces.values()))
    fingerprints = {name: t.fingerprint for name, t in traces.items()}
    return FeatureSet(features, settings, calendar, reach, needs, fingerprints)
