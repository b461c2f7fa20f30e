"""The source that travels: one name for one content, on both sides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpa.errors import ConfigError
from dpa.hosts import _probe
from dpa.hosts.cluster_file import ClusterFile, read_cluster_file
from dpa.hosts.ray_commands import _SWEEP
from dpa.hosts.source import excluded_of, source_of


def checkout(folder: Path) -> ClusterFile:
    """A small repository and its cluster file."""
    (folder / "dpa" / "__pycache__").mkdir(parents=True)
    (folder / "dpa" / "a.py").write_text("a = 1\n", encoding="utf-8")
    (folder / "dpa" / "__pycache__" / "a.pyc").write_bytes(b"machine code")
    (folder / "Makefile").write_text("install:\n", encoding="utf-8")
    (folder / "cluster.yaml").write_text(
        yaml.safe_dump(
            {
                "cluster_name": "small",
                "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": []},
                "auth": {"ssh_user": "me"},
                "file_mounts": {"~/dpa-source/dpa": "dpa", "~/dpa-source/Makefile": "Makefile"},
            }
        ),
        encoding="utf-8",
    )
    return read_cluster_file(folder / "cluster.yaml")


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_name_follows_content_and_names_and_nothing_else(tmp_path: Path) -> None:
    one, two = checkout(tmp_path / "one"), checkout(tmp_path / "two")
    name = source_of(one).source
    assert source_of(one).files == ("Makefile", "dpa/a.py")
    assert source_of(two).source == name
    (tmp_path / "two" / "dpa" / "__pycache__" / "b.pyc").write_bytes(b"other")
    assert source_of(two).source == name
    (tmp_path / "two" / "dpa" / "b.py").touch()
    assert source_of(two).source != name


def test_a_tree_with_changes_says_so(tmp_path: Path) -> None:
    cluster = checkout(tmp_path / "one")
    folder = cluster.path.parent
    assert "not from a git checkout" in source_of(cluster).words
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    clean = source_of(cluster)
    assert len(clean.commit) == 40
    assert clean.changed == ()
    (folder / "dpa" / "a.py").write_text("a = 2\n", encoding="utf-8")
    dirty = source_of(cluster)
    assert dirty.commit == clean.commit
    assert dirty.changed == ("dpa/a.py",)
    assert "with 1 changed file" in dirty.words


def test_a_mount_that_is_missing_is_named(tmp_path: Path) -> None:
    cluster = checkout(tmp_path)
    (tmp_path / "Makefile").unlink()
    with pytest.raises(ConfigError, match="Makefile does not exist"):
        source_of(cluster)


def test_files_shipped_once_and_no_more_are_swept_and_the_node_says_the_same_hash(
    tmp_path: Path,
) -> None:
    cluster = checkout(tmp_path / "here")
    source = source_of(cluster)
    there = tmp_path / "home" / "dpa-source"
    (there / "dpa" / "gone").mkdir(parents=True)
    for name in source.files:
        (there / name).write_bytes((tmp_path / "here" / name).read_bytes())
    (there / "dpa" / "gone" / "old.py").touch()
    (there / ".venv").mkdir()
    (there / ".venv" / "kept.py").touch()
    (there / "shipped.json").write_text(json.dumps(source.stamp()), encoding="utf-8")

    def hashed() -> str:
        names = _probe.source_files(str(there), sorted(cluster.source_mounts), excluded_of(cluster))
        return _probe.source_hash(str(there), names)

    assert hashed() != source.source
    subprocess.run([sys.executable, "-c", _SWEEP], env={"HOME": str(tmp_path / "home")}, check=True)
    assert hashed() == source.source
    assert (there / ".venv" / "kept.py").exists()
