"""``dpa trace``: one id, followed from the bar to the fee."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpa.errors import ConfigError
from dpa.options import OneLineParser
from dpa.tracing.hops import Kind

Add = Callable[..., OneLineParser]


def add_trace_command(commands: Any, add_command: Add, storage: str) -> None:
    """Add ``trace`` to `commands`."""
    parser = add_command(
        commands,
        "trace",
        "dpa.tracing.commands:trace_command",
        "follow one id through logs, journal, decisions and what the broker said; reads only",
        "trace dpa-0123456789abcdef01234567",
        "trace 9f8e7d --kind decision --storage runs/paper",
        "trace 0000e0d5.00000001.01.01 --json",
        "trace 20260301-123005-1a2b3c4d",
    )
    parser.add_argument(
        "id",
        metavar="ID",
        help="of a run, a decision, an intent (orderRef), an order or an execution; its beginning "
        "is enough",
    )
    parser.add_argument(
        "--kind", choices=[kind.value for kind in Kind], help="what it is the id of"
    )
    parser.add_argument(
        "--storage",
        type=Path,
        default=Path(storage),
        metavar="PATH",
        help=f"where it is [{storage}]",
    )
    parser.add_argument(
        "--logs", type=Path, metavar="PATH", help="folder of the logs [logs of the storage]"
    )
    parser.add_argument("--json", action="store_true", help="JSON")


def trace_command(arguments: argparse.Namespace) -> None:
    """Print all that is known of an id."""
    from dpa.tracing.follow import follow
    from dpa.tracing.places import Sources

    if not arguments.storage.is_dir():
        raise ConfigError(f"{arguments.storage}: there is no such storage", "give its --storage")
    kind = None if arguments.kind is None else Kind(arguments.kind)
    trace = follow(arguments.id, Sources(arguments.storage, arguments.logs), kind)
    print(json.dumps(trace.to_dict(), indent=1) if arguments.json else trace.words())
