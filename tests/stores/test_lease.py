"""Two drivers of one run in a store: the second is refused, as far as a lease can."""

import signal
import threading
from pathlib import Path

import pytest

from dpa.errors import RunError
from dpa.stores import lease
from dpa.stores.store import Store
from tests.s3_server import Bucket


def move(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("DPA_CACHE", str(cache))


def test_a_run_driven_elsewhere_is_refused_until_the_lease_is_old(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bucket.store
    with lease.leased(store):
        assert not lease.driven_elsewhere(store), "this machine's own lock tells better"
        move(monkeypatch, tmp_path / "other")
        assert lease.driven_elsewhere(store)
        with (
            pytest.raises(RunError, match=r"is being written by a driver on .*; wait for it"),
            lease.leased(store),
        ):
            pytest.fail("two drivers")
        monkeypatch.setattr(lease, "STALE_SECONDS", -1.0)  # as if its driver had died long ago
        assert not lease.driven_elsewhere(store)
        with lease.leased(store):
            assert lease.holder(store) == {
                "owner": lease.owner_name(),
                "host": lease.socket.gethostname(),
            }
    assert store.sizes() == {}


def test_whoever_has_lost_the_lease_is_interrupted(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, interrupted = bucket.store, threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
        with lease.leased(store):
            store.put(lease.LEASE, b'{"owner": "another", "host": "there"}')
            assert interrupted.wait(30)
        assert (lease.holder(store) or {})["owner"] == "another", "it is not ours to remove"
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_lease_is_renewed_while_it_is_held(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = threading.Semaphore(0)
    put = Store.put

    def counting(store: Store, key: str, data: bytes) -> None:
        put(store, key, data)
        renewed.release()

    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(Store, "put", counting)
    with lease.leased(bucket.store):
        for _ in range(4):
            assert renewed.acquire(timeout=30)
