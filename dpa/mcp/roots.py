"""The storages a server may look into, and names within them: never a path out of them."""

import re
from collections.abc import Sequence
from pathlib import Path

from dpa.errors import UserError
from dpa.runs import RunDirectory, list_runs

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


class OutOfBounds(UserError):
    """A name that is none, or leads out of the storages of the server."""


class Roots:
    """The storages given on the command line.

    Parameters
    ----------
    paths : sequence of Path
        The first is the one meant where none is named.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._roots = {str(path): path.resolve() for path in paths}

    @property
    def names(self) -> list[str]:
        """As they were given."""
        return list(self._roots)

    def storage(self, name: str | None) -> Path:
        """A storage by its name, as it was given.

        Raises
        ------
        OutOfBounds
            The server was not given it.
        """
        found = self._roots.get(name or self.names[0])
        if found is None:
            raise OutOfBounds(
                f"storage {name!r}: is none of this server's",
                f"give one of {', '.join(self.names)}, or leave it out",
            )
        return found

    def run(self, reference: str, storage: Path) -> RunDirectory:
        """A run by its id, the beginning of one, or ``latest``; never by a path.

        Raises
        ------
        OutOfBounds
            It is no name, or a link out of the storage.
        UserError
            No run, or several, are called so.
        """
        checked(reference, "run")
        if reference == "latest":
            found = runs_within(storage)[-1:]
        else:
            found = [run for run in list_runs(storage) if run.path.name.startswith(reference)]
        if len(found) != 1:
            what = f"{len(found)} runs match" if found else "no run is called"
            raise UserError(f"{what} {reference!r}", "see runs_list")
        within(found[0].path, storage)
        return found[0]


def runs_within(storage: Path) -> list[RunDirectory]:
    """Runs of a storage, newest last; links out of it are left out."""
    root = storage.resolve()
    return [run for run in list_runs(root) if run.path.resolve().is_relative_to(root)]


def checked(name: str, what: str) -> str:
    """A name that cannot be a path.

    Raises
    ------
    OutOfBounds
        It holds anything else than letters, digits and ``. _ -``.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise OutOfBounds(f"{what} {name[:80]!r}: is no name", f"give the id of a {what}, no path")
    return name


def within(path: Path, storage: Path) -> Path:
    """`path`, which must lie in the storage with all links followed.

    Raises
    ------
    OutOfBounds
        It does not.
    """
    if not path.resolve().is_relative_to(storage.resolve()):
        raise OutOfBounds(f"{path.name}: lies outside of the storage", "name another one")
    return path
