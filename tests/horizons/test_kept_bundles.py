"""Bundles in a store: fetched once, whole or not at all, and never another than was asked for."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from dpa import cli
from dpa.errors import RunError
from dpa.horizons.bundle import MANIFEST, HorizonBundle
from dpa.horizons.kept_bundles import BUNDLES, fetch_bundle, pinned
from dpa.horizons.promotion import POINTER, find_bundle, promote_bundle
from dpa.stores.mirror import write_whole
from dpa.stores.places import Storage
from dpa.stores.store import Store, StoreAway, StoreError
from tests.horizons.small_run import CLOCK
from tests.s3_server import Bucket

ABSENT = Path("there is no storage here")


@pytest.fixture
def promoted(bucket: Bucket, bundle_folder: Path) -> Bucket:
    """A store with a promoted bundle."""
    pointer = promote_bundle(bundle_folder, bucket_storage(bucket), CLOCK, "hand")
    assert str(pointer) == bucket.below(POINTER)
    return bucket


def bucket_storage(bucket: Bucket) -> Storage:
    return Storage.of(bucket.uri)


def elsewhere(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """From now on this is another machine."""
    monkeypatch.setenv("DPA_CACHE", str(cache))


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def the_bundle(bucket: Bucket) -> Store:
    [name] = bucket.store.folders(BUNDLES)
    return bucket.store.below(f"{BUNDLES}/{name}")


def test_it_is_loaded_on_another_machine_and_fetched_once(
    promoted: Bucket, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch, tmp_path / "other")
    folder = find_bundle(promoted.uri, ABSENT)
    assert folder.is_relative_to(tmp_path / "other")
    assert files_of(folder) == files_of(bundle_folder)
    assert HorizonBundle.load(folder).manifest == HorizonBundle.load(bundle_folder).manifest
    asked: list[str] = []
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, key: (asked.append(key), get(self, key))[1])
    assert find_bundle("promoted", bucket_storage(promoted)) == folder
    assert asked == [POINTER], "the pointer is read, the bundle is here"
    assert find_bundle(str(the_bundle(promoted)), ABSENT) == folder
    assert asked[1:] == [MANIFEST, MANIFEST]


def test_a_pinned_bundle_needs_no_store_once_it_is_here(
    promoted: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_bundle(promoted.uri, ABSENT)
    name = pinned(folder)
    assert name == f"{the_bundle(promoted)}#{folder.name}"
    assert pinned(Path("/runs/a/bundle")) == "/runs/a/bundle"

    def away(self: Store, key: str) -> bytes:
        raise StoreAway("gone")

    monkeypatch.setattr(Store, "get", away)
    assert find_bundle(name, ABSENT) == folder
    with pytest.raises(StoreAway):
        find_bundle(promoted.uri, ABSENT)


def test_a_pinned_bundle_is_that_bundle_or_none(
    promoted: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_another
) -> None:
    name = pinned(find_bundle(promoted.uri, ABSENT))
    write_another(tmp_path / "b", data_fingerprint="another")
    kept = the_bundle(promoted)
    for path, data in files_of(tmp_path / "b").items():
        kept.put(path, data)
    elsewhere(monkeypatch, tmp_path / "other")
    with pytest.raises(StoreError, match=r"is not bundle .* any more"):
        find_bundle(name, ABSENT)


@pytest.mark.parametrize("how", ["altered", "cut", "missing", "without manifest", "manifest"])
def test_half_a_bundle_is_refused_and_nothing_of_it_stays(
    how: str, promoted: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = the_bundle(promoted)
    weights = kept.get("stacker.safetensors") or b""
    if how == "altered":
        kept.put("stacker.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    elif how == "cut":
        kept.put("stacker.safetensors", weights[:-1])
    elif how == "missing":
        kept.delete(["stacker.safetensors"])
    elif how == "without manifest":
        kept.delete([MANIFEST])
    else:
        kept.put(MANIFEST, (kept.get(MANIFEST) or b"").replace(b"ridge", b"bridge", 1))
    elsewhere(monkeypatch, tmp_path / "other")
    words = {
        "altered": r"stacker.safetensors.*: was altered or cut short",
        "cut": r"stacker.safetensors.*: was altered or cut short",
        "missing": r"stacker.safetensors.*: is missing",
        "without manifest": "no bundle here, or not all of it",
        "manifest": r"manifest.json.*: was altered",
    }
    with pytest.raises(RunError, match=words[how]) as caught:
        find_bundle(promoted.uri, ABSENT)
    assert caught.value.cure
    assert str(tmp_path) not in str(caught.value), "it is named where it is kept"
    left = [path.name for path in (tmp_path / "other" / BUNDLES).iterdir()]
    assert left == []


def test_whoever_dies_while_promoting_leaves_what_was_promoted(
    promoted: Bucket, bundle_folder: Path, tmp_path: Path, monkeypatch, write_another
) -> None:
    write_another(tmp_path / "b", data_fingerprint="another")
    put = Store.put

    def dying(store: Store, key: str, data: bytes) -> None:
        if key == MANIFEST:
            raise StoreAway("gone")
        put(store, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", dying)
        with pytest.raises(StoreAway):
            promote_bundle(tmp_path / "b", bucket_storage(promoted), CLOCK, "hand")
    elsewhere(monkeypatch, tmp_path / "other")
    assert files_of(find_bundle(promoted.uri, ABSENT)) == files_of(bundle_folder)


def test_a_copy_here_that_was_changed_is_fetched_again(
    promoted: Bucket, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_bundle(promoted.uri, ABSENT)
    (folder / "stacker.safetensors").write_bytes(b"")
    monkeypatch.setattr("dpa.horizons.kept_bundles._SEEN", set())  # another process
    assert files_of(find_bundle(promoted.uri, ABSENT)) == files_of(bundle_folder)


def test_a_bundle_that_names_files_outside_is_refused(
    bucket: Bucket, bundle_folder: Path, tmp_path: Path
) -> None:
    forged = Path(shutil.copytree(bundle_folder, tmp_path / "forged"))
    content = json.loads((forged / MANIFEST).read_text())
    content.pop("seal")
    content["files"]["../../evil"] = hashlib.sha256(b"evil").hexdigest()
    seal = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    write_whole(forged / MANIFEST, json.dumps(content | {"seal": seal}).encode())
    store = bucket.store.below("forged")
    for path, data in files_of(forged).items():
        store.put(path, data)
    with pytest.raises(StoreError, match="names a file outside of it"):
        fetch_bundle(store)


def test_dpa_bundle_reads_and_promotes_in_a_store(
    bucket: Bucket, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--storage", bucket.uri]
    assert cli.main(["bundle", "show", "promoted", *place]) == 2
    assert "no bundle is promoted under s3://" in capsys.readouterr().err
    assert cli.main(["bundle", "promote", str(bundle_folder), *place]) == 0
    assert "promoted-bundle.json" in capsys.readouterr().out
    assert cli.main(["bundle", "show", "promoted", *place]) == 0
    shown = capsys.readouterr().out
    assert str(the_bundle(bucket)) in shown
    assert cli.main(["bundle", "list", *place]) == 0
    assert "*  bundles/" in capsys.readouterr().out
    assert cli.main(["bundle", "verify", bucket.uri]) == 0
    assert ": good" in capsys.readouterr().out
