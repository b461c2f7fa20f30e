"""A run of predictors on a real Ray session: what it leaves, and what survives a bad day."""

import csv
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import _fits
import horizons
import numpy as np
import pandas as pd
import pytest
import ray

from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.training import Task
from dpa.market.panel import Panel
from dpa.market.shard_files import write_shards
from dpa.runs import RunDirectory, list_runs
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars

FEATURES = "return_scaled_5m,close_location_5m,range_surprise_5m,volume_surprise_5m,reversal_30m"
SMALL = (
    f"--no-dashboard --horizons 5m,30m --feature-list {FEATURES} --cluster absent "
    "--families ridge,gbdt --sigma-minutes 390 --train-sessions 4 --test-sessions 2 "
    "--sessions-per-block 4 --gbdt-trees 5 --gbdt-min-rows 50"
).split()
pytestmark = pytest.mark.ray
TABLES = {
    "ic",
    "decay",
    "months",
    "correlations",
    "barriers",
    "reliability",
    "importance",
    "curves",
    "stacker",
    "stacker_against_best",
    "fits",
    "checks",
}


@pytest.fixture(scope="session")
def bars() -> Panel:
    """Nine sessions of 8 names on 5m bars, one of them lost now and then."""
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=4, n_sessions=9, start="2024-10-28", missing=0.01
    )
    return simulate_bars(market, 5).panel


@pytest.fixture(scope="session")
def shards(bars: Panel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(bars, folder)
    return folder


def words(shards: Path, storage: Path, *more: str) -> list[str]:
    return ["--storage", str(storage), "--data", str(shards), *SMALL, *more]


def only_run(storage: Path) -> RunDirectory:
    [run] = list_runs(storage)
    return run


def fingerprint(run: RunDirectory) -> str:
    found = HorizonBundle.load(run.bundle).manifest.fingerprint
    assert len(found) == 64
    return found


def table(run: RunDirectory, name: str) -> list[dict[str, str]]:
    with (run.tables / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def fits(run: RunDirectory) -> dict[str, int]:
    """Each finished fit and when it was written."""
    found = run.tasks.glob("*/*/*/summary.json")
    return {str(p.parent.relative_to(run.tasks)): p.stat().st_mtime_ns for p in found}


def let_ray_finish() -> None:
    """Wait for tasks that an interrupted run left behind in the shared session."""
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def undisturbed(
    ray_session: None,
    shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
    said: dict[str, str],
) -> RunDirectory:
    storage = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(horizons.Console, "print", lambda self, text, **_: lines.append(str(text)))
        assert horizons.main(words(shards, storage)) == 0
    said["undisturbed"] = "\n".join(lines)
    return only_run(storage)


@pytest.fixture
def copied(undisturbed: RunDirectory, tmp_path: Path) -> RunDirectory:
    """The finished run and its features in a storage of their own, free to be spoilt."""
    for name in (undisturbed.path.name, ".cache"):
        shutil.copytree(undisturbed.path.parent / name, tmp_path / name)
    return RunDirectory(tmp_path / undisturbed.path.name)


# -- what a run leaves


def test_a_run_leaves_the_agreed_files(undisturbed: RunDirectory) -> None:
    names = {p.name for p in undisturbed.path.iterdir() if not p.name.startswith(".")}
    assert names == {"manifest.json", "tasks", "tables", "bundle", "report.html"}
    assert {p.stem for p in undisturbed.tables.iterdir()} == TABLES
    assert undisturbed.read_manifest().status == "complete"
    assert undisturbed.read_manifest().kind == "horizons"
    folds = len(undisturbed.read_manifest().folds)
    assert folds == 2
    assert len(fits(undisturbed)) == 4 * (folds + 1)


def test_the_tables_say_what_was_done(undisturbed: RunDirectory) -> None:
    ic = {(r["family"], r["horizon"]): float(r["ic"]) for r in table(undisturbed, "ic")}
    assert set(ic) == {(f, h) for f in ("ridge", "gbdt", "stacked") for h in ("5m", "30m")}
    assert ic["ridge", "5m"] > 0.05  # planted, and in plain sight
    rows = table(undisturbed, "fits")
    assert {r["fold"] for r in rows} == {"000", "001", "final"}
    assert {r["n_test"] for r in rows if r["fold"] == "final"} == {"0"}
    importance = [float(r["importance"]) for r in table(undisturbed, "importance")]
    assert sum(importance) == pytest.approx(2.0)
    checks = table(undisturbed, "checks")
    assert len(checks) == 5
    assert {r["passed"] for r in checks} == {"True"}
    assert {r["family"] for r in table(undisturbed, "barriers")} == {"gbdt", "calibrated"}


def test_the_bundle_forecasts(undisturbed: RunDirectory, bars: Panel) -> None:
    bundle = HorizonBundle.load(undisturbed.bundle)
    assert set(bundle.families) == {"ridge", "gbdt"}
    found = bundle.predict(bars.window(bars.n_bars - bundle.manifest.tail_bars, bars.n_bars))
    arrays = [v for v in vars(found).values() if isinstance(v, np.ndarray) and v.dtype == float]
    assert any(np.isfinite(array).all() for array in arrays)


def test_progress_and_closing_words(undisturbed: RunDirectory, said: dict[str, str]) -> None:
    text = said["undisturbed"]
    for words in (
        "forecasts  5m, 30m by ridge, gbdt",
        "folds      2, tested from 2024-11-04",
        "features 3/3",
        "fits 12/12",
        "out-of-sample IC",
        str(undisturbed.bundle),
        str(undisturbed.report),
    ):
        assert words in text


def test_the_same_seed_gives_the_same_bundle_and_another_another(
    undisturbed: RunDirectory, shards: Path, tmp_path: Path
) -> None:
    assert horizons.main(words(shards, tmp_path / "again")) == 0
    assert fingerprint(only_run(tmp_path / "again")) == fingerprint(undisturbed)
    for name in TABLES - {"fits"}:
        one, two = undisturbed, only_run(tmp_path / "again")
        file = f"{name}.csv"
        assert (one.tables / file).read_bytes() == (two.tables / file).read_bytes(), name
    other = ("--horizon-seed", "1", "--gbdt-fraction", "0.4")
    assert horizons.main(words(shards, tmp_path / "other", *other)) == 0
    assert fingerprint(only_run(tmp_path / "other")) != fingerprint(undisturbed)


# -- resuming


def test_only_what_is_missing_is_done_again(
    copied: RunDirectory, undisturbed: RunDirectory
) -> None:
    before = fits(copied)
    shutil.rmtree(copied.tasks / "001" / "gbdt" / "30m")
    assert horizons.main(["--resume", str(copied.path), "--no-dashboard"]) == 0
    after = fits(copied)
    assert {key for key in after if after[key] != before[key]} == {"001/gbdt/30m"}
    assert fingerprint(copied) == fingerprint(undisturbed)
    for name in ("ic", "stacker", "barriers"):
        file = f"{name}.csv"
        assert (copied.tables / file).read_bytes() == (undisturbed.tables / file).read_bytes()


def test_lost_features_are_computed_again(copied: RunDirectory, undisturbed: RunDirectory) -> None:
    blocks = sorted((copied.path.parent / ".cache" / "features").glob("*/bars-*.safetensors"))
    blocks[1].unlink()
    shutil.rmtree(copied.tasks / "final" / "ridge")
    assert horizons.main(["--resume", str(copied.path), "--no-dashboard"]) == 0
    assert blocks[1].is_file()
    assert fingerprint(copied) == fingerprint(undisturbed)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_finished_later(
    stop: signal.Signals,
    undisturbed: RunDirectory,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome, done = _fits._outcome, []

    def interrupted(reference: object) -> str | None:
        done.append(reference)
        if len(done) == 6:
            os.kill(os.getpid(), stop)
        return outcome(reference)

    with monkeypatch.context() as patch:
        patch.setattr(_fits, "_outcome", interrupted)
        assert horizons.main(words(shards, tmp_path)) == 130
    let_ray_finish()
    run = only_run(tmp_path)
    assert run.status() == "interrupted"
    assert not run.bundle.exists()
    assert f"--resume {run.path}" in capsys.readouterr().out
    assert horizons.main(["--resume", str(run.path), "--no-dashboard"]) == 0
    assert run.status() == "complete"
    assert fingerprint(run) == fingerprint(undisturbed)


def killed_once(marker: Path) -> Callable[..., None]:
    """A fit whose process is killed the first time it comes to gbdt on fold 1."""
    run_task = _fits.run_task

    def fragile(task: Task, *others: object) -> None:
        if task.key == "001/gbdt/5m" and not marker.exists():
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        run_task(task, *others)

    return fragile


def defective() -> Callable[..., None]:
    """Fits of which one always raises, and one always dies."""
    run_task = _fits.run_task

    def fail(task: Task, *others: object) -> None:
        if task.key == "000/ridge/all":
            raise ValueError("a defect\nof this fit")
        if task.key == "001/gbdt/30m":
            os.kill(os.getpid(), signal.SIGKILL)
        run_task(task, *others)

    return fail


def with_fits(patch: pytest.MonkeyPatch, run_task: Callable[..., None]) -> None:
    """Let Ray's tasks call `run_task`."""
    patch.setattr(_fits, "run_task", run_task)
    options = {"num_cpus": 1, "max_retries": _fits.DEATHS_FORGIVEN}
    patch.setattr(_fits, "fit_task", ray.remote(**options)(_fits.fit_task._function))


def test_a_killed_process_changes_nothing(
    undisturbed: RunDirectory, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_fits(patch, killed_once(tmp_path / "killed"))
        assert horizons.main(words(shards, tmp_path / "runs")) == 0
    assert (tmp_path / "killed").exists()
    assert fingerprint(only_run(tmp_path / "runs")) == fingerprint(undisturbed)


def test_fits_that_fail_are_named_and_the_rest_is_kept(
    undisturbed: RunDirectory,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_fits, "DEATHS_FORGIVEN", 0)
        with_fits(patch, defective())
        assert horizons.main(words(shards, tmp_path)) == 1
    out = capsys.readouterr().out
    run = only_run(tmp_path)
    assert "failed: ridge, fold 0: a defect of this fit" in out
    [died] = [line for line in out.splitlines() if line.startswith("failed: gbdt 30m, fold 1: ")]
    assert "died" in died or "crashed" in died
    assert f"--resume {run.path}" in out
    assert run.status() == "interrupted"
    assert len(fits(run)) == 10
    assert horizons.main(["--resume", str(run.path), "--no-dashboard"]) == 0
    assert fingerprint(run) == fingerprint(undisturbed)


# -- other runs


def test_a_placebo_has_tables_and_no_bundle(
    ray_session: None, shards: Path, tmp_path: Path
) -> None:
    arguments = words(shards, tmp_path, "--placebo", "true", "--families", "ridge")
    assert horizons.main(arguments) == 0
    run = only_run(tmp_path)
    assert not run.bundle.exists()
    assert {r["passed"] for r in table(run, "checks")} == {"True"}


def test_a_cluster_model_is_trained_on_the_first_window(
    ray_session: None, shards: Path, tmp_path: Path
) -> None:
    more = "--cluster train --families cluster --window 12 --n-clusters 2 --signal-window 12"
    features = "cluster_score,cluster_gate,cluster_active,residual_consensus_60m"
    arguments = [*more.split(), "--epochs", "1", "--feature-list", features]
    assert horizons.main(words(shards, tmp_path, *arguments)) == 0
    run = only_run(tmp_path)
    assert (run.cluster / "model.safetensors").is_file()
    assert set(HorizonBundle.load(run.bundle).families) == {"cluster"}
    assert {r["passed"] for r in table(run, "checks")} == {"True"}


# -- mistakes of the user


@pytest.fixture
def refusal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """What is said when the command refuses: one line, code 2, before Ray is touched."""

    def refused(*arguments: object) -> str:
        assert horizons.main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    with monkeypatch.context() as patch:
        patch.setattr(horizons, "session", None)
        yield refused


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--families ridge,forest", "'forest' is not known"),
        ("--families cluster --cluster absent", "cluster needs a cluster model"),
        ("--feature-list return_scaled_5m,nothing", "'nothing' is not known"),
        ("--feature-list cluster_score", "cluster_score needs a cluster model"),
        ("--horizons 7m", "horizon 7m: 7 minutes are 1.4 bars"),
        ("--horizons 5m,300s", "'300s' is not understood"),
        ("--primary-horizon 60m", "horizon 60m is not forecast"),
        ("--reference-horizon 60m", "reference_horizon: 60m is not forecast"),
        ("--families ridge,cluster --cluster train", "'cluster' needs the feature cluster_score"),
        ("--barrier-minutes 33", "33 minutes are 6.6 bars"),
        ("--train-sessions 50", "50 to train and 1 to test make 51"),
        ("--interval 1m", "interval"),
        ("--coverage 2", "--coverage: '2' is not allowed"),
        ("--cluster nowhere", "nowhere"),
        ("--plugins absent.py", "absent.py"),
        ("--train-sesions 3", "unrecognized arguments"),
        ("--num-cpus 2 --address auto", "a running cluster has the cores it has"),
    ],
)
def test_a_bad_option_is_one_line(
    arguments: str, named: str, shards: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    assert named in refusal(*words(shards, tmp_path, *arguments.split()))
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--resume latest --horizons 5m", "--horizons: a resumed run keeps the settings"),
        ("--resume latest --families ridge", "--families: a resumed run keeps the settings"),
        ("--resume 1999", "no run is called '1999'"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_named(
    arguments: str, named: str, undisturbed: RunDirectory, refusal: Callable[..., str]
) -> None:
    storage = undisturbed.path.parent
    assert named in refusal("--storage", storage, *arguments.split())


def test_a_run_of_the_grid_is_resumed_elsewhere(
    copied: RunDirectory, refusal: Callable[..., str]
) -> None:
    manifest = copied.read_manifest()
    copied.write_manifest(manifest.model_copy(update={"kind": "grid"}))
    said = refusal("--resume", copied.path)
    assert "is a run of the grid" in said
    assert "tune/grid.py" in said


def test_a_run_made_by_other_code_is_not_mixed_silently(
    copied: RunDirectory, refusal: Callable[..., str]
) -> None:
    manifest = copied.read_manifest()
    copied.write_manifest(manifest.model_copy(update={"code_hash": "0" * 64}))
    assert "--accept-changed-code" in refusal("--resume", copied.path)


def test_stamps_of_bar_starts_are_told_from_closes(
    bars: Panel, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    """A table stamped with bar starts has a bar before the open and none at the close."""
    local = bars.times.tz_convert("America/New_York").tz_localize(None) - np.timedelta64(5, "m")
    frame = pd.DataFrame(bars.prices, local.rename("time"), list(bars.names))
    path = tmp_path / "bars.parquet"
    frame.to_parquet(path)
    said = refusal("--storage", tmp_path / "runs", "--data", path, "--stamps", "close", *SMALL)
    assert "09:30" in said or "13:30" in said or "stamps" in said
