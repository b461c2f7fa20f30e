"""Run on a node by its own python3, as text through ssh: what the node is. Standard library only.

Answers one line of JSON, then the time to each line it reads, so that clocks can be compared.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

CANDIDATES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")


def source_files(root: str, entries: Iterable[str], excluded: Sequence[str]) -> list[str]:
    """Relative names of the files of a source tree, sorted; the operator uses the same function."""
    found = []
    for entry in entries:
        top = os.path.join(root, entry)
        if os.path.isfile(top):
            found.append(entry)
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not _left_out(name, excluded)]
            for name in files:
                if not _left_out(name, excluded):
                    path = os.path.join(folder, name)
                    found.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return sorted(found)


def source_hash(root: str, names: Iterable[str]) -> str:
    """Hexadecimal SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(root, name), "rb") as file:
            content = file.read()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _left_out(name: str, excluded: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in excluded)


def _chosen_python() -> str | None:
    """The version that ``make install`` takes: the first that is new enough, else the newest."""
    found = []
    for name in CANDIDATES:
        if shutil.which(name):
            code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
            done = subprocess.run([name, "-c", code], capture_output=True, check=False)
            text = done.stdout.decode().strip()
            if re.match(r"^\d+\.\d+\.\d+$", text):
                found.append([int(part) for part in text.split(".")])
    chosen = [version for version in found if version >= [3, 11]][:1] or sorted(found)[-1:]
    return ".".join(map(str, chosen[0])) if chosen else None


def _environment(root: str) -> dict[str, str | None]:
    """Versions in the virtual environment, read from its files."""
    venv = os.path.join(root, ".venv")
    said: dict[str, str | None] = {"python": None, "ray": None}
    try:
        with open(os.path.join(venv, "pyvenv.cfg")) as file:
            match = re.search(r"^version\s*=\s*([\d.]+)", file.read(), re.MULTILINE)
        said["python"] = match.group(1) if match else None
    except OSError:
        return said
    for path in glob.glob(os.path.join(venv, "lib", "python*", "site-packages", "ray-*.dist-info")):
        said["ray"] = os.path.basename(path)[len("ray-") : -len(".dist-info")]
    return said


def _ray_processes() -> list[str]:
    """Which of Ray's main processes run here."""
    found = set()
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                program = file.read().split(b"\0")[0].decode("utf-8", "replace")
        except OSError:
            continue
        if os.path.basename(program) in ("raylet", "gcs_server"):
            found.add(os.path.basename(program))
    return sorted(found)


def _stamp(root: str) -> Any:
    try:
        with open(os.path.join(root, "shipped.json")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _token() -> dict[str, str] | None:
    """Mode and a fingerprint of Ray's token; 256 random bits, so that the hash tells nothing."""
    path = os.path.expanduser("~/.ray/auth_token")
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(b"dpa " + file.read().strip()).hexdigest()[:16]
        return {"mode": "%04o" % (os.stat(path).st_mode & 0o777), "fingerprint": digest}
    except OSError:
        return None


def facts(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the node is."""
    root = os.path.expanduser(arguments["root"])
    here = os.path.isdir(root)
    names = source_files(root, arguments["entries"], arguments["excluded"]) if here else []
    return {
        "python": _chosen_python(),
        "programs": [name for name in arguments["programs"] if shutil.which(name)],
        "free_gigabytes": round(shutil.disk_usage(os.path.expanduser("~")).free / 1e9, 1),
        "environment": _environment(root),
        "stamp": _stamp(root),
        "source": source_hash(root, names) if names else None,
        "ray": _ray_processes(),
        "token": _token(),
    }


def main() -> None:
    """Answer facts, then the time to every line."""
    print(json.dumps(facts(json.loads(sys.argv[1]))), flush=True)
    for _ in sys.stdin:
        print(repr(time.time()), flush=True)


if __name__ == "__main__":
    main()
