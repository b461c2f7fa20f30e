"""Which bundle is served: a pointer in the storage of runs, and how people name bundles."""

import json
import os
from pathlib import Path
from typing import Literal

from dpa.clock import Clock
from dpa.errors import RunError
from dpa.horizons.bundle import MANIFEST, HorizonBundle, read_bundle_manifest
from dpa.horizons.kept_bundles import fetch_bundle, keep_bundle
from dpa.runs import find_run, write_atomically
from dpa.stores.places import Storage
from dpa.stores.store import is_uri

POINTER = "promoted-bundle.json"


def promote_bundle(
    folder: Path, storage: Path | Storage, clock: Clock, by: Literal["hand", "run"]
) -> Path | str:
    """Make a verified bundle the one that is served: a pointer, replaced atomically.

    Parameters
    ----------
    folder : Path
        The bundle; it stays where it is. A store gets a copy of it, before the pointer.
    storage : Path or Storage
        Receives ``promoted-bundle.json``.
    clock : Clock
    by : {"hand", "run"}
        A person's choice, which a finished run never overrides; or the newest run's.

    Returns
    -------
    Path or str
        The pointer; in a store its URI.

    Raises
    ------
    RunError
        When the bundle does not verify; the old pointer stays.
    """
    bundle = HorizonBundle.load(folder)
    place = Storage.of(storage)
    if place.store is not None:
        where = keep_bundle(folder, place.store)
    else:
        where = str(folder.resolve())
        if folder.resolve().is_relative_to(place.path.resolve()):
            where = os.path.relpath(folder.resolve(), place.path.resolve())
    content = {
        "bundle": where,
        "fingerprint": bundle.manifest.fingerprint,
        "promoted_at": clock.now().isoformat(),
        "promoted_by": by,
    }
    text = json.dumps(content, indent=2) + "\n"
    if place.store is not None:
        place.store.put(POINTER, text.encode())
        return str(place.store.below(POINTER))
    place.path.mkdir(parents=True, exist_ok=True)
    write_atomically(place.path / POINTER, text)
    return place.path / POINTER


def read_pointer(storage: Path | Storage) -> dict[str, str] | None:
    """What the pointer of `storage` says; none when no bundle is promoted.

    Raises
    ------
    RunError
        When it is damaged.
    """
    place = Storage.of(storage)
    path = place.path / POINTER
    try:
        if place.store is None:
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            path, text = Path(POINTER), place.store.get(POINTER)
            if text is None:
                return None
            content = json.loads(text)
        fields = ("bundle", "fingerprint", "promoted_at", "promoted_by")
        return {name: str(content[name]) for name in fields}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(f"{path}: cannot be read", "promote a bundle again") from e


def find_bundle(reference: str, storage: Path | Storage) -> Path:
    """The folder on this machine of the bundle that a reference names.

    Parameters
    ----------
    reference : str
        A bundle's folder, a run with one, or ``promoted``; or in a store, by its URI, a bundle, a
        run with one, or a storage of runs, of which the promoted one is meant. What lies in a
        store is fetched, once.
    storage : Path or Storage
        Where a run, or what is promoted, is looked up.

    Raises
    ------
    RunError
        When there is no such bundle.
    """
    if is_uri(reference):
        return _find_in_store(reference)
    storage = Storage.of(storage)
    if (Path(reference) / MANIFEST).is_file() and _is_bundle(Path(reference)):
        return Path(reference).resolve()
    if reference == "promoted":
        pointer = read_pointer(storage)
        if pointer is None:
            raise RunError(f"no bundle is promoted under {storage}", "see 'dpa bundle promote'")
        if storage.store is not None:
            folder = fetch_bundle(storage.store.below(pointer["bundle"]), _kept_name(pointer))
        else:
            folder = (storage.path / pointer["bundle"]).resolve()
        if read_bundle_manifest(folder).fingerprint != pointer["fingerprint"]:
            raise RunError(f"{folder}: is not the bundle that was promoted", "promote it again")
        return folder
    run = find_run(reference, storage)
    if run.store is not None:
        return fetch_bundle(run.store.below(run.bundle.name))
    folder = run.bundle
    if not (folder / MANIFEST).is_file():
        raise RunError(
            f"{folder.parent.name}: has no bundle", "give a finished run of tune/horizons.py"
        )
    return folder


def _find_in_store(reference: str) -> Path:
    uri, _, name = reference.partition("#")
    place = Storage.of(uri)
    store = place.store
    if store is None:
        raise RunError(f"{uri}: is no store", "give s3://bucket/prefix")
    if name:
        return fetch_bundle(store, name)
    text = store.get(MANIFEST)
    if text is None:
        if read_pointer(place) is None:
            raise RunError(f"{store}: no bundle is here, and none promoted", "promote one there")
        return find_bundle("promoted", place)
    return fetch_bundle(store if _is_bundle_text(text) else store.below("bundle"))


def _kept_name(pointer: dict[str, str]) -> str:
    return pointer["bundle"].rpartition("/")[2]


def _is_bundle(folder: Path) -> bool:
    try:
        return _is_bundle_text((folder / MANIFEST).read_bytes())
    except OSError:
        return True  # let loading say what is wrong


def _is_bundle_text(text: bytes) -> bool:
    try:
        content = json.loads(text)
    except ValueError:
        return True
    return not isinstance(content, dict) or content.get("kind") == "horizon bundle"
