"""Runs in a store: found, locked and told apart as in a folder."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dpa.clock import FixedClock
from dpa.config import Settings
from dpa.errors import RunError
from dpa.runs import DataDescription, RunDirectory, find_run, list_runs, new_manifest
from dpa.stores import lease
from dpa.stores.places import Storage
from tests.s3_server import Bucket

CLOCK = FixedClock(datetime(2026, 3, 1, 12, 30, tzinfo=UTC))


def create(storage: Storage) -> RunDirectory:
    data = DataDescription(
        source="prices.parquet",
        fingerprint="f" * 64,
        shards="",
        n_bars=100,
        names=("A", "B"),
        interval="1d",
        calendar="XNYS",
        first_bar=CLOCK.now(),
        last_bar=CLOCK.now(),
    )
    return RunDirectory.create(storage, new_manifest(Settings(), {}, data, (), 1, (), CLOCK))


@pytest.fixture
def run(bucket: Bucket) -> RunDirectory:
    return create(Storage.of(bucket.uri))


def test_a_run_is_found_from_another_machine(
    run: RunDirectory, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPA_CACHE", str(tmp_path / "another"))
    storage = Storage.of(bucket.uri)
    for reference in ("latest", run.path.name, run.path.name[:10], run.shown()):
        found = find_run(reference, storage if reference != run.shown() else Path("runs"))
        assert found.store == run.store
        assert found.path != run.path
        assert found.read_manifest() == run.read_manifest()
    with pytest.raises(RunError, match="no run is called 'other' under s3://"):
        find_run("other", storage)
    assert [each.path.name for each in list_runs(storage)] == [run.path.name]


def test_a_run_that_is_there_is_not_begun_again(
    run: RunDirectory, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPA_CACHE", str(tmp_path / "another"))
    with pytest.raises(RunError, match=r"s3://.* exists already"):
        create(Storage.of(bucket.uri))


def test_who_drives_it_is_seen_from_another_machine(
    run: RunDirectory, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.of(bucket.uri)
    with run.lock():
        run.set_status("running")
        assert run.status() == "running"
        with monkeypatch.context() as patch:
            patch.setenv("DPA_CACHE", str(tmp_path / "another"))
            seen = find_run("latest", Storage.of(bucket.uri))
            assert seen.status() == "running"
            with pytest.raises(RunError, match="by a driver on"), seen.lock():
                pytest.fail("two drivers")
            patch.setattr(lease, "STALE_SECONDS", -1.0)
            assert seen.status() == "interrupted"
    assert find_run("latest", storage).status() == "interrupted"


def test_a_driver_killed_on_this_machine_need_not_be_waited_for(run: RunDirectory) -> None:
    with run.lock():
        assert run.store is not None
        left = run.store.get(lease.LEASE)
    assert left is not None
    run.store.put(lease.LEASE, left)  # as a killed driver leaves it
    run.set_status("running")
    assert run.status() == "interrupted"
    with run.lock():
        pass
