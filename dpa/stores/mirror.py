"""A folder and its copy in a store: what is kept there is whole, or what was there before.

How a folder becomes visible
----------------------------
Objects of a store appear one by one, a folder must appear at once. So every folder in a store has
an index, ``.index.json``: its files with size and SHA-256. `push` sends the files that differ,
then the index, then removes what is not in it: until the index is replaced, a reader finds the
folder as it was, because new states have new names. `pull` takes the files of the index and
nothing else, and refuses one whose hash is another.

Why a copy, and no file system on top of the store: everything that reads and writes a run works
on paths (Parquet, safetensors, LightGBM, renames), whole files are what a resumed trial needs, and
on a plain path nothing changes at all: a mirror without a store does nothing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dpa.stores.store import Store, StoreError, at_once

INDEX = ".index.json"
Index = dict[str, tuple[int, str]]  # path below the folder to size and SHA-256
Stamp = tuple[int, int]


@dataclass
class Mirror:
    """A folder on this machine, and where it is kept.

    Parameters
    ----------
    folder : Path
    store : Store, optional
        Its copy; none: the folder is all there is, and nothing is done.
    """

    folder: Path
    store: Store | None = None
    _index: Index | None = field(default=None, repr=False)  # as it is in the store
    _known: dict[str, tuple[Stamp, str]] = field(default_factory=dict, repr=False)

    def push(self, only: Iterable[str] | None = None) -> None:
        """Keep the folder as it is now, or some files of it beside what is kept already.

        Parameters
        ----------
        only : iterable of str, optional
            Paths below the folder; none: all, and what is not there is kept no longer.
        """
        store = self.store
        if store is None:
            return
        was = self._index
        if was is None:
            was = self._index = read_index(store) or {}
        names = file_names(self.folder) if only is None else list(only)
        wanted = ({} if only is None else dict(was)) | {name: self._fact(name) for name in names}
        fresh = [name for name, fact in wanted.items() if was.get(name) != fact]
        at_once(lambda name: store.put_file(name, self.folder / name), fresh)
        if wanted != was:
            store.put(INDEX, index_text(wanted).encode())
        self._index = wanted
        store.delete([name for name in was if name not in wanted])

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> bool:
        """Make the folder what is kept; whether anything is.

        Parameters
        ----------
        wanted : callable
            Whether a file is to be fetched, by its path below the folder; the others are left out.

        Raises
        ------
        StoreError
            Naming a file that is missing in the store, or is not what was kept.
        """
        store = self.store
        if store is None:
            return self.folder.is_dir()
        index = self._index = read_index(store)
        for name in file_names(self.folder):
            if index is None or name not in index:
                (self.folder / name).unlink()
        if index is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [
            name for name, fact in index.items() if wanted(name) and not self._is(name, fact)
        ]
        at_once(lambda name: fetch(store, name, index[name], self.folder / name), missing)
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        return True

    def discard(self) -> None:
        """Remove a folder that is kept elsewhere."""
        if self.store is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._known.clear()

    def _is(self, name: str, fact: tuple[int, str]) -> bool:
        return (self.folder / name).is_file() and self._fact(name) == fact

    def _fact(self, name: str) -> tuple[int, str]:
        """Size and SHA-256 of a file; one that is as it was is not read again."""
        path = self.folder / name
        stat = path.stat()
        stamp = stat.st_size, stat.st_mtime_ns
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            known = self._known[name] = stamp, digest
        return stat.st_size, known[1]


def file_names(folder: Path) -> list[str]:
    """Files below a folder that count: what is written aside has a name with a dot in front."""
    names = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            names.append(name.as_posix())
    return sorted(names)


def index_text(index: Index) -> str:
    """An index as it is written."""
    files = {name: list(index[name]) for name in sorted(index)}
    return json.dumps({"files": files}, separators=(",", ":")) + "\n"


def read_index(store: Store) -> Index | None:
    """The index of a folder of a store; none where nothing was kept.

    Raises
    ------
    StoreError
        When it is no index.
    """
    text = store.get(INDEX)
    if text is None:
        return None
    try:
        files = json.loads(text)["files"]
        index = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise StoreError(
            f"{store.below(INDEX)}: is no index of a folder", "remove the folder"
        ) from e
    for name in index:
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"{store.below(INDEX)}: names a file outside", "remove the folder")
    return index


def fetch(store: Store, key: str, fact: tuple[int, str], path: Path) -> None:
    """Write an object to a file, all of it or nothing, if it is what was kept.

    Raises
    ------
    StoreError
        When it is missing or is not what was kept.
    """
    data = store.get(key)
    if data is None:
        raise StoreError(f"{store.below(key)}: is missing", "remove its folder, or copy it again")
    if (len(data), hashlib.sha256(data).hexdigest()) != fact:
        raise StoreError(
            f"{store.below(key)}: was altered or cut short", "remove its folder, or copy it again"
        )
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.part-{os.getpid()}")
    staging.write_bytes(data)
    staging.replace(path)
