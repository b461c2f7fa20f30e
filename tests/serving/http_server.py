"""A desk behind real HTTP on this machine, for clients and commands."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from dpa.config import Settings
from dpa.serving.http import make_app
from dpa.serving.meters import NoMeters
from dpa.serving.page import page_html

TOKEN = "a-token-for-the-tests"


@contextlib.contextmanager
def serving(desk: Any, settings: Settings | None = None) -> Iterator[str]:
    """Address of a service that asks `desk`; it stops at the end."""
    settings = settings or Settings()
    app = make_app(desk, settings, TOKEN, NoMeters(), page_html(settings))
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()
        listening.close()
