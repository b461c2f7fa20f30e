"""Run on a node by its own python3, as text through ssh: whether ports can be reached.

``listen [port, ...]`` listens where nothing else does, says ``{"opened": [...], "taken": [...]}``,
and goes when its input ends. ``connect [[address, port], ...]`` says which could not be reached.
Standard library only.
"""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SECONDS = 3.0


def listen(ports: list[int]) -> None:
    """Hold the ports until the input ends.

    Nothing is accepted: the kernel answers, and no port is left waiting that Ray wants next.
    """
    opened: list[int] = []
    taken: list[int] = []
    servers = []
    for port in ports:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("0.0.0.0", port))
        except OSError:
            taken.append(port)
            continue
        server.listen(128)
        servers.append(server)
        opened.append(port)
    print(json.dumps({"opened": opened, "taken": taken}), flush=True)
    sys.stdin.read()


def connect(targets: list[list[Any]]) -> None:
    """Try all at once; what failed, with the reason."""

    def attempt(target: list[Any]) -> list[Any] | None:
        try:
            socket.create_connection((target[0], target[1]), SECONDS).close()
        except OSError as e:
            timed_out = isinstance(e, socket.timeout)
            return [*target, "no answer" if timed_out else (e.strerror or str(e)).lower()]
        return None

    with ThreadPoolExecutor(32) as pool:
        failed = [said for said in pool.map(attempt, targets) if said]
    print(json.dumps(failed), flush=True)


if __name__ == "__main__":
    (listen if sys.argv[1] == "listen" else connect)(json.loads(sys.argv[2]))
