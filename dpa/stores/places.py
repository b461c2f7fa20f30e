"""Where runs are kept: a folder, or a store with a working copy on this machine.

The working copy is in ``$DPA_CACHE`` (else ``~/.cache/dpa``) and can be deleted at any time when
nothing runs: it is made again from the store.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from dpa.errors import ConfigError
from dpa.stores.store import Store, is_uri


def cache_root() -> Path:
    """Folder of everything that this machine keeps of stores."""
    given = os.environ.get("DPA_CACHE")
    if given:
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dpa"


def working_copy(store: Store) -> Path:
    """Folder of this machine's copy of a store."""
    identity = f"{store.endpoint}/{store.root}"
    return cache_root() / "stores" / hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Storage:
    """Where runs are kept.

    Parameters
    ----------
    path : Path
        The folder of the runs; with a store this machine's working copy of it.
    store : Store, optional
    """

    path: Path
    store: Store | None = None

    @classmethod
    def of(cls, place: "str | Path | Storage") -> "Storage":
        """The storage that a path or a URI names; errors as :meth:`Store.of`."""
        if isinstance(place, Storage):
            return place
        if isinstance(place, str) and is_uri(place):
            store = Store.of(place, os.environ)
            return cls(working_copy(store), store)
        return cls(Path(place))

    def __str__(self) -> str:
        return str(self.path if self.store is None else self.store)

    def resolve(self) -> "Storage":
        """The same with an absolute path."""
        return Storage(self.path.resolve(), self.store)


def plain_path(text: str) -> Path:
    """A path for what cannot lie in a store, such as a database.

    Raises
    ------
    ConfigError
        When `text` is a URI.
    """
    if is_uri(text):
        raise ConfigError(
            f"{text.partition('?')[0].rpartition('@')[2]}: a folder is needed here, not a store",
            "give a path; a bundle may lie in a store, see docs/storage.md",
        )
    return Path(text)
