"""A folder in a store is whole, or what was there before."""

from pathlib import Path

import pytest

from dpa.stores.mirror import INDEX, Mirror
from dpa.stores.store import Store, StoreAway, StoreError
from tests.s3_server import Bucket


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_without_a_store_nothing_is_done(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "a")
    assert not mirror.pull()
    write(tmp_path / "a", one="1")
    mirror.push()
    mirror.discard()
    assert mirror.pull()
    assert contents(tmp_path) == {"a/one": "1"}


def test_what_is_pushed_is_pulled_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    here, there = Mirror(tmp_path / "a", bucket.store), Mirror(tmp_path / "b", bucket.store)
    assert not there.pull()
    write(here.folder, one="1", state__0001__model="m", **{".aside": "x"})
    here.push()
    assert there.pull()
    assert contents(there.folder) == {"one": "1", "state/0001/model": "m"}
    write(here.folder, state__0002__model="n")
    (here.folder / "state/0001/model").unlink()
    here.push()
    write(there.folder, stale="left by an earlier attempt")
    assert there.pull()
    assert contents(there.folder) == {"one": "1", "state/0002/model": "n"}
    assert not (there.folder / "state/0001").exists()
    assert set(bucket.store.sizes()) == {INDEX, "one", "state/0002/model"}


def test_only_what_differs_is_sent(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    put = Store.put
    monkeypatch.setattr(Store, "put", lambda self, k, d: (sent.append(k), put(self, k, d))[1])
    mirror = Mirror(tmp_path / "a", bucket.store)
    write(mirror.folder, one="1", two="2")
    mirror.push()
    mirror.push()
    write(mirror.folder, two="3")
    mirror.push()
    fresh = Mirror(tmp_path / "a", bucket.store)  # another process, which remembers nothing
    fresh.push()
    assert sent == ["one", "two", INDEX, "two", INDEX]


def test_some_files_are_kept_beside_the_others(bucket: Bucket, tmp_path: Path) -> None:
    write(tmp_path / "a", one="1")
    Mirror(tmp_path / "a", bucket.store).push()
    write(tmp_path / "b", error="e")
    Mirror(tmp_path / "b", bucket.store).push(["error"])
    there = Mirror(tmp_path / "c", bucket.store)
    there.pull()
    assert contents(there.folder) == {"one": "1", "error": "e"}
    there.discard()
    there.pull(lambda name: name == "error")
    assert contents(there.folder) == {"error": "e"}


@pytest.mark.parametrize("dies_at", range(1, 5))
def test_whoever_dies_while_pushing_leaves_the_folder_as_it_was(
    dies_at: int, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new state has new names; the index is replaced when all of it is there."""
    here = Mirror(tmp_path / "a", bucket.store)
    write(here.folder, state__1__model="old", state__1__book="old")
    here.push()
    before = contents(here.folder)
    write(here.folder, state__2__model="new", state__2__book="new")
    for name in ("model", "book"):
        (here.folder / "state/1" / name).unlink()
    after = contents(here.folder)
    put, delete, left = Store.put, Store.delete, [dies_at]

    def dying_put(store: Store, key: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise StoreAway("gone")
        put(store, key, data)

    def dying_delete(store: Store, keys: list[str]) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise StoreAway("gone")
        delete(store, keys)

    monkeypatch.setattr(Store, "put", dying_put)
    monkeypatch.setattr(Store, "delete", dying_delete)
    with pytest.raises(StoreAway):
        here.push()
    monkeypatch.undo()
    there = Mirror(tmp_path / "b", bucket.store)
    assert there.pull()
    assert contents(there.folder) == (after if dies_at == 4 else before)


def test_an_altered_or_missing_object_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    write(tmp_path / "a", one="1", two="2")
    Mirror(tmp_path / "a", bucket.store).push()
    bucket.store.put("one", b"x")
    there = Mirror(tmp_path / "b", bucket.store)
    with pytest.raises(StoreError, match=r"one.*was altered or cut short"):
        there.pull()
    assert "one" not in contents(there.folder)
    bucket.store.delete(["one"])
    with pytest.raises(StoreError, match=r"one.*is missing"):
        there.pull()


@pytest.mark.parametrize("text", ["", "{}", '{"files": {"../x": [1, "a"]}}', '{"files": [1]}'])
def test_what_is_no_index_is_refused(text: str, bucket: Bucket, tmp_path: Path) -> None:
    bucket.store.put(INDEX, text.encode())
    with pytest.raises(StoreError, match="index"):
        Mirror(tmp_path / "a", bucket.store).pull()
