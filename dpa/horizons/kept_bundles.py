"""Bundles in a store: each has a name that is a hash of it, and is fetched once to a machine.

In the store of runs a promoted bundle lies in ``bundles/<name>/``; its manifest, which has the
SHA-256 of every other file, is written last. Here it is fetched to a folder beside the cache of
bundles, every file is checked, and the folder gets its name when all of it is right: a folder of
the cache is whole.

``s3://bucket/prefix/bundles/<name>#<name>`` pins a bundle: it can be sent to another node, and
means the same bundle whatever happens to the place, or is an error.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from dpa.errors import RunError
from dpa.horizons.bundle import MANIFEST, check_files, read_bundle_manifest
from dpa.stores.mirror import write_whole
from dpa.stores.places import cache_root
from dpa.stores.store import Store, StoreError, at_once

BUNDLES = "bundles"
ORIGIN = ".origin"
_SEEN: set[Path] = set()  # folders of the cache that this process has found whole
_CURE = "copy it again from where it was made, or promote it again"


def bundle_name(folder: Path) -> str:
    """Name of a bundle in a store: its version, and a hash of its manifest and so of its files."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return f"{read_bundle_manifest(folder).short}-{digest[:32]}"


def keep_bundle(folder: Path, store: Store) -> str:
    """Copy a verified bundle into a store; its key below `store`."""
    key = f"{BUNDLES}/{bundle_name(folder)}"
    kept = store.below(key)
    files = read_bundle_manifest(folder).files
    at_once(lambda name: kept.put_file(name, folder / name), files)
    kept.put_file(MANIFEST, folder / MANIFEST)
    return key


def fetch_bundle(store: Store, name: str = "") -> Path:
    """The folder on this machine of the bundle in a folder of a store.

    Parameters
    ----------
    store : Store
        Where the bundle lies.
    name : str
        Name of the bundle that is wanted; empty: whatever lies there.

    Raises
    ------
    RunError
        When there is no bundle, when it is not whole, was altered, or is another one.
    """
    cache = cache_root() / BUNDLES
    if name and _is_here(cache / name):
        return cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch.") as scratch:
        fresh = Path(scratch, "bundle")
        _get_manifest(store, fresh)
        found = bundle_name(fresh)
        if name and name != found:
            raise StoreError(f"{store}: is not bundle {name} any more", "promote it again")
        if not _is_here(cache / found):
            _get_files(store, fresh)
            write_whole(cache / f"{found}{ORIGIN}", str(store).encode())
            shutil.rmtree(cache / found, ignore_errors=True)  # damaged here
            try:
                os.rename(fresh, cache / found)
            except OSError:
                if not _is_here(cache / found):  # else another process was faster
                    raise
    return cache / found


def pinned(folder: Path) -> str:
    """What names a bundle on every node: its folder, or where in a store it was fetched from."""
    origin = folder.with_name(f"{folder.name}{ORIGIN}")
    if folder.parent != cache_root() / BUNDLES or not origin.is_file():
        return str(folder)
    return f"{origin.read_text(encoding='utf-8')}#{folder.name}"


def _is_here(folder: Path) -> bool:
    """Whether the cache has a bundle; looked at whole once, and whenever it is loaded.

    One that was changed since is fetched again.
    """
    if folder in _SEEN and folder.is_dir():
        return True
    try:
        check_files(folder, read_bundle_manifest(folder))
    except RunError:
        return False
    _SEEN.add(folder)
    return True


def _get_manifest(store: Store, fresh: Path) -> None:
    text = store.get(MANIFEST)
    if text is None:
        raise StoreError(f"{store}: no bundle here, or not all of it", "promote a bundle there")
    write_whole(fresh / MANIFEST, text)
    try:
        read_bundle_manifest(fresh)
    except RunError as e:
        raise StoreError(_said_of(store, fresh, e), e.cure) from e


def _get_files(store: Store, fresh: Path) -> None:
    manifest = read_bundle_manifest(fresh)

    def get(name: str) -> None:
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"{store}: names a file outside of it", _CURE)
        data = store.get(name)
        if data is None:
            raise StoreError(f"{store.below(name)}: is missing", _CURE)
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise StoreError(f"{store.below(name)}: was altered or cut short", _CURE)
        write_whole(fresh / name, data)

    at_once(get, manifest.files)


def _said_of(store: Store, fresh: Path, error: RunError) -> str:
    """What was found wrong here, with the name it has in the store."""
    return error.what.replace(str(fresh / MANIFEST), str(store.below(MANIFEST))).replace(
        str(fresh), str(store)
    )
