"""Ray's own commands, as processes with the flags and the environment they need."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from dpa.errors import ConfigError
from dpa.hosts._probe import source_hash
from dpa.hosts.certificates import CERTIFICATE, KEY, NODES, ROOT
from dpa.hosts.cluster_file import SOURCE, ClusterFile
from dpa.hosts.problem import HostError
from dpa.hosts.source import ALWAYS_EXCLUDED, STAMP, Source
from dpa.hosts.ssh import guarded_path

SNAPSHOT: Final = "source"  # what is shipped is a copy, which no edit changes on its way
TLS_FOLDER: Final = "~/.ray/tls"
_STEP: Final = re.compile(r"(?:^| -- )\s*(\[\d+/\d+\] .*)$")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# Files that were shipped once and are no more: rsync leaves them, and Python would import them.
_SWEEP: Final = """
import json, os
root = os.path.expanduser("~/dpa-source")
shipped = set(json.load(open(os.path.join(root, "shipped.json")))["files"])
for top in {name.split("/")[0] for name in shipped if "/" in name}:
    for folder, _, names in os.walk(os.path.join(root, top)):
        for name in names:
            path = os.path.join(folder, name)
            inside = "__pycache__" in path or ".egg-info" in path
            if not inside and os.path.relpath(path, root) not in shipped:
                os.unlink(path)
"""
# Ray's own log and its tracebacks, which only repeat that a command failed.
_NOISE: Final = re.compile(
    r"\.py:\d+ -- |^Traceback|^File \"|^\^|ClickException|^Shared connection|^make: (Enter|Leav)"
    r"|not a problem with pip|Failed to setup head node|^!!!$"
)
_COMPLAINT: Final = re.compile(r"(?i)\berror\b|\w+Error\b|failed|cannot|denied|refused|not found")
# What Ray's log says, and the cure. First match wins; the log is searched from its end.
_CURES: Final = (
    (r"\b401\b|authentication required|InvalidAuthToken|Unauthenticated",
     "the token differs between here and there: 'dpa cluster down', then up again"),
    (r"cannot find .*rsync|rsync: (command )?not found", "install rsync on every machine"),
    (r"Could not find a version|No matching distribution|HTTPSConnectionPool"
     r"|NewConnectionError|Failed to establish a new connection",
     "pip could not fetch packages there: give the nodes a package index (PIP_INDEX_URL), or "
     "install ~/dpa-source/.venv by hand"),
    (r"No space left on device", "make room there"),
    (r"timed out during startup", "that machine is too busy: again when it is less so"),
    (r"ensurepip|venv module is missing", "Debian: apt-get install python3-venv on every machine"),
    (r"make: (command )?not found", "install make on every machine"),
    (r"sudo: a password is required|sudo: command not found", "let the user run sudo there"),
    (r"Address already in use|port .* (is|already) (in use|occupied)",
     "another program has the port: end it, or give Ray another"),
    (r"Host key verification failed", "run 'dpa cluster status' to learn which machine"),
    (r"Permission denied", "auth in the cluster file names user and key; see 'dpa cluster status'"),
    (r"NoCredentials|UnauthorizedOperation|AuthFailure|ExpiredToken",
     "check the credentials: aws sts get-caller-identity"),
    (r"InsufficientInstanceCapacity", "add zones to provider.availability_zone, or another type"),
)  # fmt: skip


def environment(
    cluster: ClusterFile, guard: Path | None, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of Ray's commands.

    The token is asked for and given to no proxy, no statistics are sent, and on machines of one's
    own the first autoscaler is used: with the second no worker starts (Ray 2.50 to 2.60).
    """
    wanted = {**environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    wanted["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), environ.get("PATH", os.defpath)]
    )
    spared = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if spared != "*":
        wanted["no_proxy"] = wanted["NO_PROXY"] = ",".join(filter(None, [spared, "127.0.0.1"]))
    if cluster.is_local:
        wanted["RAY_UP_enable_autoscaler_v2"] = "0"
    if guard is not None:
        wanted["PATH"] = guarded_path(guard, wanted)
    return wanted


def rendered(cluster: ClusterFile, source: Source, folder: Path, tls: Path | None) -> str:
    """The file that Ray is given: the user's, with whole paths, stamp and encryption.

    Parameters
    ----------
    folder : Path
        Where what belongs to this cluster is kept on this machine.
    tls : Path, optional
        Folder that :func:`dpa.hosts.certificates.make_certificates` filled.
    """
    raw = dict(cluster.raw)
    mounts: Mapping[str, str] = raw.get("file_mounts") or {}
    copied = folder / SNAPSHOT
    raw["file_mounts"] = {
        there: str(
            copied / there.removeprefix(SOURCE) if there.startswith(SOURCE) else cluster.local(here)
        )
        for there, here in mounts.items()
    }
    raw["file_mounts"][f"{SOURCE}{STAMP}"] = str(folder / STAMP)
    raw["rsync_exclude"] = list(dict.fromkeys([*ALWAYS_EXCLUDED, *raw.get("rsync_exclude", [])]))
    raw["setup_commands"] = [f"python3 -c '{_SWEEP}'", *raw.get("setup_commands", [])]
    if cluster.key:
        raw["auth"] = {**raw["auth"], "ssh_private_key": str(Path(cluster.key).expanduser())}
    if tls is not None:
        _encrypt(raw, tls.expanduser().absolute())
    return f"# source {source.source}\n{yaml.safe_dump(raw, sort_keys=False)}"


def write_rendered(text: str, source: Source, folder: Path) -> Path:
    """Put down what :func:`rendered` made, the source as it is now, and the stamp beside it.

    Raises
    ------
    ConfigError
        When the source was changed since it was given its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied = folder / SNAPSHOT
    shutil.rmtree(copied, ignore_errors=True)
    try:
        for name in source.files:
            target = copied / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(source.root) / name, target)
    except FileNotFoundError as e:
        raise ConfigError(f"{e.filename}: was removed meanwhile", "give the command again") from e
    if source_hash(str(copied), source.files) != source.source:
        raise ConfigError("the source was changed meanwhile", "give the command again")
    write_private(folder / STAMP, json.dumps(source.stamp(), indent=1, sort_keys=True))
    write_private(folder / "cluster.yaml", text)
    return folder / "cluster.yaml"


def _encrypt(raw: dict[str, Any], tls: Path) -> None:
    nodes = tls / NODES
    for name in (ROOT, CERTIFICATE, KEY):
        if not (nodes / name).is_file():
            raise ConfigError(
                f"--tls {tls}: {nodes / name} is missing", "make it with 'dpa cluster certificates'"
            )
    raw["file_mounts"] = {**raw["file_mounts"], TLS_FOLDER: str(nodes)}
    there = TLS_FOLDER.replace("~", "$HOME")
    exports = (
        f"export RAY_USE_TLS=1 RAY_TLS_CA_CERT={there}/{ROOT} "
        f"RAY_TLS_SERVER_CERT={there}/{CERTIFICATE} RAY_TLS_SERVER_KEY={there}/{KEY}; "
    )
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        raw[key] = [exports + c if "ray start" in c else c for c in raw[key]]
    raw["setup_commands"] = [f"chmod 600 {TLS_FOLDER}/{KEY}", *raw["setup_commands"]]
    remember = "grep -q RAY_USE_TLS ~/.bashrc || echo '" + exports.rstrip("; ") + "' >> ~/.bashrc"
    raw["setup_commands"].append(remember)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def run_with_log(
    words: list[str],
    environ: Mapping[str, str],
    log: Path,
    told: Callable[[str], None],
    verbose: bool,
) -> None:
    """Run a command of Ray, all of its output into a log, its steps told.

    Raises
    ------
    HostError
        When it fails: its last complaint, and the cure where it is known.
    """
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environ),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                plain = _COLOUR.sub("", line).rstrip()
                file.write(plain + "\n")
                step = _STEP.search(plain)
                if verbose or step:
                    told(f"  {step.group(1)}" if step and not verbose else plain)
            code = process.wait()
        except BaseException:
            end_group(process)
            raise
        finally:
            process.stdout.close()
    if code != 0:
        raise explained(" ".join(words[:2]), code, log)


def end_group(process: "subprocess.Popen[str]", seconds: float = 10.0) -> None:
    """End a process that leads its own group, and what it started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
            return


def explained(command: str, code: int, log: Path) -> HostError:
    """Why a command of Ray failed, from what it and the programs it ran wrote."""
    text = log.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cure = f"the whole output is in {log}"
    telling = [line for line in lines[-400:] if not _NOISE.search(line)]
    for line in reversed(telling):
        for pattern, known in _CURES:
            if re.search(pattern, line):
                return HostError(f"{command} failed: {line}", f"{known} ({cure})")
    complaints = [line for line in telling if _COMPLAINT.search(line)]
    last = (complaints or telling or [f"code {code}"])[-1]
    return HostError(f"{command} failed: {last}", cure)
