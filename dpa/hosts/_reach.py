"""Run on a node by its own python3, as text through ssh: whether ports can be reached.

``listen [port, ...]`` listens where nothing else does, says ``{"opened": [...], "taken": [...]}``,
and goes when its input ends. ``connect [[address, port], ...]`` says which could not be reached.
Standard library only.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SECONDS = 3.0


def listen(ports: list[int]) -> None:
    """Accept and close, until the input ends."""
    selector = selectors.DefaultSelector()
    opened: list[int] = []
    taken: list[int] = []
    for port in ports:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("0.0.0.0", port))
        except OSError:
            taken.append(port)
            continue
        server.listen(64)
        selector.register(server, selectors.EVENT_READ, server)
        opened.append(port)
    print(json.dumps({"opened": opened, "taken": taken}), flush=True)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            server = key.data
            server.accept()[0].close()


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
