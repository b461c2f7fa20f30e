"""The grid in a store: the same bytes as on a path, wherever it dies and goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _trial
import grid
import pandas as pd
import pytest

from dpa import cli
from dpa.runs import RunDirectory, list_runs
from dpa.stores.lease import LEASE
from dpa.stores.places import Storage
from tests.s3_server import Bucket, new_bucket
from tests.tune.conftest import POINTS, REPOSITORY

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]
TRIALS = tuple(f"window-{w}_n_clusters-2_similarity_threshold-0.3" for w in (10, 12))
SMALL = ["--train-bars", "40", "--test-bars", "25", "--epochs", "1", "--no-dashboard"]
OF_THE_MACHINE = ["seconds", "peak_memory_mb"]  # columns
PATIENCE = 400.0  # seconds after which a subprocess counts as hung


def words(prices: Path, storage: object, *more: str) -> list[str]:
    return ["--storage", str(storage), "--data", str(prices), *POINTS, *SMALL, *more]


@pytest.fixture(scope="module")
def in_a_folder(ray_session, prices, tmp_path_factory) -> RunDirectory:
    storage = tmp_path_factory.mktemp("folder")
    assert grid.main(words(prices, storage)) == 0
    [run] = list_runs(storage)
    return run


def lose_the_node(marker: Path) -> Callable[[_trial.RollingTrial], dict[str, object]]:
    """Kills the process of window 10 after two folds, and takes its scratch folder away."""
    advance = _trial.RollingTrial._advance

    def lost(self: _trial.RollingTrial) -> dict[str, object]:
        result = advance(self)
        if self._trial.parameters["window"] == 10 and result["folds_done"] == 2:
            if not marker.exists():
                marker.write_text(str(self._kept.folder))
                shutil.rmtree(self._kept.folder)
                os.kill(os.getpid(), signal.SIGKILL)
            marker.with_suffix(".resumed").write_text("the second fold was done again")
        return result

    return lost


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The cache of a machine."""
    folder = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def kept(in_a_folder, machine, prices, s3_endpoint, tmp_path_factory, said) -> Bucket:
    """The bucket of a grid that lost a node."""
    found, marker = new_bucket(s3_endpoint), tmp_path_factory.mktemp("marker") / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_trial.RollingTrial, "_advance", lose_the_node(marker))
        patch.setattr(grid.Console, "print", lambda self, text, **_: said.append(str(text)))
        assert grid.main(words(prices, found.uri)) == 0
    assert marker.exists()
    assert not marker.with_suffix(".resumed").exists(), "a kept fold is not done again"
    return found


def the_run(bucket: Bucket) -> RunDirectory:
    [run] = list_runs(Storage.of(bucket.uri))
    return run


def same_results(run: RunDirectory, expected: RunDirectory) -> None:
    """Everything in the store is what it is in the folder, to the bit."""
    store = run.store
    assert store is not None
    for trial in TRIALS:
        for path in sorted(expected.trial(trial).rglob("*")):
            name = path.relative_to(expected.path).as_posix()
            if path.is_file() and path.name not in ("folds.csv", "summary.json"):
                assert store.get(name) == path.read_bytes(), name
    for name in ("best/model.safetensors", "best/manifest.json"):
        assert store.get(name) == (expected.path / name).read_bytes()
    for name in (run.results_csv.name, run.baselines_csv.name):
        (run.path / f"{name}.got").write_bytes(store.get(name) or b"")
        got = pd.read_csv(run.path / f"{name}.got", dtype=str).drop(columns=OF_THE_MACHINE)
        wanted = pd.read_csv(expected.path / name, dtype=str).drop(columns=OF_THE_MACHINE)
        assert got.to_csv() == wanted.to_csv()


def test_a_grid_that_lost_a_node_ends_as_in_a_folder(kept, in_a_folder, said) -> None:
    run = the_run(kept)
    assert run.status() == "complete"
    same_results(run, in_a_folder)
    assert "lost its process" in "\n".join(said)
    assert kept.below(f"{run.path.name}/report.html") in "\n".join(said)


def test_the_store_has_the_layout_of_the_folder(kept, in_a_folder) -> None:
    store = the_run(kept).store
    assert store is not None
    names = {name for name in store.sizes() if not name.rpartition("/")[2].startswith(".")}
    there = {p.relative_to(in_a_folder.path).as_posix() for p in in_a_folder.path.rglob("*")}
    assert {n for n in names if not n.startswith("tune/")} <= there
    assert {n.split("/")[0] for n in names} == {
        p.name for p in in_a_folder.path.iterdir() if p.name[0] != "."
    }
    assert any("events.out.tfevents" in name for name in names), "the curves are there too"
    assert LEASE not in store.sizes()


def test_no_secret_is_in_the_store_or_on_this_machine_or_said(kept, machine, said) -> None:
    files = [path.read_bytes() for path in machine.rglob("*") if path.is_file()]
    texts = [*kept.contents().values(), *files, "\n".join(said).encode()]
    assert len(texts) > 50
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert not any(os.environ[name].encode() in text for text in texts)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("list", "complete  2/2"),
        ("show latest", "kmeans_fixed"),
        ("report latest", "report.html"),
        ("compare latest latest", "best trial"),
        (f"promote latest {TRIALS[0]}", f"{TRIALS[0]} -> s3://"),
    ],
)
def test_runs_commands_from_another_machine(command, shown, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DPA_CACHE", str(tmp_path / "another"))
    before = kept.contents()
    try:
        assert cli.main(["runs", *command.split(), "--storage", kept.uri]) == 0
        assert shown in capsys.readouterr().out
    finally:
        for name in kept.contents().keys() - before.keys():
            kept.store.delete([name])
        for name, data in before.items():
            kept.store.put(name, data)


def test_an_interrupted_driver_is_resumed_on_another_machine(
    ray_session, in_a_folder, prices, bucket, tmp_path, monkeypatch, capsys
) -> None:
    """Nothing is left of the first: neither its cache nor the file that its bars came from."""
    command = [sys.executable, str(REPOSITORY / "tune" / "grid.py")]
    command += words(prices, bucket.uri, "--num-cpus", "1")
    pipe = subprocess.PIPE
    driver = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not any("/state/0" in name for name in bucket.store.sizes()):
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline, "no fold was kept"
            time.sleep(0.2)  # the server is in this process, and needs it too
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=PATIENCE)
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.communicate()
    assert driver.returncode == 130, out
    run = the_run(bucket)
    assert f"--resume {run.shown()}" in out.replace("'", "")
    assert "Traceback" not in out
    assert run.store is not None
    assert run.store.exists("report.html")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("DPA_CACHE", str(tmp_path / "another"))
    assert the_run(bucket).status() == "interrupted"
    away = prices.rename(prices.with_suffix(".away"))
    try:
        assert grid.main(["--resume", "latest", "--storage", bucket.uri, "--no-dashboard"]) == 0
    finally:
        away.rename(prices)
    same_results(the_run(bucket), in_a_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda uri: uri.replace("bucket-", "no-bucket-"), "there is no bucket"),
        (lambda uri: uri.replace("s3://", "s3://key:hunter2@"), "do not belong into a URI"),
        (lambda uri: "s3://b/runs?endpoint_override=127.0.0.1:1&scheme=http", "does not answer"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(change, message, bucket, prices, capsys) -> None:
    assert grid.main(words(prices, change(bucket.uri))) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert ";" in error, "there is a cure"
    assert "hunter2" not in error
