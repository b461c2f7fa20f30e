"""Axes, points and folds of a grid."""

from pathlib import Path
from typing import Any

import pytest

from dpa.config import ClusterConfig, Settings, WalkForwardConfig
from dpa.errors import ConfigError, DataError
from dpa.research.grid import (
    DEFAULT_AXES,
    Grid,
    central_trial,
    grid_points,
    label,
    load_grid,
    plan_trials,
)
from dpa.runs import trial_seed


def grid_of(folder: Path, text: str, environ: dict[str, str] | None = None, **axes: Any) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return load_grid(path, axes, environ or {})


def test_the_default_grid_has_27_points_and_its_centre_is_the_default_model() -> None:
    grid = load_grid(None, {}, {})
    trials = plan_trials(grid, 2000)
    assert grid.axes == DEFAULT_AXES
    assert len({trial.trial_id for trial in trials}) == 27
    assert central_trial(trials).settings.model == ClusterConfig()


def test_axes_come_from_file_and_command_line_and_the_command_line_wins(tmp_path: Path) -> None:
    text = "grid: {window: [20, 25], model.max_age: [5, none]}\nmodel: {n_clusters: 4}\n"
    text = text.replace("none", "null")
    grid = grid_of(tmp_path, text, window=(40,), similarity_threshold=(0.1, 0.2))
    assert grid.axes == {
        "window": (40,),
        "n_clusters": (4,),
        "similarity_threshold": (0.1, 0.2),
        "max_age": (5, None),
    }


def test_the_environment_fixes_an_axis_of_the_file(tmp_path: Path) -> None:
    environ = {"DPA__MODEL__WINDOW": "33"}
    grid = grid_of(tmp_path, "grid: {window: [20, 25]}\n", environ)
    assert grid.axes["window"] == (33,)
    assert grid.settings.model.window == 33


def test_a_single_value_of_another_field_is_no_axis() -> None:
    grid = load_grid(None, {"epochs": (5,), "seed": (1, 2)}, {})
    assert "epochs" not in grid.axes
    assert grid.settings.training.epochs == 5
    assert grid.axes["seed"] == (1, 2)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("grid: [1]\n", "grid is not a mapping"),
        ("grid: {windw: [30]}\n", "unknown setting 'windw'"),
        ("grid: {costs.window: [30]}\n", "unknown setting 'costs.window'"),
        ("grid: {window: [2]}\n", "grid.window: 2 is not allowed; give integer, >= 5, <= 5000"),
        ("grid: {window: []}\n", "grid.window: holds no value"),
        ("grid: {window: [30, 30]}\n", "grid.window: 30 is given twice"),
        ("grid: {path: [a, b]}\n", "the data cannot vary"),
        ("gird: {}\n", "unknown key 'gird'"),
        ("model: {window: 1}\n", "model.window"),
    ],
)
def test_a_bad_grid_file_names_file_and_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid_of(tmp_path, text)
    assert "grid.yaml" in str(caught.value)
    assert named in str(caught.value)


def test_a_contradicting_point_is_named() -> None:
    grid = Grid(Settings(), {"entry_threshold": (1.0, 3.0), "stop_threshold": (2.0, 4.0)})
    with pytest.raises(ConfigError, match=r"entry_threshold=3 stop_threshold=2: .*must exceed"):
        grid_points(grid)


def test_every_point_is_tested_on_the_same_dates() -> None:
    grid = load_grid(None, {"train_bars": (100, 252)}, {})
    trials = plan_trials(grid, 1500)
    tested = {tuple((f.test_start, f.test_stop) for f in trial.folds) for trial in trials}
    assert len(tested) == 1
    for trial in trials:
        walk = trial.settings.walk_forward
        assert trial.folds[0].train_start >= trial.settings.model.context_bars
        assert trial.folds[0].test_start - trial.folds[0].train_start == walk.train_bars


def test_trials_carry_their_own_seed() -> None:
    trials = plan_trials(load_grid(None, {"window": (30, 60)}, {}), 2000)
    seeds = {trial.settings.training.seed for trial in trials}
    assert len(seeds) == len(trials)
    root = trials[0].settings.training.model_copy(update={"seed": 0})
    assert trials[0].settings.training.seed == trial_seed(
        trials[0].settings.model_copy(update={"training": root})
    )


def test_too_little_history_and_too_long_windows_are_refused() -> None:
    with pytest.raises(DataError, match="300 bars are too few for one fold"):
        plan_trials(load_grid(None, {}, {}), 300)
    grid = Grid(Settings(walk_forward=WalkForwardConfig(train_bars=50)), {"window": (40, 60)})
    with pytest.raises(ConfigError, match="60 bars are longer than the training span"):
        plan_trials(grid, 5000)


def test_labels() -> None:
    assert label({"window": 30, "max_age": None}) == "window=30 max_age=none"
    assert label({}) == "default"


@pytest.mark.parametrize("name", ["half_spread_bps", "execution_lag"])
def test_trials_that_could_not_be_compared_with_the_baselines_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: 2 values"):
        load_grid(None, {name: (1, 2)}, {})
    assert name not in load_grid(None, {name: (2,)}, {}).axes


def test_settings_of_predictors_are_no_axis_of_the_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("grid: {ridge_penalty: [0.1, 0.2]}\n")
    with pytest.raises(ConfigError, match=r"ridge_penalty: is no setting of the cluster model"):
        load_grid(str(file), {}, {})
