"""``dpa mcp``: a server for assistants, over standard input and output."""

import argparse
import contextlib
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpa.errors import ConfigError
from dpa.options import OneLineParser

if TYPE_CHECKING:
    from mcp.server import MCPServer

Add = Callable[..., OneLineParser]
CLIENTS = """
a client starts it; most clients take a JSON file such as:
  {"mcpServers": {"dpa": {"command": "dpa", "args": ["mcp", "--storage", "/srv/dpa/runs"]}}}"""


def add_mcp_command(commands: Any, add_command: Add, storage: str) -> None:
    """Add ``mcp`` to `commands`."""
    parser = add_command(
        commands,
        "mcp",
        "dpa.mcp.commands:mcp_command",
        "serve runs, decisions, positions and risk to assistants over stdio (MCP); reads only, but "
        "may halt trading",
        "mcp",
        "mcp --storage /srv/dpa/runs --storage /srv/dpa/paper",
    )
    parser.epilog = f"{parser.epilog}\n{CLIENTS}"
    parser.add_argument(
        "--storage",
        type=Path,
        action="append",
        metavar="PATH",
        help=f"a storage it may look into, again for more; the first is meant where none is named "
        f"[{storage}]",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any part of the settings")
    parser.set_defaults(usual_storage=Path(storage))


def mcp_command(arguments: argparse.Namespace) -> None:
    """Serve until the client goes."""
    if importlib.util.find_spec("mcp") is None:
        command = shlex.join([Path(sys.executable).name, "-m", "pip", "install", "dpa[mcp]"])
        raise ConfigError("the package mcp is not installed", f"install it with {command}")
    paths = arguments.storage or [arguments.usual_storage]
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"--storage {path}: there is no such folder", "check the path")
    with contextlib.redirect_stdout(sys.stderr):  # standard output is the protocol's
        server = _server(paths, arguments.config)
    server.run("stdio")


def _server(paths: list[Path], config: str | None) -> "MCPServer[Any]":
    from dpa.config import load_settings
    from dpa.mcp.roots import Roots
    from dpa.mcp.server import make_server

    docs = Path(__file__).resolve().parents[2] / "docs"
    return make_server(Roots(paths), load_settings(config), docs if docs.is_dir() else None)
