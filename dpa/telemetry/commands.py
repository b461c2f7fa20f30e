"""``dpa metrics list | export``."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dpa.errors import ConfigError
from dpa.telemetry.catalogue import ALL, Metric, Room, in_room
from dpa.telemetry.prometheus import CONFIG, DASHBOARDS, DISCOVERY, RULES, SCRAPE_SECONDS, export

HEADS = ("room", "name in Prometheus", "kind", "unit", "tags", "help")


def add_metrics_commands(commands: Any, add_command: Callable[..., Any]) -> None:
    """Add ``metrics`` and its subcommands to the subparsers of the ``dpa`` parser."""
    metrics = commands.add_parser("metrics", help="what is measured: list, and export to watch it")
    inner = metrics.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = add_command(
        inner,
        "list",
        list_metrics,
        "every metric with its kind, unit, tags and meaning",
        "metrics list",
        "metrics list --room gateway",
    )
    listing.add_argument("--room", choices=[room.value for room in Room], help="one room only")
    exporting = add_command(
        inner,
        "export",
        export_configuration,
        "write the configuration of Prometheus, alert rules and Grafana dashboards",
        "metrics export monitoring",
        "metrics export monitoring --discovery /srv/ray/prom_metrics_service_discovery.json",
    )
    exporting.add_argument("folder", metavar="DIR", type=Path, help="made where it is missing")
    exporting.add_argument(
        "--discovery",
        metavar="PATH",
        default=DISCOVERY,
        help=f"file of Ray that names the metrics ports [{DISCOVERY}]",
    )
    exporting.add_argument(
        "--scrape-seconds",
        metavar="N",
        type=int,
        default=SCRAPE_SECONDS,
        help=f"between two readings [{SCRAPE_SECONDS}]",
    )


def list_metrics(arguments: argparse.Namespace) -> None:
    """Print the table."""
    chosen = ALL if arguments.room is None else in_room(Room(arguments.room))
    for line in table(chosen):
        print(line)


def table(metrics: Sequence[Metric]) -> list[str]:
    """Metrics as lines of equal columns."""
    rows = [HEADS, *(_row(metric) for metric in metrics)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADS) - 1)]
    return ["  ".join((*map(str.ljust, row[:-1], widths), row[-1])) for row in rows]


def _row(metric: Metric) -> tuple[str, ...]:
    tags = ",".join(metric.tags) or "-"
    return (metric.room, metric.exported, metric.kind, metric.unit, tags, metric.help)


def export_configuration(arguments: argparse.Namespace) -> None:
    """Write the folder; say what is in it."""
    folder = arguments.folder
    if arguments.scrape_seconds < 1:
        raise ConfigError(f"--scrape-seconds {arguments.scrape_seconds}", "give 1 or more")
    try:
        export(folder, arguments.discovery, arguments.scrape_seconds)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e.strerror})", "name another") from e
    print(f"{folder / CONFIG}: start it with 'prometheus --config.file={folder / CONFIG}'")
    print(f"{folder / RULES}: alert rules, read from there")
    print(f"{folder / DASHBOARDS}: import each file in Grafana, with Prometheus as data source")
