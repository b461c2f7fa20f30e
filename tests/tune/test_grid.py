"""The grid on a real Ray session: what it leaves, and what survives killed processes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _trial
import _work
import grid
import pytest
import ray

from dpa import cli
from dpa.research.trials import TrialRun
from dpa.runs import RunDirectory, list_runs
from tests.tune.conftest import POINTS, REPOSITORY, SMALL

pytestmark = pytest.mark.ray
TRIALS = tuple(f"window-{w}_n_clusters-2_similarity_threshold-0.3" for w in (10, 12))
BYTES_THAT_COUNT = ("returns.parquet", "weights.parquet", "clusters.parquet")
PATIENCE = 120.0  # seconds after which a subprocess counts as hung


def words(prices: Path, storage: Path, *more: str) -> list[str]:
    return ["--storage", str(storage), "--data", str(prices), *POINTS, *SMALL, *more]


def only_run(storage: Path) -> RunDirectory:
    [run] = list_runs(storage)
    return run


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["trial_id"]: row for row in csv.DictReader(stream)}


def results(run: RunDirectory, trial: str) -> dict[str, bytes]:
    folder = run.trial(trial)
    files = [*BYTES_THAT_COUNT, "checkpoint/model.safetensors"]
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def undisturbed(
    ray_session: None,
    prices: Path,
    tmp_path_factory: pytest.TempPathFactory,
    said: dict[str, str],
) -> RunDirectory:
    storage = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(grid.Console, "print", lambda self, text, **_: lines.append(str(text)))
        assert grid.main(words(prices, storage)) == 0
    said["undisturbed"] = "\n".join(lines)
    return only_run(storage)


def test_a_run_leaves_the_agreed_files(undisturbed: RunDirectory) -> None:
    names = {p.name for p in undisturbed.path.iterdir() if not p.name.startswith(".")}
    assert names == {
        "manifest.json",
        "grid_search_results.csv",
        "baselines.csv",
        "report.html",
        "best",
        "trials",
        "baselines",
        "tune",
    }
    assert undisturbed.trial_names() == sorted(TRIALS)
    assert (undisturbed.best / "model.safetensors").is_file()
    assert undisturbed.read_manifest().status == "complete"
    curves = list(undisturbed.tune.rglob("events.out.tfevents*"))
    assert {path.parent.name for path in curves} == set(TRIALS)


def test_the_table_has_a_row_a_trial_and_a_column_an_axis(undisturbed: RunDirectory) -> None:
    rows = rows_of(undisturbed.results_csv)
    assert set(rows) == set(TRIALS)
    for row in rows.values():
        assert row["status"] == "done"
        assert row["similarity_threshold"] == "0.3"
        assert int(row["folds"]) == len(undisturbed.read_manifest().folds)
        assert float(row["net_sharpe"]) == float(row["net_sharpe"])
    baselines = rows_of(undisturbed.baselines_csv)
    assert {row["status"] for row in baselines.values()} == {"done"}
    assert set(baselines) == {"equal_weight", "kmeans_fixed", "pca_sscore"}


def test_the_best_trial_is_promoted(undisturbed: RunDirectory) -> None:
    rows = rows_of(undisturbed.results_csv)
    best = max(rows, key=lambda name: float(rows[name]["net_sharpe"]))
    assert json.loads((undisturbed.best / "promoted.json").read_text())["trial_id"] == best


def test_progress_and_closing_words(undisturbed: RunDirectory, said: dict[str, str]) -> None:
    text = said["undisturbed"]
    folds = 2 * len(undisturbed.read_manifest().folds)
    assert f"trials 2/2, folds {folds}/{folds}" in text
    assert "best net Sharpe so far" in text
    assert "2 of 2 trials finished" in text
    assert "kmeans_fixed" in text
    assert str(undisturbed.report) in text


def test_trials_and_baselines_log_with_the_run_they_belong_to(undisturbed: RunDirectory) -> None:
    files = list((undisturbed.path.parent / "logs").glob("*.jsonl"))
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    of_run = [line for line in lines if line.get("run_id") == undisturbed.path.name]
    assert {line["process"] for line in of_run} == {"grid", "trial", "baseline"}
    assert {line.get("trial") for line in of_run} >= set(TRIALS)
    assert any(line["message"].endswith("folds done") for line in of_run)


def test_shards_are_written_once_for_all_runs(undisturbed: RunDirectory) -> None:
    data = undisturbed.read_manifest().data
    assert Path(data.shards).parent == undisturbed.path.parent / ".cache" / "shards"
    assert data.fingerprint.startswith(Path(data.shards).name)


def disturb(marker: Path) -> Callable[[_trial.RollingTrial], dict[str, object]]:
    """Kills the process of window 10 once and of window 9 always; lets window 8 raise."""
    advance = _trial.RollingTrial._advance

    def disturbed(self: _trial.RollingTrial) -> dict[str, object]:
        window = self._trial.parameters["window"]
        if window == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        result = advance(self)
        if window == 10 and result["folds_done"] == 3 and not marker.exists():
            marker.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        if window == 8 and result["folds_done"] == 2:
            raise ValueError("a defect of this trial")
        return result

    return disturbed


def failing_baseline() -> Callable[..., None]:
    def fail(name: str, *others: object) -> None:
        raise RuntimeError(f"a defect of {name}")

    return fail


@pytest.fixture(scope="module")
def disturbed(
    undisturbed: RunDirectory, prices: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    storage = tmp_path_factory.mktemp("disturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_trial.RollingTrial, "_advance", disturb(storage / "killed"))
        patch.setattr(_work, "DEATHS_FORGIVEN", 1)
        patch.setattr(_trial, "finish_baseline", failing_baseline())
        remote = ray.remote(_trial.baseline_task._function)  # sent anew, with what it now calls
        patch.setattr(_work, "baseline_task", remote)
        assert grid.main(words(prices, storage, "--window", "10,8,12,9")) == 0
    assert (storage / "killed").exists()
    return only_run(storage)


@pytest.mark.parametrize("trial", TRIALS)
def test_a_killed_trial_ends_as_if_undisturbed(
    trial: str, disturbed: RunDirectory, undisturbed: RunDirectory
) -> None:
    assert results(disturbed, trial) == results(undisturbed, trial)


def test_a_trial_that_raises_is_a_row_with_its_error(disturbed: RunDirectory) -> None:
    name = "window-8_n_clusters-2_similarity_threshold-0.3"
    row = rows_of(disturbed.results_csv)[name]
    assert (row["status"], row["error"]) == ("failed", "ValueError: a defect of this trial")
    assert row["net_sharpe"] == ""
    assert "Traceback" in (disturbed.trial(name) / "error.txt").read_text()


def test_a_trial_that_always_dies_is_given_up_and_is_a_row(disturbed: RunDirectory) -> None:
    row = rows_of(disturbed.results_csv)["window-9_n_clusters-2_similarity_threshold-0.3"]
    assert row["status"] == "failed"
    assert "died" in row["error"] or "killed" in row["error"]


def test_a_baseline_that_raises_is_a_row_with_its_error(disturbed: RunDirectory) -> None:
    row = rows_of(disturbed.baselines_csv)["pca_sscore"]
    assert (row["status"], row["error"]) == ("failed", "RuntimeError: a defect of pca_sscore")


@pytest.fixture
def driver(prices: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``python tune/grid.py`` in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(REPOSITORY / "tune" / "grid.py"), *arguments]
        pipe = subprocess.PIPE
        environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        process = subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environ
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_folds(process: subprocess.Popen[str], storage: Path, folds: int) -> None:
    """Wait until some trial of the run under `storage` has saved that many folds."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(p.name) >= folds for p in storage.glob("*/trials/*/state/[0-9]*")):
            return
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"the grid did not get to fold {folds}:\n{process.communicate()[0]}")


@pytest.mark.long
def test_interrupted_and_killed_drivers_are_resumed_to_the_same_results(
    undisturbed: RunDirectory,
    prices: Path,
    tmp_path: Path,
    driver: Callable[..., subprocess.Popen[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = driver(*words(prices, tmp_path, "--num-cpus", "1"))
    wait_for_folds(first, tmp_path, 1)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, out
    run = only_run(tmp_path)
    assert f"--resume {run.path}" in out
    assert "Traceback" not in out
    assert run.status() == "interrupted"
    assert run.report.is_file()
    assert "incomplete" in {row["status"] for row in rows_of(run.results_csv).values()}

    second = driver("--resume", str(run.path), "--num-cpus", "1", "--no-dashboard")
    wait_for_folds(second, tmp_path, 3)
    second.kill()
    second.communicate(timeout=PATIENCE)
    assert run.read_manifest().status == "running"
    assert run.status() == "interrupted"

    assert grid.main(["--resume", str(run.path), "--reuse-actors", "--no-dashboard"]) == 0
    assert run.status() == "complete"
    for trial in TRIALS:
        assert results(run, trial) == results(undisturbed, trial)
    assert rows_of(run.baselines_csv).keys() == rows_of(undisturbed.baselines_csv).keys()


def test_a_finished_run_can_be_resumed_again_and_nothing_is_redone(
    undisturbed: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {t: (undisturbed.trial(t) / "summary.json").stat().st_mtime_ns for t in TRIALS}
    assert grid.main(["--resume", str(undisturbed.path), "--no-dashboard"]) == 0
    after = {t: (undisturbed.trial(t) / "summary.json").stat().st_mtime_ns for t in TRIALS}
    assert after == before


@pytest.mark.parametrize("change", [{"code_hash": "0" * 64}, {"libraries": {"torch": "0.1"}}])
def test_a_run_made_by_other_code_is_not_mixed_silently(
    change: dict[str, Any], undisturbed: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = undisturbed.read_manifest()
    undisturbed.write_manifest(manifest.model_copy(update=change))
    try:
        assert grid.main(["--resume", str(undisturbed.path)]) == 2
        assert "--accept-changed-code" in capsys.readouterr().err
    finally:
        undisturbed.write_manifest(manifest)


def test_a_run_in_use_is_refused(
    undisturbed: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with undisturbed.lock():
        assert grid.main(["--resume", str(undisturbed.path)]) == 2
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("list", "complete  2/2"),
        ("show latest", "kmeans_fixed"),
        ("promote latest {trial}", "{trial} -> "),
        ("report latest", "report.html"),
        ("compare latest latest", "best trial"),
    ],
)
def test_runs_commands(
    command: str,
    shown: str,
    undisturbed: RunDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(undisturbed.path, tmp_path / undisturbed.path.name)  # promoting changes it
    typed = command.format(trial=TRIALS[0]).split()
    assert cli.main(["runs", *typed, "--storage", str(tmp_path)]) == 0
    assert shown.format(trial=TRIALS[0]) in capsys.readouterr().out


def test_a_trial_is_shown_by_its_parameters_and_asks_for_its_resources(
    undisturbed: RunDirectory,
) -> None:
    plan = grid.plan_resumed(str(undisturbed.path), Path("runs"), True)
    trials = {trial.trial_id: trial for trial in plan.trials}
    work = _trial.Work(undisturbed, plan.history.in_memory(), plan.history.last_bar, trials)
    shown = _trial.RollingTrial.__new__(_trial.RollingTrial)
    shown.setup({"point": {"trial_id": TRIALS[0]}}, work)
    assert repr(shown) == "RollingTrainer | window=10 n_clusters=2 similarity_threshold=0.3"
    assert shown.reset_config({"point": {"trial_id": TRIALS[1]}})
    assert "window=12" in repr(shown)
    request = _trial.RollingTrial.default_resource_request
    assert request({}).bundles == [{"CPU": 1.0}]
    assert request({"gpus_per_trial": 0.25}).bundles == [{"CPU": 1.0, "GPU": 0.25}]


def test_a_trial_run_knows_it_is_done(undisturbed: RunDirectory) -> None:
    plan = grid.plan_resumed(str(undisturbed.path), Path("runs"), True)
    trial = plan.trials[0]
    again = TrialRun(
        trial, plan.history.in_memory(), undisturbed.trial(trial.trial_id), plan.history.last_bar
    )
    assert again.done
    assert again.advance() is None
    assert again.folds_done == len(trial.folds)
