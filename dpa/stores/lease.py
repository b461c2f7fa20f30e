"""Who drives a run that lies in a store: a lease, for a store has no locks.

pyarrow can not write an object on a condition, so this is no mutual exclusion. A driver writes
``.lease.json`` with its name and writes it again every 20 s. Another driver refuses while the lease
is younger than 90 s, by the clock of the store: no two clocks are compared. Two that begin within
the same moment may both start; the one whose lease was replaced sees it at its next renewal, at
most 20 s later, and is interrupted. What both have written by then is the same, since folds are
deterministic. A driver that was killed is waited for, 90 s, unless it ran on this machine, whose
own lock tells that it is gone.
"""

import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dpa.errors import DpaError
from dpa.stores.places import cache_root
from dpa.stores.store import Store, StoreError

LEASE = ".lease.json"
RENEW_SECONDS, STALE_SECONDS = 20.0, 90.0


def owner_name() -> str:
    """A name for whoever works in this machine's cache; made once."""
    path = cache_root() / "owner"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return path.read_text(encoding="utf-8")


def holder(store: Store) -> dict[str, str] | None:
    """Who holds the lease of a run: ``owner``, ``host``; none when nobody does."""
    text = store.get(LEASE)
    try:
        content = json.loads(text) if text else None
        return None if content is None else {key: str(content[key]) for key in ("owner", "host")}
    except (ValueError, LookupError, TypeError):
        return {"owner": "?", "host": "?"}


def driven_elsewhere(store: Store) -> bool:
    """Whether a driver of another machine holds the lease, and has renewed it lately."""
    found = holder(store)
    if found is None or found["owner"] == owner_name():
        return False
    age = store.age(LEASE)
    return age is not None and age < STALE_SECONDS


@contextmanager
def leased(store: Store) -> Iterator[None]:
    """Hold the lease of a run; the caller holds the lock of its folder on this machine already.

    Raises
    ------
    StoreError
        When another driver holds it.
    """
    if driven_elsewhere(store):
        found = holder(store) or {"host": "?"}
        raise StoreError(
            f"{store} is being written by a driver on {found['host']}",
            f"wait for it, or stop it; {STALE_SECONDS:.0f} s after it has died this works",
        )
    mine = owner_name()
    content = json.dumps({"owner": mine, "host": socket.gethostname()}).encode()
    store.put(LEASE, content)
    if not renew(store, mine, content):
        raise StoreError(f"{store} was taken by another driver", "wait for it, or stop it")
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(store, mine, content, ended), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(DpaError):  # what ends the run is to be told, not this; the lease gets old
            if (holder(store) or {}).get("owner") == mine:
                store.delete([LEASE])


def _renew(store: Store, mine: str, content: bytes, ended: threading.Event) -> None:
    """Write the lease again and again; interrupt this program when another driver has taken it."""
    while not ended.wait(RENEW_SECONDS):
        try:
            if not renew(store, mine, content):
                os.kill(os.getpid(), signal.SIGINT)
                return
        except DpaError:  # the store is away: trials wait for it too, and say so
            continue


def renew(store: Store, mine: str, content: bytes) -> bool:
    """Write the lease again if it is still ours; whether it was."""
    found = holder(store)
    if found is not None and found["owner"] != mine:
        return False
    store.put(LEASE, content)
    return True
