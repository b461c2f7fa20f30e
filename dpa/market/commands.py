"""``dpa data import | resample | check | describe``."""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpa.config import DataConfig, load_settings
from dpa.errors import ConfigError
from dpa.market.calendars import nanoseconds
from dpa.market.fingerprints import Fingerprint
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.market.quality import QualityReport, check_quality
from dpa.market.readers import load_wide_data
from dpa.market.resampling import resample_pieces
from dpa.market.sample import SAMPLE
from dpa.market.selections import select_shards
from dpa.market.shard_files import ShardManifest, check_target, write_shards
from dpa.options import add_settings_options, read_overrides

_IMPORT_EXAMPLES = """examples:
  dpa data import prices.csv --out shards
  dpa data import us_5min_bars.parquet --out shards --stamps start --start 2025-06-01
  dpa data import daily.parquet --out shards --dollar-volume-path traded.parquet
  dpa data import sample --out shards --force
"""
_RESAMPLE_EXAMPLES = """examples:
  dpa data resample us_1min_bars.parquet --stamps start --to 5m --out shards_5m
  dpa data resample shards_5m --to 1d --out shards_1d
  dpa data resample shards_5m --to 30m --out shards_30m --start 2025-06-01 --names SPY,QQQ
"""
_CHECK_EXAMPLES = """examples:
  dpa data check shards
  dpa data check daily.parquet --jump 0.5 --stale-bars 5
  dpa data check shards --min-history-bars 252 --json

Exit code 1 when loading would refuse the data.
"""
_DESCRIBE_EXAMPLES = """examples:
  dpa data describe shards
  dpa data describe daily.parquet --start 2010-01-01 --json
"""


def add_data_commands(commands: Any) -> Any:
    """Add ``data`` and its subcommands to `commands`, the subparsers of the ``dpa`` parser.

    Returns the subparsers of ``data``, for subcommands from elsewhere.
    """
    data = commands.add_parser(
        "data",
        help="import, resample, check and describe price history",
        description="Import, resample, check and describe price history.",
        epilog=_IMPORT_EXAMPLES,
    )
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    importer = _add(
        actions, "import", run_import, "write price history as Parquet shards", _IMPORT_EXAMPLES
    )
    resampler = _add(
        actions, "resample", run_resample, "write longer bars as shards", _RESAMPLE_EXAMPLES
    )
    resampler.add_argument(
        "--to", required=True, metavar="LENGTH", help="length of the new bars: 5m, 1h, 1d"
    )
    for parser in (importer, resampler):
        parser.add_argument("--out", required=True, metavar="DIR", help="directory to make")
        parser.add_argument(
            "--bars-per-shard", type=int, metavar="N", help="rows of a file; default: about 32 MiB"
        )
        parser.add_argument("--force", action="store_true", help="replace an earlier import")
    checker = _add(
        actions, "check", run_check, "report what is odd and what is masked", _CHECK_EXAMPLES
    )
    checker.add_argument(
        "--jump", type=float, default=0.25, help="least move that is a jump, fraction [0.25]"
    )
    checker.add_argument(
        "--stale-bars", type=int, default=10, help="equal prices in a row that are stale [10]"
    )
    checker.add_argument(
        "--worst", type=int, default=10, metavar="N", help="names to list, worst first [10]"
    )
    describer = _add(
        actions, "describe", run_describe, "say in a few lines what is there", _DESCRIBE_EXAMPLES
    )
    for parser in (checker, describer):
        parser.add_argument("--json", action="store_true", help="print JSON")
    return actions


def _add(actions: Any, name: str, run: Any, words: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=words, description=words[0].upper() + words[1:] + ".", epilog=epilog
    )
    parser.add_argument(
        "source",
        metavar="FILE_OR_DIR",
        help="wide or long CSV or Parquet file, directory of shards, or 'sample'",
    )
    add_settings_options(parser, ("data",))
    parser.set_defaults(run=run)
    return parser


def _config(arguments: argparse.Namespace) -> DataConfig:
    settings = load_settings(arguments.config, read_overrides(arguments))
    return settings.data.model_copy(update={"path": arguments.source})


def run_import(arguments: argparse.Namespace) -> int:
    """Write shards; see ``dpa data import --help``."""
    return _write(_history, arguments)


def run_resample(arguments: argparse.Namespace) -> int:
    """Write shards of longer bars; see ``dpa data resample --help``."""
    try:
        length = str(parse_interval(arguments.to))
    except ConfigError as e:
        raise ConfigError(f"--to: {e.what}", e.cure) from e
    return _write(lambda config: resample_pieces(_history(config), length), arguments)


def _write(history: Callable[[DataConfig], Iterator[Panel]], arguments: argparse.Namespace) -> int:
    if arguments.bars_per_shard is not None and arguments.bars_per_shard < 1:
        raise ConfigError(f"--bars-per-shard: {arguments.bars_per_shard}", "give 1 or more")
    check_target(Path(arguments.out), arguments.force)
    panels = history(_config(arguments))
    manifest = write_shards(panels, arguments.out, arguments.bars_per_shard, arguments.force)
    print(f"{arguments.out}: {_summary(manifest)}, {len(manifest.files)} file(s)")
    return 0


def _history(config: DataConfig) -> Iterator[Panel]:
    """What `config` selects as consecutive panels; a directory is never in memory as a whole."""
    if config.path and Path(config.path).is_dir():
        yield from select_shards(config.path, config).panels()
    else:
        yield load_wide_data(config)


def _summary(manifest: ShardManifest) -> str:
    return (
        f"{len(manifest.names)} names, {manifest.n_bars:,} bars of {manifest.interval} "
        f"({manifest.calendar}), {manifest.files[0].first} to {manifest.files[-1].last}"
    )


def run_describe(arguments: argparse.Namespace) -> int:
    """Say what is there; see ``dpa data describe --help``."""
    config = _config(arguments)
    described = describe(config)
    if arguments.json:
        print(json.dumps(described, indent=1))
        return 0
    for key, value in described.items():
        if isinstance(value, list):
            value = ", ".join(value[:10]) + (", ..." if value[10:] else "")
        print(f"{key:<16}{value}")
    return 0


def describe(config: DataConfig) -> dict[str, Any]:
    """Size, dates, names, arrays and fingerprint of what `config` selects."""
    pieces = _history(config)
    panel = first = next(pieces)
    fingerprint = Fingerprint(panel.names, panel.interval, panel.calendar)
    n_bars = held = 0
    for panel in itertools.chain([first], pieces):
        fingerprint.update(nanoseconds(panel.times), panel.prices, panel.mask, panel.extras())
        n_bars += panel.n_bars
        held += int(panel.mask.sum())
    return {
        "source": config.path or SAMPLE,
        "n_names": panel.n_assets,
        "n_bars": n_bars,
        "interval": panel.interval,
        "calendar": panel.calendar,
        "first": first.times[0].isoformat(),
        "last": panel.times[-1].isoformat(),
        "held_on_average": round(held / n_bars, 1),
        "arrays": ["prices", *panel.extras()],
        "fingerprint": fingerprint.hexdigest(),
        "names": list(panel.names),
    }


def run_check(arguments: argparse.Namespace) -> int:
    """Report on quality; see ``dpa data check --help``."""
    if arguments.jump <= 0 or arguments.stale_bars < 2 or arguments.worst < 0:
        raise ConfigError(
            f"--jump {arguments.jump}, --stale-bars {arguments.stale_bars}, "
            f"--worst {arguments.worst}: out of bounds",
            "give a jump above 0, at least 2 stale bars, and 0 or more names",
        )
    report = check_quality(_config(arguments), arguments.jump, arguments.stale_bars)
    print(
        json.dumps(report.to_dict(), indent=1) if arguments.json else _text(report, arguments.worst)
    )
    return 1 if report.is_refused else 0


def _text(report: QualityReport, worst: int) -> str:
    lines = [
        f"{report.origin}: {report.n_names} names, {report.n_bars:,} bars of {report.interval} "
        f"({report.calendar}), {report.first} to {report.last}",
        "",
        f"{'finding':<42}{'count':>10}{'names':>7}  first or worst",
    ]
    for finding in report.findings:
        names = finding.names or ""
        row = f"{finding.kind:<42}{finding.count:>10,}{names:>7}  {finding.example}"
        lines.append(row.rstrip())
    lines += ["", "outside the mask, share of all name-bars"]
    lines += [f"{reason:<42}{share:>10.2%}" for reason, share in report.masked.items()]
    if worst:
        head = f"{'missing':>9}{'longest':>9}{'jumps':>7}{'stale':>7}{'masked':>9}"
        lines += ["", f"{'name':<10}{'first':<12}{'last':<12}{head}"]
        for name in report.names[:worst]:
            counts = f"{name.missing:>9,}{name.longest_gap:>9,}{name.jumps:>7,}{name.stale:>7,}"
            dates = f"{name.first[:10]:<12}{name.last[:10]:<12}"
            lines.append(f"{name.name:<10}{dates}{counts}{name.masked:>9.1%}")
    verdict = "loading refuses this data" if report.is_refused else "loading accepts this data"
    return "\n".join([*lines, "", verdict])
