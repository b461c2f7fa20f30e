"""What rows of a run are made of: settings, data layout, features, labels; the same everywhere.

A recipe is plain data, so a task on another machine opens it and computes the same bytes.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dpa.cluster.storage import load_model, read_model_manifest
from dpa.config import Settings
from dpa.errors import ConfigError, RunError
from dpa.horizons.clusters import ClusterReader
from dpa.horizons.feature_set import FeatureSet, choose_features, feature_set, view_settings
from dpa.horizons.plugins import load_plugins
from dpa.horizons.registry import find_feature
from dpa.horizons.types import RowSchema
from dpa.market.interval_specs import (
    Horizon,
    IntervalSpec,
    get_interval_spec,
    horizon_minutes_to_bars,
    parse_horizon,
    parse_horizons,
)
from dpa.market.panel import EXTRAS
from dpa.validation.purge import PurgeSpec, make_purge_spec


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the rows of a run but the bars.

    Parameters
    ----------
    settings : Settings
    names : tuple of str
        Names of the data, in column order.
    interval, calendar : str
        Of the data.
    extras : tuple of str
        Optional arrays the data have, in the order of :data:`dpa.market.panel.EXTRAS`.
    features : tuple of str
        Features in column order.
    cluster : str, optional
        Folder of the cluster model.
    dates : tuple of two str, optional
        First and last date of the data: what a regular session was then; none: in 2019.
    """

    settings: Settings
    names: tuple[str, ...]
    interval: str
    calendar: str
    extras: tuple[str, ...]
    features: tuple[str, ...]
    cluster: str | None = None
    dates: tuple[str, str] | None = None

    @property
    def spec(self) -> IntervalSpec:
        """The interval in both its measures."""
        return interval_spec(self.interval, self.calendar, self.dates)

    @property
    def sessions_per_block(self) -> int:
        """Sessions in one file of features."""
        usual = 250 if self.spec.interval.is_daily else 5
        return self.settings.horizons.sessions_per_block or usual

    @property
    def horizons(self) -> tuple[Horizon, ...]:
        """The horizons forecast, shortest first."""
        return parse_horizons(self.settings.horizons.horizons, self.spec)

    @property
    def primary(self) -> int:
        """Position of the horizon that matters most."""
        wanted = self.settings.horizons.primary_horizon
        return 0 if wanted is None else horizon_place(wanted, self.horizons, self.spec)

    @property
    def lag(self) -> int:
        """Bars between a decision and its first return."""
        return self.settings.walk_forward.execution_lag

    @property
    def barrier_bars(self) -> int:
        """Bars the barriers look ahead."""
        return horizon_minutes_to_bars(barrier_minutes(self.settings, self.spec), self.spec)

    @property
    def purge(self) -> PurgeSpec:
        """How far a training decision stays away from a test."""
        lengths = [*(h.bars for h in self.horizons), self.barrier_bars]
        minutes = self.settings.horizons.embargo_minutes
        embargo = -(-minutes // self.spec.bar_minutes)
        return make_purge_spec(lengths, self.lag, embargo)

    def extras_needed(self) -> tuple[str, ...]:
        """Optional arrays of a panel that the features are made from."""
        return tuple(name for name in EXTRAS if name in self.feature_set().needs)

    def reader(self) -> ClusterReader | None:
        """The cluster model, read again from its folder."""
        return None if self.cluster is None else open_reader(Path(self.cluster), self.interval)

    def feature_set(self) -> FeatureSet:
        """The features, with what they depend on."""
        return _feature_set(self)

    def schema(self) -> RowSchema:
        """What the columns of rows mean."""
        return self.feature_set().schema(self.horizons, self.primary)


@lru_cache(maxsize=8)
def _feature_set(recipe: Recipe) -> FeatureSet:
    load_plugins(recipe.settings.horizons.plugins)
    chosen = tuple(find_feature(name) for name in recipe.features)
    views = view_settings(recipe.spec, recipe.settings.horizons)
    return feature_set(chosen, views, recipe.calendar, recipe.reader())


def interval_spec(interval: str, calendar: str, dates: tuple[str, str] | None) -> IntervalSpec:
    """The interval of bars of which whole ones make a regular session of those dates.

    Raises
    ------
    ConfigError
        When they do not: the last bar would be shorter, and its returns of another kind.
    """
    spec = get_interval_spec(interval, None, calendar=calendar, dates=dates)
    if spec.session_minutes % spec.bar_minutes:
        raise ConfigError(
            f"bars of {interval} do not divide the session of {calendar}, "
            f"{spec.session_minutes} minutes",
            "resample the data to bars that do, such as 5m, 15m, 30m or 1d",
        )
    return spec


def barrier_minutes(settings: Settings, spec: IntervalSpec) -> int:
    """How far the barriers look ahead, session minutes; a daily bar at least."""
    return max(settings.horizons.barrier_minutes, spec.bar_minutes)


def horizon_place(text: str, horizons: tuple[Horizon, ...], spec: IntervalSpec) -> int:
    """Position of the horizon written as `text`; a :class:`ConfigError` when it is not forecast."""
    minutes = parse_horizon(text, spec).minutes
    for place, horizon in enumerate(horizons):
        if horizon.minutes == minutes:
            return place
    labels = ", ".join(horizon.label for horizon in horizons)
    raise ConfigError(f"horizon {text} is not forecast", f"choose one of {labels}")


def open_reader(folder: Path, interval: str) -> ClusterReader:
    """The cluster model in `folder`, for bars of `interval`.

    Raises
    ------
    RunError
        When it cannot be read, or was trained on bars of another interval.
    """
    trained = read_model_manifest(folder).get("interval")
    if trained != interval:
        raise RunError(
            f"{folder}: the cluster model was trained on {trained} bars, the data hold {interval}",
            "give a model of the same interval with --cluster, or none",
        )
    model, _ = load_model(folder)
    return ClusterReader(model)


def make_recipe(
    settings: Settings,
    names: tuple[str, ...],
    interval: str,
    calendar: str,
    extras: tuple[str, ...],
    cluster: Path | None,
    dates: tuple[str, str] | None = None,
) -> Recipe:
    """The recipe of a run: features chosen by what settings and data allow.

    Raises
    ------
    ConfigError, RunError
        Whatever contradicts: an unknown feature or horizon, a cluster model of other bars.
    """
    load_plugins(settings.horizons.plugins)
    spec = interval_spec(interval, calendar, dates)
    reader = None if cluster is None else open_reader(cluster, interval)
    chosen = choose_features(spec, frozenset(extras), settings.horizons, calendar, reader)
    folder = None if cluster is None else str(cluster)
    recipe = Recipe(settings, names, interval, calendar, extras, chosen.names, folder, dates)
    _ = recipe.primary, recipe.barrier_bars, recipe.purge  # contradictions are told now
    return recipe
