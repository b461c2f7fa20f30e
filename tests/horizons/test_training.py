"""Fits as tasks: whole or not at all, the same again, and never on what is tested."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dpa.config import load_settings
from dpa.errors import DataError, RunError
from dpa.horizons import training
from dpa.horizons.dataset import Dataset, make_block, plan_blocks, session_of, write_block
from dpa.horizons.families import protocol
from dpa.horizons.families.protocol import FitLog, family_class
from dpa.horizons.recipe import make_recipe
from dpa.horizons.training import (
    Task,
    clipped,
    final_fold,
    load_final,
    plan_tasks,
    predict_rows,
    read_forecast,
    read_summary,
    run_task,
    task_seed,
)
from dpa.horizons.types import Forecast
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.validation.information import cross_sectional_ic, mean_ic
from dpa.validation.purge import session_folds

FEATURES = (
    "return_scaled_5m",
    "close_location_5m",
    "range_surprise_5m",
    "volume_surprise_5m",
    "reversal_60m",
)
ARRAYS = ("features", "targets", "barriers", "bar", "asset")


def recipe_of(panel, **horizons):
    tree = {
        "horizons": {
            "horizons": ("5m", "30m"),
            "feature_list": FEATURES,
            "sigma_minutes": 390,
            "train_sessions": 5,
            "test_sessions": 3,
            "sessions_per_block": 2,
            "families": ("ridge", "gbdt"),
            **horizons,
        },
        "families": {"gbdt_trees": 5, "gbdt_min_rows": 50},
    }
    settings = load_settings(None, tree, {})
    extras = tuple(panel.extras())
    return make_recipe(settings, panel.names, "5m", "XNYS", extras, None)


@dataclasses.dataclass(frozen=True)
class Prepared:
    panel: Panel
    recipe: object
    dataset: Dataset
    folds: list


def prepared(panel, folder):
    recipe = recipe_of(panel)
    session = session_of(panel.times, "5m", "XNYS")
    spans = plan_blocks(session, 2)
    for span in spans:
        write_block(folder, make_block(panel, recipe, span), span)
    folds = session_folds(session, 5, 3, recipe.purge, recipe.feature_set().reach)
    return Prepared(panel, recipe, Dataset.finish(folder, spans), folds)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Prepared:
    """Thirteen sessions of 16 names whose bars show what comes."""
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=8, n_sessions=13, start="2024-06-24", missing=0.01
    )
    return prepared(simulate_bars(market, 4).panel, tmp_path_factory.mktemp("features"))


def run(work, task, to, **horizons):
    recipe = recipe_of(work.panel, **horizons) if horizons else work.recipe
    run_task(task, work.folds, work.dataset, recipe, to)
    return to / task.key


# -- the plan


def test_every_family_has_a_task_a_fold_and_a_final_one():
    tasks = plan_tasks(2, ("ridge", "gbdt"), ("5m", "30m"))
    assert family_class("gbdt").splits_by_target
    assert not family_class("ridge").splits_by_target
    per_fold = [("ridge", None), ("gbdt", "5m"), ("gbdt", "30m"), ("gbdt", "barriers")]
    wanted = [(fold, *rest) for fold in ("000", "001", "final") for rest in per_fold]
    assert [(t.fold, t.family, t.target) for t in tasks] == wanted
    assert len({t.key for t in tasks}) == len({t.label for t in tasks}) == len(tasks)
    assert tasks[1].key == "000/gbdt/5m"
    assert tasks[1].label == "gbdt 5m, fold 0"
    assert tasks[-4].label == "ridge, final"


def test_seeds_follow_family_target_and_root_and_no_fold():
    seeds = [
        task_seed(Task(fold, family, target), root)
        for fold in ("000", "final")
        for family, target in (("ridge", None), ("gbdt", "5m"), ("gbdt", "30m"))
        for root in (0, 1)
    ]
    assert seeds[:6] == seeds[6:]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_final_window_ends_with_history_and_is_as_long_as_the_others(work):
    final, last = final_fold(work.folds, work.dataset), work.folds[-1]
    assert final.train_stop == work.dataset.n_bars == final.test_start == final.test_stop
    assert final.train_stop - final.train_start == last.test_start - last.train_start


# -- a task


def test_a_task_leaves_its_files_and_is_done_once(work, tmp_path):
    task = Task("000", "ridge")
    folder = run(work, task, tmp_path)
    assert {p.name for p in folder.iterdir()} == {"summary.json", "forecast.safetensors", "model"}
    assert [p.name for p in tmp_path.iterdir()] == ["000"]  # no scratch is left
    before = (folder / "summary.json").stat().st_mtime_ns
    run(work, task, tmp_path)
    assert (folder / "summary.json").stat().st_mtime_ns == before
    summary = read_summary(folder)
    assert summary.n_fit > summary.n_validation > 0
    assert sum(summary.importance.values()) == pytest.approx(1.0)
    fold = work.folds[0]
    assert summary.n_test == len(work.dataset.rows(fold.test_start, fold.test_stop))


def test_the_same_seed_gives_the_same_bytes(work, tmp_path):
    for task in (Task("000", "ridge"), Task("000", "gbdt", "5m")):
        one, two = run(work, task, tmp_path / "1"), run(work, task, tmp_path / "2")
        assert read_summary(one).fingerprint == read_summary(two).fingerprint
        names = [p.relative_to(one) for p in one.rglob("*") if p.is_file()]
        for name in names:
            if name.name != "summary.json":
                assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_another_seed_gives_another_model(work, tmp_path):
    task = Task("000", "gbdt", "5m")
    one = run(work, task, tmp_path / "1")
    two = run(work, task, tmp_path / "2", horizon_seed=7)
    assert read_summary(one).fingerprint != read_summary(two).fingerprint


def test_a_task_that_fails_leaves_nothing(work, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(training, "write_forecast", fail)
    with pytest.raises(OSError, match="no space"):
        run(work, Task("000", "ridge"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_half_a_folder_is_done_again(work, tmp_path):
    task = Task("000", "ridge")
    whole = run(work, task, tmp_path / "1")
    torn = tmp_path / "2" / task.key
    shutil.copytree(whole, torn)
    (torn / "summary.json").unlink()
    (torn / "forecast.safetensors").write_bytes(b"")
    assert read_summary(torn) is None
    run(work, task, tmp_path / "2")
    name = "forecast.safetensors"
    assert (torn / name).read_bytes() == (whole / name).read_bytes()


def test_too_few_rows_are_named(work, tmp_path):
    thin = dataclasses.replace(work.folds[0], train_start=work.folds[0].train_stop - 12)
    with pytest.raises(DataError, match=r"ridge, fold 0: \d+ usable rows") as caught:
        run_task(Task("000", "ridge"), [thin], work.dataset, work.recipe, tmp_path)
    assert "train_sessions" in caught.value.cure


# -- what a task may learn from


@pytest.fixture
def spy(monkeypatch):
    """A family that remembers what it was given; registered under the name ``spy``."""
    seen = {}

    class Spy:
        name, splits_by_target, has_barriers = "spy", False, False

        def __init__(self, schema, settings):
            self.schema = schema

        def fit(self, train, validation, seed, targets=None):
            seen.update(train=train, validation=validation, seed=seed, targets=targets)
            return FitLog()

        def predict(self, features):
            seen.setdefault("predicted", []).append(features)
            return Forecast(features[:, :2].astype(float))

        def save(self, folder):
            folder.mkdir(parents=True)

        def fingerprint(self):
            return "spy"

        def importance(self):
            return {}

    monkeypatch.setitem(protocol._FAMILIES, "spy", Spy)
    return seen


def test_no_training_label_reaches_what_decides_or_what_is_tested(work, spy, tmp_path):
    """Brute force: every label's last bar, of every row, in every fold."""
    reach = max(*(h.bars for h in work.recipe.horizons), work.recipe.barrier_bars)
    lag = work.recipe.lag
    assert len(work.folds) == 3
    for fold in work.folds:
        run(work, Task(f"{fold.index:03d}", "spy"), tmp_path)
        fit, validation = spy["train"], spy["validation"]
        assert len(fit) > 1000
        for bar in np.unique(fit.bar):
            assert fold.train_start <= bar
            assert bar + lag - 1 + reach < validation.bar.min()
        for bar in np.unique(validation.bar):
            assert bar + lag - 1 + reach < fold.test_start
        assert fold.train_stop - 1 == validation.bar.max()


def test_the_test_window_is_forecast_row_by_row(work, spy, tmp_path):
    fold = work.folds[0]
    run(work, Task("000", "spy"), tmp_path)
    said = read_forecast(tmp_path, "000", "spy", work.recipe.schema())
    assert said.returns.shape == (fold.test_stop - fold.test_start, work.panel.n_assets, 2)
    assert said.barriers is None
    features = work.dataset.dense("features", fold.test_start, fold.test_stop)
    usable = work.dataset.dense("usable", fold.test_start, fold.test_stop)
    np.testing.assert_array_equal(said.returns[usable], features[usable][:, :2])
    assert np.isnan(said.returns[~usable]).all()


def test_learning_sees_clipped_targets_only(work, spy, tmp_path):
    run(work, Task("000", "spy"), tmp_path, target_clip=0.5)
    assert np.nanmax(np.abs(spy["train"].targets)) == 0.5
    assert np.nanmax(np.abs(spy["validation"].targets)) == 0.5
    rows = work.dataset.rows(200, 260)
    cut = clipped(rows, 0.5)
    np.testing.assert_array_equal(cut.targets, np.clip(rows.targets, -0.5, 0.5))
    assert cut.features is rows.features


def test_many_rows_are_forecast_in_parts(spy, work, monkeypatch):
    monkeypatch.setattr(training, "_PREDICT_ROWS", 7)
    family = family_class("spy")(work.recipe.schema(), work.recipe.settings.families)
    features = np.arange(100, dtype=np.float32).reshape(20, 5)
    np.testing.assert_array_equal(predict_rows(family, features).returns, features[:, :2])
    assert [len(part) for part in spy["predicted"]] == [7, 7, 6]


# -- forecasts of several targets


def test_targets_fitted_apart_are_put_together(work, tmp_path):
    for target in ("5m", "30m", "barriers"):
        run(work, Task("000", "gbdt", target), tmp_path)
    merged = read_forecast(tmp_path, "000", "gbdt", work.recipe.schema())
    fold = work.folds[0]
    usable = work.dataset.dense("usable", fold.test_start, fold.test_stop)
    assert np.isfinite(merged.returns[usable]).all()
    assert ((merged.barriers[usable] > 0) & (merged.barriers[usable] < 1)).all()
    shutil.rmtree(tmp_path / "000" / "gbdt" / "30m")
    without = read_forecast(tmp_path, "000", "gbdt", work.recipe.schema())
    assert np.isnan(without.returns[:, :, 1]).all()
    np.testing.assert_array_equal(without.returns[:, :, 0], merged.returns[:, :, 0])


def test_final_models_are_put_together(work, tmp_path):
    for target in ("5m", "30m", "barriers"):
        run(work, Task("final", "gbdt", target), tmp_path)
    assert not (tmp_path / "final" / "gbdt" / "5m" / "forecast.safetensors").exists()
    family = load_final(tmp_path, "gbdt", work.recipe, tmp_path / "together")
    rows = work.dataset.rows(500, 520)
    said = family.predict(rows.features)
    assert np.isfinite(said.returns).all()
    assert np.isfinite(said.barriers).all()


def test_a_stretch_that_nobody_trades_is_forecast_as_missing(work, tmp_path):
    panel, gap = work.panel, slice(9 * 78, 11 * 78)
    arrays = {"prices": panel.prices.copy(), "mask": panel.mask.copy()}
    arrays |= {name: array.copy() for name, array in panel.extras().items()}
    for name, array in arrays.items():
        array[gap] = False if name == "mask" else np.nan
    (tmp_path / "features").mkdir()
    torn = prepared(dataclasses.replace(panel, **arrays), tmp_path / "features")
    for task in (Task("001", "ridge"), Task("001", "gbdt", "5m"), Task("001", "gbdt", "barriers")):
        run(torn, task, tmp_path)
    start = torn.folds[1].test_start
    said = read_forecast(tmp_path, "001", "ridge", torn.recipe.schema()).returns
    assert np.isnan(said[max(gap.start - start, 0) : gap.stop - start]).all()


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_a_damaged_forecast_is_named(content, work, tmp_path):
    folder = run(work, Task("000", "ridge"), tmp_path)
    if content is None:
        (folder / "forecast.safetensors").unlink()
    else:
        (folder / "forecast.safetensors").write_bytes(content)
    with pytest.raises(RunError, match=r"forecast\.safetensors") as caught:
        read_forecast(tmp_path, "000", "ridge", work.recipe.schema())
    assert "resume" in caught.value.cure


def test_a_forecast_that_is_not_there_is_named(work, tmp_path):
    with pytest.raises(RunError, match="holds no forecast") as caught:
        read_forecast(tmp_path, "000", "ridge", work.recipe.schema())
    assert "resume" in caught.value.cure


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"seconds": 1}))
    with pytest.raises(RunError, match=r"summary\.json"):
        read_summary(tmp_path)


# -- placebo


def test_a_placebo_gives_each_name_the_labels_of_another_throughout(work):
    dealt = work.dataset.placebo(3)
    own, other = (d.dense("targets", 200, 260) for d in (work.dataset, dealt))
    n_assets = own.shape[1]
    source = [
        next(k for k in range(n_assets) if np.array_equal(own[:, k], other[:, a], equal_nan=True))
        for a in range(n_assets)
    ]
    assert sorted(source) == list(range(n_assets))
    assert all(k != a for a, k in enumerate(source))
    later, true = (d.dense("barriers", 300, 350) for d in (dealt, work.dataset))
    np.testing.assert_array_equal(later, true[:, source])
    for name in ("features", "usable", "sigma"):
        np.testing.assert_array_equal(
            dealt.dense(name, 200, 260), work.dataset.dense(name, 200, 260)
        )
    again = work.dataset.placebo(3).dense("targets", 200, 260)
    np.testing.assert_array_equal(again, other)
    assert not np.array_equal(work.dataset.placebo(4).dense("targets", 200, 260), other)
    rows = dealt.rows(200, 260)
    expected = dealt.dense("targets", 200, 260)[rows.bar - 200, rows.asset]
    np.testing.assert_array_equal(rows.targets, expected)


def ic_of(work, tasks, dataset):
    """Mean IC of ridge over the test windows, per horizon."""
    out = []
    for place, horizon in enumerate(work.recipe.horizons):
        by_bar = []
        for fold in work.folds:
            said = read_forecast(tasks, f"{fold.index:03d}", "ridge", work.recipe.schema())
            seen = dataset.dense("targets", fold.test_start, fold.test_stop)
            by_bar.append(cross_sectional_ic(said.returns[:, :, place], seen[:, :, place]))
        out.append(mean_ic(np.concatenate(by_bar), horizon.bars))
    return out


def test_a_placebo_finds_nothing_where_there_is_much_to_find(work, tmp_path):
    tasks = [Task(f"{fold.index:03d}", "ridge") for fold in work.folds]
    for task in tasks:
        run(work, task, tmp_path / "true")
    for found in ic_of(work, tmp_path / "true", work.dataset):
        assert found.ic > 4 * found.se
    scores = []
    for seed in range(12):
        dealt = work.dataset.placebo(seed)
        for task in tasks:
            run_task(task, work.folds, dealt, work.recipe, tmp_path / str(seed))
        scores += [found.t for found in ic_of(work, tmp_path / str(seed), dealt)]
    assert np.mean(np.abs(scores) > 2) < 0.2  # 1 in 20 by luck, a few more in short windows
    assert np.abs(scores).max() < 4
