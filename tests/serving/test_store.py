"""Rows that survive: against a dict, a killed writer, and damage by hand."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpa.errors import RunError
from dpa.serving.store import RowStore, pack, unpack

WRITER = """
import sys
from pathlib import Path
from dpa.serving.store import RowStore
store = RowStore(Path(sys.argv[1]), durable=sys.argv[2] == "durable")
for key in range(10**9):
    with store.transaction():
        store.append(key, b"%d" % key * 500)
        store.put("head", b"%d" % key)
    print(key, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "bars.sqlite"


def test_rows_come_back_in_order(path: Path) -> None:
    with RowStore(path, durable=False) as store:
        assert store.newest() is None
        assert store.last(3) == []
        for key in (5, 1, 9, -2):
            store.append(key, bytes([key % 256]))
        assert store.last(2) == [(5, b"\x05"), (9, b"\x09")]
        assert store.last(0) == []
        assert [key for key, _ in store.after(1)] == [5, 9]
        assert store.newest() == 9
        assert store.prune(3) == 1
        assert [key for key, _ in store.last(10)] == [1, 5, 9]
        assert store.prune(0) == 3
        assert store.newest() is None


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(-5, 5), st.binary(max_size=2)),
        st.tuples(st.just("prune"), st.integers(0, 4), st.just(b"")),
        st.tuples(st.just("reopen"), st.just(0), st.just(b"")),
        st.tuples(st.just("clear"), st.just(0), st.just(b"")),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None)
@given(operations)
def test_it_is_a_sorted_dict_that_refuses_changes(
    tmp_path_factory: pytest.TempPathFactory, done: list[tuple[str, int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("store") / "rows"
    store, oracle = RowStore(path, durable=False), dict[int, bytes]()
    for what, number, payload in done:
        if what == "append" and oracle.get(number, payload) != payload:
            with pytest.raises(RunError, match="other bytes"):
                store.append(number, payload)
        elif what == "append":
            store.append(number, payload)
            oracle[number] = payload
        elif what == "prune":
            store.prune(number)
            oracle = dict(sorted(oracle.items())[max(len(oracle) - number, 0) :])
        elif what == "clear":
            store.clear()
            oracle = {}
        else:
            store.close()
            store = RowStore(path, durable=False)
        assert store.last(99) == sorted(oracle.items())
    store.close()


def test_named_payloads_are_replaced(path: Path) -> None:
    with RowStore(path, durable=True) as store:
        assert store.get("state") is None
        store.put("state", b"one")
        store.put("state", b"two")
        assert store.get("state") == b"two"
        store.clear()
        assert store.get("state") is None


def test_a_transaction_is_kept_whole_or_not_at_all(path: Path) -> None:
    with RowStore(path, durable=False) as store:

        def fail_in_the_middle() -> None:
            with store.transaction():
                store.append(1, b"row")
                with store.transaction():
                    store.put("state", b"after row 1")
                raise KeyError

        with pytest.raises(KeyError):
            fail_in_the_middle()
        assert (store.newest(), store.get("state")) == (None, None)
        with store.transaction():
            store.append(1, b"row")
            store.put("state", b"after row 1")
        assert (store.newest(), store.get("state")) == (1, b"after row 1")


def test_a_refused_row_takes_nothing_back_that_was_kept_before(path: Path) -> None:
    with RowStore(path, durable=False) as store:
        store.append(1, b"row")
        store.append(1, b"row")
        with pytest.raises(RunError, match="other bytes for 1; what is on record"):
            store.append(1, b"another")
        assert store.last(9) == [(1, b"row")]


@pytest.mark.parametrize("durability", ["durable", "fast"])
def test_what_a_killed_writer_acknowledged_is_there(path: Path, durability: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), durability], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().splitlines() if line]
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    with RowStore(path, durable=True) as store:
        rows = store.last(10**6)
        assert [key for key, _ in rows] == list(range(len(rows)))
        assert len(rows) - len(acknowledged) in (0, 1)
        assert all(payload == b"%d" % key * 500 for key, payload in rows)
        assert store.get("head") == b"%d" % rows[-1][0]


def test_threads_take_turns(path: Path) -> None:
    with RowStore(path, durable=False) as store:

        def count(thread: int) -> None:
            for k in range(50):
                with store.transaction():
                    store.append(100 * thread + k, b"x")
                    done = int(store.get("count") or b"0")
                    store.put("count", b"%d" % (done + 1))

        threads = [threading.Thread(target=count, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.last(1000)) == 200
        assert store.get("count") == b"200"


def test_a_second_writer_is_refused_until_the_first_has_gone(path: Path) -> None:
    first = RowStore(path, durable=False)
    with pytest.raises(RunError, match="in use by another writer; stop the other service"):
        RowStore(path, durable=False, wait_seconds=0.05)
    letting_go = threading.Timer(0.1, first.close)
    letting_go.start()
    RowStore(path, durable=False).close()
    letting_go.join()
    with pytest.raises(RunError, match="open the store again"):
        first.newest()
    first.close()


def test_nobody_else_can_read_it(path: Path) -> None:
    with RowStore(path, durable=False) as store:
        store.append(1, b"row")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert set(modes) == {path.name + end for end in ("", "-wal", "-shm", ".lock")}
        assert set(modes.values()) == {0o600}
    assert {stat.S_IMODE(f.stat().st_mode) for f in (path.parent, path.parent.parent)} == {0o700}


def test_another_version_is_refused(path: Path) -> None:
    RowStore(path, durable=False).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(RunError, match=r"bars.sqlite: is a store of version 7, not 1; use the"):
        RowStore(path, durable=False)


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")
    database.close()
    with pytest.raises(RunError, match="version 0, not 1"):
        RowStore(path, durable=False)


def _filled(path: Path) -> None:
    with RowStore(path, durable=False) as store:
        for key in range(200):
            store.append(key, bytes(1000))


@pytest.mark.parametrize("what", ["text", "header", "middle", "cut"])
def test_damage_is_named_with_a_cure(path: Path, what: str) -> None:
    _filled(path)
    content = bytearray(path.read_bytes())
    if what == "text":
        content = bytearray(b"time,symbol,close\n" * 500)
    elif what == "header":
        content[:16] = bytes(16)
    elif what == "middle":
        content[8192:40960] = os.urandom(40960 - 8192)
    else:
        content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"bars.sqlite: is damaged \(.*\); put back a copy, or move"):
        RowStore(path, durable=False)
    _filled(path.with_name("another"))  # the lock of the damaged one holds nothing up


def test_a_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be opened \(Not a directory\); check"):
        RowStore(tmp_path / "file" / "rows", durable=False)
    (tmp_path / "rows").mkdir()
    with pytest.raises(RunError, match=r"cannot be opened \(Is a directory\); check"):
        RowStore(tmp_path / "rows", durable=False)


kinds = st.sampled_from(["float64", "float32", "int64", "int8", "bool"])
arrays = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    kinds.flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=4,
)
facts = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(arrays, facts)
def test_what_was_packed_comes_back(kept: dict, said: dict) -> None:
    packed = pack(kept, said)
    found, told = unpack(packed)
    assert told == said
    assert found.keys() == kept.keys()
    for name, array in kept.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
    assert pack(dict(reversed(kept.items())), dict(reversed(said.items()))) == packed


def test_arrays_in_any_layout_are_packed() -> None:
    grid = np.arange(24.0).reshape(2, 3, 4)
    found, told = unpack(pack({"turned": grid.T, "every": grid[:, ::2]}, {"nav": float("nan")}))
    np.testing.assert_array_equal(found["turned"], grid.T)
    np.testing.assert_array_equal(found["every"], grid[:, ::2])
    assert np.isnan(told["nav"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    packed = bytearray(pack({"a": np.arange(5.0)}, {"version": 1}))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RunError, match=r"bar 12: is damaged \(.*\); put back a copy"):
        unpack(bytes(packed), "bar 12")
    whole = pack({"a": np.arange(5.0)}, {"version": 1})
    with pytest.raises(RunError, match="damaged"):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])
