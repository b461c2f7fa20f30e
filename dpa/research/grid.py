"""Which trials a grid has: axes, points, and folds with the same test dates for every point."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpa.config import (
    GRID_SECTIONS,
    Settings,
    environment_layer,
    merge,
    read_yaml,
    settings_from_layers,
)
from dpa.errors import ConfigError
from dpa.options import NOT_AXES, check_distinct, find_option, nested, settings_options, typed
from dpa.runs import seeded, trial_id
from dpa.validation.splits import Fold, walk_forward_folds

DEFAULT_AXES: dict[str, tuple[Any, ...]] = {
    "window": (30, 60, 90),
    "n_clusters": (5, 10, 20),
    "similarity_threshold": (0.3, 0.5, 0.7),
}


@dataclass(frozen=True)
class Grid:
    """Settings shared by all points, and the fields that vary.

    Parameters
    ----------
    settings : Settings
        The values of every field that is not an axis; ``training.seed`` is the root seed.
    axes : mapping of str to tuple
        Field name to its values; the grid is their product, the last axis running fastest.
    """

    settings: Settings
    axes: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Parameters
    ----------
    trial_id : str
        File-name-safe name made of the parameters.
    parameters : mapping of str to value
        The axis values of this point.
    settings : Settings
        The whole tree at this point, ``training.seed`` being the trial's own seed.
    folds : tuple of Fold
        Walk-forward folds, bar numbers of the shared history.
    """

    trial_id: str
    parameters: Mapping[str, Any]
    settings: Settings
    folds: tuple[Fold, ...]

    @property
    def label(self) -> str:
        """The parameters in words: ``window=60 n_clusters=5``."""
        return label(self.parameters)


def label(parameters: Mapping[str, Any]) -> str:
    """Parameters in words: ``window=60 n_clusters=5``."""
    return " ".join(f"{name}={typed(value)}" for name, value in parameters.items()) or "default"


def load_grid(
    path: str | Path | None,
    typed_axes: Mapping[str, tuple[Any, ...]],
    environ: Mapping[str, str],
) -> Grid:
    """A grid from defaults < YAML < environment < command line.

    Parameters
    ----------
    path : str or Path, optional
        YAML file: any part of the settings tree, and a section ``grid`` that maps field names
        to lists, ``grid: {window: [30, 60]}``.
    typed_axes : mapping of str to tuple
        What was typed: field name to one value, or to several.
    environ : mapping
        The process environment, read for ``DPA__SECTION__FIELD``.

    Returns
    -------
    Grid
        The default axes are there unless a layer fixes that field to one value outside
        ``grid``; a field with one value joins the axes only if it is a default axis.

    Raises
    ------
    ConfigError
        Naming the layer, the field and the cure.
    """
    file_layer = read_yaml(path) if path is not None else {}
    file_axes = _file_axes(file_layer.pop("grid", None), str(path))
    environment = environment_layer(environ)
    layers = ((str(path), file_layer), ("environment", environment))
    base, fixed = settings_from_layers(*layers), merge(file_layer, environment)
    axes = {name: _start(name, values, base, fixed) for name, values in DEFAULT_AXES.items()}
    axes |= {n: values for n, values in file_axes.items() if not _is_fixed(n, environment)}
    axes |= typed_axes
    single = {name: values[0] for name, values in axes.items() if len(values) == 1}
    settings = settings_from_layers(*layers, ("command line", nested(single)))
    kept = {
        name: axes[name]
        for name in (*DEFAULT_AXES, *settings_options())
        if name in axes and (name in DEFAULT_AXES or len(axes[name]) > 1)
    }
    _check_comparable(kept)
    return Grid(settings, kept)


def _check_comparable(axes: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse axes under which trials, and the baselines beside them, could not be compared."""
    for name in axes:
        section = settings_options()[name].section
        if section == "costs" or name == "execution_lag":
            raise ConfigError(
                f"{section}.{name}: {len(axes[name])} values, but the trials of a grid and its "
                "baselines must pay the same costs and trade with the same lag",
                "give one value, and a run of its own to each other one",
            )


def _file_axes(section: Any, origin: str) -> dict[str, tuple[Any, ...]]:
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise ConfigError(f"{origin}: grid is not a mapping", "write 'grid: {window: [30, 60]}'")
    axes: dict[str, tuple[Any, ...]] = {}
    for key, values in section.items():
        option = find_option(str(key), f"{origin}: grid")
        where = f"{origin}: grid.{option.name}"
        if option.section not in GRID_SECTIONS:
            raise ConfigError(
                f"{origin}: grid: {key}: is no setting of the cluster model's grid",
                "settings of predictors belong to tune/horizons.py",
            )
        if option.section in NOT_AXES:
            raise ConfigError(
                f"{where}: the {option.section} cannot vary within a grid",
                f"set it under '{option.section}'",
            )
        listed = values if isinstance(values, list) else [values]
        axes[option.name] = check_distinct(
            tuple(option.check(value, where) for value in listed), where
        )
    return axes


def _is_fixed(name: str, layer: Mapping[str, Any]) -> bool:
    return name in (layer.get(settings_options()[name].section) or {})


def _start(
    name: str, values: tuple[Any, ...], base: Settings, fixed: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The default axis, or the one value that a file or the environment gave the field."""
    if not _is_fixed(name, fixed):
        return values
    return (getattr(getattr(base, settings_options()[name].section), name),)


def grid_points(grid: Grid) -> list[tuple[dict[str, Any], Settings]]:
    """Every point of `grid`: its parameters, and its settings with the root seed.

    Raises
    ------
    ConfigError
        Naming the point whose values contradict each other.
    """
    points = []
    for values in itertools.product(*grid.axes.values()):
        parameters = dict(zip(grid.axes, values, strict=True))
        tree = merge(grid.settings.model_dump(), nested(parameters))
        try:
            points.append((parameters, Settings.model_validate(tree)))
        except ValidationError as e:
            reason = e.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"grid point {label(parameters)}: {reason}", "leave that combination out"
            ) from e
    return points


def plan_trials(grid: Grid, n_bars: int) -> list[Trial]:
    """The trials of `grid` over a history of `n_bars` bars.

    The first test bar is the same for every point, whatever its window and training span:
    results are compared over the same dates.

    Raises
    ------
    ConfigError
        When a point contradicts itself, or the history is too short for one fold.
    """
    points = grid_points(grid)
    first_test = max(
        settings.model.context_bars + settings.walk_forward.train_bars for _, settings in points
    )
    return [
        Trial(
            trial_id(parameters),
            parameters,
            seeded(settings),
            tuple(folds_from(settings, n_bars, first_test)),
        )
        for parameters, settings in points
    ]


def central_trial(trials: Sequence[Trial]) -> Trial:
    """The trial in the middle of the grid: the settings of the baselines, chosen unseen."""
    return trials[len(trials) // 2]


def folds_from(settings: Settings, n_bars: int, first_test: int | None = None) -> Sequence[Fold]:
    """Folds of `settings`, the first test window starting at bar `first_test` (or earliest)."""
    context = settings.model.context_bars
    if first_test is not None:
        context = first_test - settings.walk_forward.train_bars
    return walk_forward_folds(n_bars, settings.walk_forward, context, settings.model.window)
