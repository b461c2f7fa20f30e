"""``dpa data fetch``: history from TWS into shards."""

import argparse
import asyncio
import sys
from datetime import UTC, date
from pathlib import Path
from typing import Any

from dpa.clock import Clock, SystemClock
from dpa.config import IbkrConfig, load_settings
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import as_date
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.options import add_settings_options, read_overrides

_EXAMPLES = """examples:
  dpa data fetch --source ibkr --names AAPL,MSFT,SPY --interval 5m --start 2026-01-02 --out bars
  dpa data fetch --source ibkr --names-file names.txt --interval 1d --start 2015-01-01 --out daily

What is finished is kept in OUT.fetch: interrupted, the same command goes on where it stopped, and
later it only asks for what is new. TWS allows 60 requests in ten minutes.
"""


def add_fetch_command(actions: Any) -> None:
    """Add ``fetch`` to `actions`, the subcommands of ``dpa data``."""
    words = "download history from TWS as Parquet shards"
    parser = actions.add_parser(
        "fetch", help=words, description=words[0].upper() + words[1:] + ".", epilog=_EXAMPLES
    )
    parser.add_argument("--source", choices=["ibkr"], default="ibkr", help="where from [ibkr]")
    parser.add_argument("--names", dest="fetch_names", metavar="A,B", help="symbols, by commas")
    parser.add_argument("--names-file", type=Path, metavar="FILE", help="symbols, one a line")
    parser.add_argument("--interval", dest="length", default="5m", help="length of bars [5m]")
    parser.add_argument("--start", dest="first", required=True, help="first day, YYYY-MM-DD")
    parser.add_argument("--end", dest="last", help="last day, YYYY-MM-DD; default: today")
    parser.add_argument("--calendar", dest="venue", default="XNYS", help="of the venue [XNYS]")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--force", action="store_true", help="replace an earlier directory")
    add_settings_options(parser, ("ibkr",))
    parser.set_defaults(run="dpa.trading.ibkr.commands:run_fetch")


def run_fetch(arguments: argparse.Namespace) -> int:
    """Download; see ``dpa data fetch --help``. 1 when some symbols could not be had."""
    settings = load_settings(arguments.config, read_overrides(arguments)).ibkr
    return fetch(
        settings,
        SystemClock(),
        _names(arguments),
        arguments.length,
        (arguments.first, arguments.last),
        arguments.venue,
        Path(arguments.out),
        arguments.force,
    )


def fetch(
    settings: IbkrConfig,
    clock: Clock,
    names: list[str],
    length: str,
    days: tuple[str, str | None],
    venue: str,
    out: Path,
    force: bool = False,
) -> int:
    """Download `names` and write shards to `out`; 1 when some could not be had."""
    from dpa.market.resampling import resample_pieces
    from dpa.market.shard_files import check_target, write_shards
    from dpa.trading.ibkr.history import plan, source_interval
    from dpa.trading.ibkr.history_store import HistoryStore

    first, last = _days(clock, *days)
    interval = parse_interval(length)
    source = source_interval(interval)
    check_target(out, force)
    store = HistoryStore(out.with_name(f"{out.name}.fetch"), source, venue)
    pieces = plan(sorted(set(names)), source, first, last)
    try:
        failed = asyncio.run(_download(settings, clock, store, pieces))
    except KeyboardInterrupt:
        kept = sum(store.has(piece) for piece in pieces)
        print(
            f"\ninterrupted: {kept} of {len(pieces)} pieces are kept in {store.directory}; "
            "the same command goes on",
            file=sys.stderr,
        )
        raise
    had = [piece for piece in pieces if piece.symbol not in failed]
    if not had:
        raise DataError("nothing could be downloaded", "; ".join(failed.values()))
    panels = store.panels(had, first, last)
    longer = panels if source == interval else resample_pieces(panels, str(interval))
    manifest = write_shards(_some(longer), out, force=force)
    print(
        f"{out}: {len(manifest.names)} names, {manifest.n_bars:,} bars of {manifest.interval}, "
        f"{manifest.files[0].first} to {manifest.files[-1].last}"
    )
    for name, why in sorted(failed.items()):
        print(f"{name}: left out: {why}", file=sys.stderr)
    return 1 if failed else 0


async def _download(
    settings: IbkrConfig, clock: Clock, store: Any, pieces: list[Any]
) -> dict[str, str]:
    from dpa.trading.ibkr.client import TwsClient
    from dpa.trading.ibkr.history import CLIENT_OFFSET, HistoryDownload, Progress

    client = TwsClient(settings, clock, client_id=settings.client_id + CLIENT_OFFSET)
    begun = clock.elapsed()

    def told(progress: Progress) -> None:
        fresh = progress.done - progress.kept
        left = progress.wanted - progress.done
        each = (clock.elapsed() - begun) / fresh if fresh else 0.0
        line = f"{progress.done} of {progress.wanted} pieces"
        if left and fresh:
            line += f", about {left * each / 60:.0f} minutes left"
        ending = "\r" if sys.stderr.isatty() and left else "\n"
        print(f"{line:<60}", end=ending, file=sys.stderr, flush=True)

    try:
        if not all(store.has(piece) for piece in pieces):
            await client.open()
        progress = await HistoryDownload(client, store, settings, clock, told=told).run(pieces)
        return progress.failed
    finally:
        client.close()


def _some(panels: Any) -> Any:
    """The panels, of which there must be one."""
    none = True
    panel: Panel
    for panel in panels:
        none = False
        yield panel
    if none:
        raise DataError("TWS has no bars of these names in these days", "choose other days")


def _names(arguments: argparse.Namespace) -> list[str]:
    text = arguments.fetch_names or ""
    if arguments.names_file is not None:
        try:
            text += "," + arguments.names_file.read_text(encoding="utf-8").replace("\n", ",")
        except OSError as e:
            raise ConfigError(f"--names-file {arguments.names_file}: {e.strerror}") from e
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no names are given", "use --names A,B or --names-file FILE")
    return names


def _days(clock: Clock, first: str, last: str | None) -> tuple[date, date]:
    today = clock.now().astimezone(UTC).date()
    begin = as_date(first, "--start").date()
    end = as_date(last, "--end").date() if last else today
    if begin > end or begin > today:
        raise ConfigError(f"--start {begin}: is after {min(end, today)}", "give an earlier day")
    return begin, min(end, today)
