"""A cluster file, as ``ray up`` takes it: what it says about machines, ports and source."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from dpa.errors import ConfigError

SOURCE: Final = "~/dpa-source/"
DOCUMENTED: Final = "docs/clusters.md describes the file"
_PORT_FLAG: Final = re.compile(r"--([a-z-]*port)[= ](\d+)")
_NOT_REACHED: Final = ("ray-client-server-port", "dashboard-port", "max-worker-port")
# Ray's own judgement; in a process of its own, since nothing here imports Ray.
_VALIDATE: Final = """
import sys, yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
try:
    validate_config(prepare_config(yaml.safe_load(open(sys.argv[1], encoding="utf-8"))))
except ValidationError as e:
    sys.exit(f"{'.'.join(map(str, e.absolute_path)) or 'the file'}: {e.message}")
except Exception as e:
    sys.exit(f"{type(e).__name__}: {e}")
"""


@dataclass(frozen=True)
class ClusterFile:
    """What is used of a cluster file.

    Parameters
    ----------
    path : Path
        Absolute.
    name : str
        Ray's ``cluster_name``.
    provider : str
        ``local``: machines of one's own, named in the file; else a cloud.
    head : str
        Address; empty with a cloud.
    workers : tuple of str
        Addresses; empty with a cloud.
    user, key, proxy : str
        Of ssh; the last two may be empty.
    raw : dict
        Everything, as read.
    """

    path: Path
    name: str
    provider: str
    head: str
    workers: tuple[str, ...]
    user: str
    key: str
    proxy: str
    raw: dict[str, Any] = field(repr=False)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All addresses, the head's first."""
        return (self.head, *self.workers) if self.head else ()

    @property
    def is_local(self) -> bool:
        """Whether the machines are the user's own, and named."""
        return self.provider == "local"

    @property
    def source_mounts(self) -> dict[str, Path]:
        """Files and folders of the source, by their name under ``~/dpa-source``."""
        mounts: Mapping[str, str] = self.raw.get("file_mounts") or {}
        return {
            remote.removeprefix(SOURCE): self.local(place)
            for remote, place in mounts.items()
            if remote.startswith(SOURCE)
        }

    @property
    def excluded(self) -> tuple[str, ...]:
        """Patterns of names that do not travel."""
        return tuple(self.raw.get("rsync_exclude") or ())

    def local(self, place: str) -> Path:
        """A path of this machine; a relative one counts from the file's folder."""
        return (self.path.parent / Path(place).expanduser()).absolute()

    def ports(self, head: bool) -> dict[str, int]:
        """Ports named in the start command that other nodes must reach, by their flag."""
        commands = self.raw.get(f"{'head' if head else 'worker'}_start_ray_commands") or ()
        named = [match for command in commands for match in _PORT_FLAG.findall(command)]
        return {flag: int(port) for flag, port in named if flag not in _NOT_REACHED}


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file.

    Raises
    ------
    ConfigError
        When it is missing, is no YAML, or lacks something; names line or key.
    """
    raw = _read_yaml(path)
    provider = _section(path, raw, "provider")
    kind = _text(path, provider, "provider.type")
    local = kind == "local"
    head = _text(path, provider, "provider.head_ip") if local else ""
    workers = provider.get("worker_ips", []) if local else []
    if not isinstance(workers, list) or not all(isinstance(w, str) and w for w in workers):
        raise ConfigError(f"{path}: provider.worker_ips is no list of addresses", DOCUMENTED)
    if len({head, *workers}) < 1 + len(workers):
        raise ConfigError(f"{path}: provider names a machine twice", "name each once")
    auth = _section(path, raw, "auth")
    return ClusterFile(
        path=path.absolute(),
        name=_text(path, raw, "cluster_name"),
        provider=kind,
        head=head,
        workers=tuple(workers),
        user=_text(path, auth, "auth.ssh_user"),
        key=str(auth.get("ssh_private_key") or ""),
        proxy=str(auth.get("ssh_proxy_command") or ""),
        raw=raw,
    )


def check_with_ray(cluster: ClusterFile) -> None:
    """Hold the file against the schema of the installed Ray.

    Raises
    ------
    ConfigError
        With the key that Ray does not accept.
    """
    done = subprocess.run(
        [sys.executable, "-c", _VALIDATE, str(cluster.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{cluster.path}: Ray refuses it: {said}", DOCUMENTED)


def start_flags(commands: list[str]) -> list[str]:
    """The words of the ``ray start`` among start commands, for a program to run."""
    for command in commands:
        for part in command.split(";"):
            words = shlex.split(part)
            if words[:2] == ["ray", "start"]:
                return words
    raise ConfigError("no 'ray start' among the start commands", DOCUMENTED)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})", "check the path") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: is not UTF-8 text ({e.reason})", "save it as UTF-8") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(e, "problem", None) or "no YAML"
        raise ConfigError(f"{path}{line}: {reason}", "mend the YAML") from e
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no keys", DOCUMENTED)
    return raw


def _section(path: Path, raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {key} is missing", DOCUMENTED)
    return found


def _text(path: Path, section: Mapping[str, Any], key: str) -> str:
    found = section.get(key.rpartition(".")[2])
    if not isinstance(found, str) or not found:
        raise ConfigError(f"{path}: {key} is missing", DOCUMENTED)
    return found
