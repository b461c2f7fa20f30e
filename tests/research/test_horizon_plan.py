"""A run of predictors is checked whole before anything is written."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from dpa.cluster.model import ClusterModel
from dpa.cluster.storage import read_model_manifest, save_model
from dpa.config import load_settings
from dpa.errors import ConfigError, DataError, DpaError, RunError
from dpa.market.shard_files import write_shards
from dpa.research.horizon_plan import (
    dataset_folder,
    plan_horizons,
    prepare_cluster,
    run_directory,
)
from tests.research.small_horizons import CLOCK, CLUSTER, FEATURES, bars, small_plan


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def plan(home):
    return small_plan(home)


def give_model(folder, interval="5m", seen="2024-10-30T20:00:00+00:00"):
    tree = {"model": {"window": 24, "n_clusters": 3, "signal_window": 12}}
    settings = load_settings(None, tree, {})
    extra = {"interval": interval} | ({} if seen is None else {"seen_until": seen})
    save_model(ClusterModel(settings.model, 0), folder, bars().names, extra)
    return folder


def refused(home, kind=DpaError, **sections):
    with pytest.raises(kind) as caught:
        small_plan(home, **sections)
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is planned


def test_folds_are_of_whole_sessions_and_purged(plan):
    sessions = bars().times.tz_convert("America/New_York").strftime("%Y-%m-%d")
    first = sorted(set(sessions))
    tested = [sorted(set(sessions[f.test_start : f.test_stop])) for f in plan.folds]
    assert tested == [first[5:7], first[7:9], first[9:]]
    assert [f.partial for f in plan.folds] == [False, False, True]
    for fold in plan.folds:
        assert sessions[fold.train_start] == sessions[fold.test_start - 4 * 78]
        assert fold.train_stop == fold.test_start - 6  # the 30m label


def test_blocks_and_tasks_cover_the_run(plan):
    spans = plan.spans()
    assert [spans[0].start, spans[-1].stop] == [0, bars().n_bars]
    recipe = plan.recipe(None)
    tasks = plan.tasks(recipe)
    assert len(tasks) == (1 + 3) * 4  # ridge, and gbdt in three parts; three folds and the final
    assert recipe.features == FEATURES


def test_a_family_of_the_cluster_model_is_left_out_where_there_is_none(home):
    found = small_plan(home, horizons={"families": ("cluster", "ridge")})
    assert found.families == ("ridge",)
    said = refused(home, ConfigError, horizons={"families": ("cluster",)})
    assert "cluster needs a cluster model" in said


# -- what is refused


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"horizons": {"families": ("forest",)}}, "'forest' is not known"),
        ({"horizons": {"feature_list": ("nothing",)}}, "'nothing' is not known"),
        ({"horizons": {"horizons": ("7m",)}}, "7 minutes are 1.4 bars"),
        ({"horizons": {"barrier_minutes": 33}}, "33 minutes are 6.6 bars"),
        ({"horizons": {"primary_horizon": "1d"}}, "horizon 1d is not forecast"),
        ({"stacking": {"reference_horizon": "1d"}}, "reference_horizon: 1d is not forecast"),
        (
            {"horizons": {"cluster": "train", "families": ("cluster",)}},
            "needs the feature cluster_score",
        ),
        ({"horizons": {"embargo_minutes": 4 * 390}}, "leave nothing of a training window"),
    ],
)
def test_contradictions_are_one_line_with_a_cure(sections, named, home):
    assert named in refused(home, **sections)


def test_too_short_a_history_says_how_many_sessions_it_needs(home):
    said = refused(home, DataError, horizons={"train_sessions": 9})
    assert "9 sessions are too few" in said
    assert "9 to train and 1 to test make 10" in said
    assert "horizons.train_sessions" in said


def test_a_history_that_is_no_shards_is_refused(plan, home):
    bare = dataclasses.replace(plan.history, selection=None, panel=bars())
    with pytest.raises(RunError, match="there are no shards"):
        plan_horizons(plan.settings, bare, home / "runs")


# -- a given cluster model


def test_a_model_of_an_earlier_time_is_taken_with_its_settings(home, tmp_path):
    model = give_model(tmp_path / "model")
    horizons = {"cluster": str(model), "feature_list": (*FEATURES, *CLUSTER)}
    found = small_plan(home, horizons=horizons)
    assert found.cluster == model.resolve()
    assert not found.trains_cluster
    assert found.settings.model.window == 24
    assert found.recipe(found.cluster).reader().model.config.window == 24
    longer = found.folds[0].test_start
    assert longer >= small_plan(home).folds[0].test_start  # its look-backs count


@pytest.mark.parametrize(("minutes", "taken"), [(-5, True), (0, False), (5, False), (9999, False)])
def test_a_model_that_has_seen_a_tested_bar_is_refused(minutes, taken, home, tmp_path):
    model = give_model(tmp_path / "model")
    sections = {"horizons": {"cluster": str(model)}}
    found = small_plan(home, **sections)
    seen = found.times[found.folds[0].test_start] + pd.Timedelta(minutes, "min")
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["seen_until"] = seen.isoformat()
    (model / "manifest.json").write_text(json.dumps(manifest))
    if taken:
        assert small_plan(home, **sections).folds == found.folds
    else:
        said = refused(home, RunError, **sections)
        assert "was trained, tested or chosen on bars until" in said
        assert "leave --cluster out" in said


def test_a_model_that_does_not_say_what_it_has_seen_is_refused(home, tmp_path):
    model = give_model(tmp_path / "model", seen=None)
    assert "does not say" in refused(home, RunError, horizons={"cluster": str(model)})


def test_a_model_of_other_bars_is_refused(home, tmp_path):
    model = give_model(tmp_path / "model", interval="1d")
    said = refused(home, RunError, horizons={"cluster": str(model)})
    assert "trained on 1d bars, the data hold 5m" in said


@pytest.mark.parametrize("reference", ["latest", "1999", "no/such/folder"])
def test_a_model_that_is_not_there_is_named(reference, home):
    said = refused(home, RunError, horizons={"cluster": reference})
    assert reference in said or "no run" in said


def test_a_trained_model_has_seen_the_first_training_window_only(home):
    """And it is trained once, however often the run is resumed."""
    horizons = {"cluster": "train", "feature_list": (*FEATURES, *CLUSTER)}
    found = small_plan(home, horizons=horizons)
    run = run_directory(found, 1, home / "runs", CLOCK)
    folder = prepare_cluster(found, run)
    assert folder == run.cluster
    first = found.folds[0]
    seen = pd.Timestamp(read_model_manifest(folder)["seen_until"])
    assert seen == found.times[first.train_stop - 1]
    assert seen < found.times[first.test_start]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert prepare_cluster(found, run) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".cluster")]


def test_no_model_is_prepared_where_none_is_wanted(plan, home, tmp_path):
    run = run_directory(plan, 1, tmp_path, CLOCK)
    assert prepare_cluster(plan, run) is None


# -- identity


def folder_of(plan, home):
    return dataset_folder(plan, plan.recipe(None), home)


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"horizons": {"families": ("ridge",)}}, True),
        ({"horizons": {"train_sessions": 3, "test_sessions": 1}}, True),
        ({"horizons": {"horizon_seed": 5, "placebo": True}}, True),
        ({"families": {"gbdt_trees": 9}}, True),
        ({"horizons": {"horizons": ("5m",)}}, False),
        ({"horizons": {"sigma_minutes": 780}}, False),
        ({"horizons": {"feature_list": FEATURES[:2]}}, False),
        ({"horizons": {"target": "return"}}, False),
        ({"horizons": {"barrier_width": 1.0}}, False),
        ({"horizons": {"min_features": 0.5}}, False),
        ({"walk_forward": {"execution_lag": 2}}, False),
        ({"data": {"names": bars().names[:6]}}, False),
        ({"data": {"start": "2024-10-29"}}, False),
    ],
    ids=str,
)
def test_features_are_shared_by_runs_with_equal_rows_only(sections, same, plan, home):
    other = small_plan(home, **sections)
    assert (folder_of(other, home) == folder_of(plan, home)) == same


def test_the_directory_of_a_run_says_what_it_is(plan, tmp_path):
    run = run_directory(plan, 16, tmp_path, CLOCK)
    manifest = run.read_manifest()
    assert manifest.kind == "horizons"
    assert manifest.n_trials == 16
    assert len(manifest.folds) == len(plan.folds)
    for record, fold in zip(manifest.folds, plan.folds, strict=True):
        assert record.first_test == plan.times[fold.test_start]
        assert record.last_test == plan.times[fold.test_stop - 1]
    resumed = dataclasses.replace(plan, resumed=run)
    assert run_directory(resumed, 16, tmp_path, CLOCK) is run


def test_bars_are_counted_on_the_session_grid(home, tmp_path):
    """A history that lacks bars has the bar numbers of one that does not."""
    panel = bars()
    kept = np.flatnonzero(np.random.default_rng(0).random(panel.n_bars) < 0.9)
    torn = dataclasses.replace(
        panel,
        times=panel.times[kept],
        prices=panel.prices[kept],
        mask=panel.mask[kept],
        **{name: array[kept] for name, array in panel.extras().items()},
    )
    write_shards(torn, tmp_path / "shards")
    found = small_plan(tmp_path)
    assert found.folds == small_plan(home).folds
