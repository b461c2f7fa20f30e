"""Directories of plain wide Parquet files: a time column and one column of prices per name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import utc_index
from dpa.market.fingerprints import Fingerprint
from dpa.market.frames import Frame, is_long, judge_empty_names, read_wide
from dpa.market.shard_files import MANIFEST, Block, ShardFile, ShardManifest
from dpa.market.stamps import Fault, refuse
from dpa.market.tables import PARQUET, Source, open_source, read_table

_BLOCK_CELLS = 2**19  # 4 MiB of prices


@dataclass(frozen=True, eq=False)
class PlainScan:
    """What a directory of plain files was found to hold.

    Parameters
    ----------
    manifest : ShardManifest
        Made up: files in time order, without hashes of their bytes.
    names : tuple of str
        Names with at least one price.
    dropped_names : tuple of str
        Names without any.
    off_session_prices : int
        Prices outside the sessions.
    """

    manifest: ShardManifest
    names: tuple[str, ...]
    dropped_names: tuple[str, ...]
    off_session_prices: int


def plain_blocks(
    manifest: ShardManifest,
    file: ShardFile,
    config: DataConfig,
    names: Sequence[str],
    fault: Fault = refuse,
) -> Iterator[Block]:
    """Bars of one plain file, a few MiB at a time; every priced name is a member."""
    source = open_source(manifest.path(file))
    frame = _read(source, config, names, manifest.interval, fault)
    if len(frame.closes) != file.n_bars:
        raise DataError(f"{source.path}: changed while it was being used", "start again")
    size = max(_BLOCK_CELLS // len(names), 1)
    for start in range(0, len(frame.closes), size):
        prices = frame.values[start : start + size]
        yield Block(frame.closes[start : start + size], prices, np.isfinite(prices))


def scan_plain(folder: Path, config: DataConfig, fault: Fault = refuse) -> PlainScan:
    """Read every file once, one at a time: check it, count bars, take the fingerprint.

    Raises
    ------
    DataError
        Naming the file, when there are none, or they differ in names or overlap in time.
    """
    sources = _in_time_order(folder)
    first = _read(sources[0], config, config.names, config.interval, fault)
    names, interval = first.names, str(first.interval)
    fingerprint = Fingerprint(names, interval, config.calendar)
    priced = np.zeros(len(names), dtype=np.bool_)
    files: list[ShardFile] = []
    outside, last_close = 0, 0
    for source in sources:
        frame = first if not files else _read(source, config, names, interval, fault)
        if frame.closes[0] <= last_close:
            raise DataError(
                f"{source.path}: overlaps in time with another file", "keep each bar in one file"
            )
        last_close = int(frame.closes[-1])
        seen = np.isfinite(frame.values)
        priced |= seen.any(axis=0)
        outside += int(frame.off_session.sum())
        fingerprint.update(frame.closes, frame.values, seen, {})
        files.append(_describe(source.path, frame))
    empty = tuple(names[k] for k in np.flatnonzero(~priced))
    judge_empty_names(names, empty, config, str(folder), fault)
    manifest = ShardManifest(
        names=names,
        interval=interval,
        calendar=config.calendar,
        n_bars=sum(file.n_bars for file in files),
        fingerprint=fingerprint.hexdigest(),
        files=tuple(files),
        directory=str(folder.absolute()),
    )
    kept = tuple(name for name in names if name not in set(empty))
    return PlainScan(manifest, kept, empty, outside)


def _read(
    source: Source,
    config: DataConfig,
    names: Sequence[str] | None,
    interval: str | None,
    fault: Fault = refuse,
) -> Frame:
    update = {"names": None if names is None else tuple(names), "interval": interval}
    return read_wide(source, config.model_copy(update=update), fault=fault)


def _describe(path: Path, frame: Frame) -> ShardFile:
    ends = utc_index(frame.closes[[0, -1]])
    return ShardFile(
        name=path.name,
        first=ends[0].isoformat(),
        last=ends[1].isoformat(),
        n_bars=len(frame.closes),
        sha256="",
    )


def _in_time_order(folder: Path) -> list[Source]:
    paths = sorted(p for p in folder.iterdir() if p.name.lower().endswith(PARQUET))
    if not paths:
        raise DataError(
            f"{folder}: holds neither {MANIFEST} nor Parquet files",
            "make shards with 'dpa data import FILE --out DIR'",
        )
    sources = [open_source(path) for path in paths]
    columns = set(sources[0].columns)
    starts: list[pd.Timestamp] = []
    for source in sources:
        if is_long(source):
            raise DataError(
                f"{source.path}: is a long file, but a directory must hold wide ones",
                "import it by itself with 'dpa data import'",
            )
        if set(source.columns) != columns:
            odd = sorted(columns.symmetric_difference(source.columns))[0]
            raise DataError(
                f"{source.path}: column {odd!r} is not in every file of the directory",
                "give all files the same columns",
            )
        time = source.time_column
        starts.append(read_table(source, [time], [time]).times(time)[0])
    if len({start.tz is None for start in starts}) > 1:
        raise DataError(f"{folder}: some files have time zones, some not", "make them the same")
    return [sources[k] for k in sorted(range(len(sources)), key=starts.__getitem__)]
