"""Run identity, run directories, locks and promotion."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpa.clock import FixedClock
from dpa.config import ClusterConfig, CostConfig, Settings, TrainingConfig
from dpa.errors import RunError
from dpa.runs import (
    DataDescription,
    FoldRecord,
    Manifest,
    RunDirectory,
    check_storage,
    find_run,
    list_runs,
    new_manifest,
    promote,
    promoted_by_hand,
    seeded,
    trial_id,
    trial_seed,
    write_atomically,
)

MOMENT = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
DATA = DataDescription(
    source="sample",
    fingerprint="abc",
    shards="/shards",
    n_bars=100,
    names=("A", "B"),
    interval="1d",
    calendar="XNYS",
    first_bar=MOMENT,
    last_bar=MOMENT,
)
FOLD = FoldRecord(
    index=0,
    train_start=0,
    train_stop=9,
    test_start=10,
    test_stop=20,
    partial=False,
    first_test=MOMENT,
    last_test=MOMENT,
)


def manifest(clock: FixedClock, window: int = 30, data: DataDescription = DATA) -> Manifest:
    settings = Settings(model=ClusterConfig(window=window))
    return new_manifest(
        settings, {"window": (window, 60)}, data, (FOLD,), 2, ("equal_weight",), clock
    )


def make_run(storage: Path, seconds: float = 0.0) -> RunDirectory:
    clock = FixedClock(MOMENT)
    clock.advance(seconds)
    return RunDirectory.create(storage, manifest(clock))


def test_run_ids_sort_by_time_and_end_in_the_fingerprint() -> None:
    clock = FixedClock(MOMENT)
    first = manifest(clock)
    clock.advance(61)
    second = manifest(clock)
    assert first.run_id == f"20260301-123005-{first.fingerprint()[:8]}"
    assert first.run_id < second.run_id
    assert first.fingerprint() == second.fingerprint()


def test_fingerprint_follows_settings_and_data() -> None:
    clock = FixedClock(MOMENT)
    other_data = DATA.model_copy(update={"fingerprint": "xyz"})
    prints = {
        manifest(clock).fingerprint(),
        manifest(clock, window=40).fingerprint(),
        manifest(clock, data=other_data).fingerprint(),
    }
    assert len(prints) == 3


def test_manifest_survives_the_disk(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.read_manifest() == manifest(FixedClock(MOMENT))


@pytest.mark.parametrize(
    "damage", ["", "{", '{"schema_version": 2}', '{"schema_version": 1, "surprise": 1}']
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path)
    run.manifest_path.write_text(damage, encoding="utf-8")
    with pytest.raises(RunError, match=r"manifest\.json") as caught:
        run.read_manifest()
    assert "\n" not in str(caught.value)


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(RunError, match="exists already"):
        make_run(tmp_path)


def test_trial_ids_are_readable_and_safe_file_names(tmp_path: Path) -> None:
    parameters = {"window": 30, "n_clusters": 5, "similarity_threshold": 0.3}
    assert trial_id(parameters) == "window-30_n_clusters-5_similarity_threshold-0.3"
    assert trial_id({"max_age": None, "learn": True}) == "max_age-none_learn-true"
    assert trial_id({}) == "default"
    assert "/" not in trial_id({"calendar": "a/b"})


def test_long_trial_ids_stay_distinct_and_short() -> None:
    names = [f"a_rather_long_parameter_name_{i}" for i in range(20)]
    first, second = (trial_id(dict.fromkeys(names, 0) | {names[-1]: v}) for v in (1, 2))
    assert first != second
    assert max(len(first), len(second)) <= 150


def test_a_trial_seed_is_a_function_of_parameters_and_root_seed() -> None:
    settings = Settings()
    other_window = Settings(model=ClusterConfig(window=61))
    other_root = Settings(training=TrainingConfig(seed=1))
    other_costs = Settings(costs=CostConfig(half_spread_bps=9))
    assert trial_seed(settings) == trial_seed(other_costs)
    assert len({trial_seed(s) for s in (settings, other_window, other_root)}) == 3
    assert seeded(settings).training.seed == trial_seed(settings)


def test_a_trial_seed_is_the_same_in_another_process() -> None:
    imports = "from dpa.config import Settings; from dpa.runs import trial_seed"
    code = f"{imports}; print(trial_seed(Settings()))"
    environ = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.stdout.strip() == str(trial_seed(Settings()))


def test_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.json", "old")
    write_atomically(tmp_path / "x.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "new"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "x.json", "new \ud800")
    assert (tmp_path / "x.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_run_left_running_by_a_dead_driver_counts_as_interrupted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.lock():
        assert run.status() == "running"
    assert run.status() == "interrupted"
    run.set_status("complete")
    assert run.status() == "complete"


def test_a_locked_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.lock(), pytest.raises(RunError, match="another process"), run.lock():
        pass


def test_runs_are_found_by_path_id_start_and_latest(tmp_path: Path) -> None:
    old, new = make_run(tmp_path), make_run(tmp_path, seconds=3600)
    (tmp_path / "stray").mkdir()
    assert [r.path for r in list_runs(tmp_path)] == [old.path, new.path]
    for reference in (str(old.path), old.path.name, "20260301-1230"):
        assert find_run(reference, tmp_path).path == old.path
    assert find_run("latest", tmp_path).path == new.path
    with pytest.raises(RunError, match="several runs match '2026'"):
        find_run("2026", tmp_path)
    with pytest.raises(RunError, match="no run is called 'x'"):
        find_run("x", tmp_path)
    with pytest.raises(RunError, match="no run is called 'latest'"):
        find_run("latest", tmp_path / "nowhere")


def test_promotion_copies_the_model_and_says_where_it_came_from(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for trial in ("one", "two"):
        checkpoint = run.trial(trial) / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_text(trial)
        (checkpoint / f"only-{trial}").write_text("")
    promote(run, "one", FixedClock(MOMENT))
    best = promote(run, "two", FixedClock(MOMENT))
    assert sorted(p.name for p in best.iterdir()) == [
        "model.safetensors",
        "only-two",
        "promoted.json",
    ]
    assert (best / "model.safetensors").read_text() == "two"
    origin = json.loads((best / "promoted.json").read_text())
    assert (origin["run_id"], origin["trial_id"]) == (run.path.name, "two")
    with pytest.raises(RunError, match="'three' has no model"):
        promote(run, "three", FixedClock(MOMENT))
    assert (best / "model.safetensors").read_text() == "two"


def test_unwritable_storage_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--storage .*cannot be written"):
        check_storage(tmp_path / "file" / "runs")
    check_storage(tmp_path / "new" / "runs")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_choice_by_hand_is_kept_apart_from_the_best_by_rank(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    checkpoint = run.trial("one") / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("one")
    assert not promoted_by_hand(run)
    promote(run, "one", FixedClock(MOMENT), by="rank")
    assert not promoted_by_hand(run)
    promote(run, "one", FixedClock(MOMENT))
    assert promoted_by_hand(run)
