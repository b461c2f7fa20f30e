"""The source that travels to the nodes, and the name it goes by there."""

import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Final

import dpa
from dpa.errors import ConfigError
from dpa.hosts._probe import source_files, source_hash
from dpa.hosts.cluster_file import ClusterFile
from dpa.runs import code_hash

STAMP: Final = "shipped.json"
ALWAYS_EXCLUDED: Final = ("__pycache__", "*.pyc", "*.egg-info")


@dataclass(frozen=True)
class Source:
    """What is shipped.

    Parameters
    ----------
    version : str
        Of dpa.
    commit : str
        Of git; empty outside a checkout.
    changed : tuple of str
        Files that differ from the commit.
    source : str
        Hexadecimal SHA-256 over names and contents of all that is shipped.
    code : str
        :func:`dpa.runs.code_hash`, which the manifests of runs hold.
    ray : str
        Version of Ray here.
    files : tuple of str
        Names under ``~/dpa-source``.
    root : str
        The checkout here.
    """

    version: str
    commit: str
    changed: tuple[str, ...]
    source: str
    code: str
    ray: str
    files: tuple[str, ...]
    root: str

    @property
    def words(self) -> str:
        """For people: ``dpa 0.2.0, commit 1a2b3c4d (2 files changed), source 9f8e7d6c``."""
        commit = f"commit {self.commit[:8]}" if self.commit else "not from a git checkout"
        n = len(self.changed)
        changed = f" with {n} changed file{'s' if n > 1 else ''}" if n else ""
        return f"dpa {self.version}, {commit}{changed}, source {self.source[:8]}"

    def stamp(self) -> dict[str, Any]:
        """What is written beside the source on each node; the same source, the same stamp."""
        said = asdict(self)
        del said["root"]  # a path of this machine
        return said


def source_of(cluster: ClusterFile) -> Source:
    """The source that a file ships.

    Raises
    ------
    ConfigError
        When something it mounts is missing, or two places are mixed.
    """
    mounts = cluster.source_mounts
    if not mounts:
        raise ConfigError(
            f"{cluster.path}: file_mounts names nothing under ~/dpa-source",
            "take the file_mounts of cluster-onprem.yaml",
        )
    for name, place in mounts.items():
        if not place.exists():
            raise ConfigError(
                f"{cluster.path}: file_mounts: {place} does not exist",
                "keep the file in the repository's root, or name the whole path",
            )
        if not place.as_posix().endswith(f"/{name}"):
            raise ConfigError(
                f"{cluster.path}: file_mounts: {place} goes by another name there, {name}",
                "ship it by its own name",
            )
    roots = {place.as_posix().removesuffix(f"/{name}") for name, place in mounts.items()}
    if len(roots) > 1:
        raise ConfigError(
            f"{cluster.path}: file_mounts mixes the source of {' and '.join(sorted(roots))}",
            "ship one checkout",
        )
    root = roots.pop()
    names = source_files(root, sorted(mounts), excluded_of(cluster))
    return Source(
        version=dpa.__version__,
        commit=_git(root, "rev-parse", "HEAD"),
        changed=tuple(
            line[3:] for line in _git(root, "status", "--porcelain", "--", *mounts).splitlines()
        ),
        source=source_hash(root, names),
        code=code_hash(),
        ray=metadata.version("ray"),
        files=tuple(names),
        root=root,
    )


def excluded_of(cluster: ClusterFile) -> tuple[str, ...]:
    """Patterns of names that count on neither side."""
    return tuple(dict.fromkeys((*ALWAYS_EXCLUDED, *cluster.excluded)))


def _git(root: str, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", root, *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.rstrip("\n") if done.returncode == 0 else ""
