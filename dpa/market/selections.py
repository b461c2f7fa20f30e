"""The part of a directory of shards that a configuration asks for, block by block.

Two kinds of directory are read: shards written by ``dpa data import`` and, for people who have
them already, plain wide Parquet files (a time column, one column of prices per name).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import Nanoseconds, nanoseconds, utc_index
from dpa.market.frames import choose_names
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.market.plain_shards import plain_blocks, scan_plain
from dpa.market.ranges import date_span, no_bars
from dpa.market.shard_files import (
    MANIFEST,
    Block,
    ShardFile,
    ShardManifest,
    join,
    read_blocks,
)
from dpa.market.stamps import Fault, configured_interval, refuse
from dpa.market.universe import Universe, UniverseRules


@dataclass(frozen=True, eq=False)
class ShardSelection:
    """Bars and names of a directory of shards, and the rules of the universe on them.

    Its `n_bars`, `names`, `interval` and `calendar` are those of the selected part, so it
    describes a :class:`~dpa.market.panel.BarSource`.

    Parameters
    ----------
    manifest : ShardManifest
        The whole directory.
    config : DataConfig
        Names, dates and universe rules.
    names : tuple of str, length n_assets
        Selected names, in order.
    start, stop : int
        First bar and bar after the last, counted over the whole directory.
    plain : bool
        Whether the files are plain wide Parquet rather than our own.
    off_session_prices : int
        Prices of plain files that lie outside the sessions.
    dropped_names : tuple of str
        Names of plain files that never have a price.
    """

    manifest: ShardManifest
    config: DataConfig
    names: tuple[str, ...]
    start: int
    stop: int
    plain: bool = False
    off_session_prices: int = 0
    dropped_names: tuple[str, ...] = ()

    @property
    def n_bars(self) -> int:
        """Number of selected bars."""
        return self.stop - self.start

    @property
    def interval(self) -> str:
        """Bar length."""
        return self.manifest.interval

    @property
    def calendar(self) -> str:
        """exchange_calendars code."""
        return self.manifest.calendar

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole directory's content."""
        return self.manifest.fingerprint

    @property
    def rules(self) -> UniverseRules:
        """The rules of the universe."""
        return UniverseRules.from_config(self.config)

    def files(self) -> tuple[ShardFile, ...]:
        """The files to read, in time order.

        Rules that look back need the history before `start` as well.
        """
        low = self.start if self.rules.are_trivial else 0
        chosen, first = [], 0
        for file in self.manifest.files:
            if first < self.stop and first + file.n_bars > low:
                chosen.append(file)
            first += file.n_bars
        return tuple(chosen)

    def raw_blocks(self, file: ShardFile, fault: Fault = refuse) -> Iterator[Block]:
        """All bars and selected names of one file, before dates and universe are applied."""
        if self.plain:
            yield from plain_blocks(self.manifest, file, self.config, self.names, fault)
            return
        column = {name: place for place, name in enumerate(self.manifest.names)}
        chosen = np.array([column[name] for name in self.names])
        whole = self.names == self.manifest.names
        for block in read_blocks(self.manifest, file):
            yield block if whole else _columns(block, chosen)

    def blocks(self, fault: Fault = refuse) -> Iterator[Block]:
        """The selected bars in time order, one file in memory at a time."""
        cutter = SelectionCutter(self)
        for file in self.files():
            for block in self.raw_blocks(file, fault):
                selected = cutter.select(block)
                if selected.n_bars:
                    yield selected

    def panels(self) -> Iterator[Panel]:
        """The selected bars as consecutive panels of a few MiB."""
        for block in self.blocks():
            yield block.panel(self.names, self.interval, self.calendar)

    def panel(self, fault: Fault = refuse) -> Panel:
        """The selected bars in memory."""
        return join(list(self.blocks(fault))).panel(self.names, self.interval, self.calendar)


class SelectionCutter:
    """Applies dates and universe to raw blocks that arrive in time order.

    Parameters
    ----------
    selection : ShardSelection
        What is wanted.
    """

    def __init__(self, selection: ShardSelection) -> None:
        self._selection = selection
        self._universe = Universe(selection.rules, len(selection.names))
        files = selection.files()
        self._position = 0  # of the next raw bar, counted over the whole directory
        for file in selection.manifest.files:
            if file == files[0]:
                break
            self._position += file.n_bars

    def select(self, block: Block) -> Block:
        """The wanted bars of the next raw block, membership narrowed by the rules."""
        traded = block.extras.get("dollar_volume")
        mask = block.mask & self._universe.update(block.prices, traded)
        start = min(max(self._selection.start - self._position, 0), block.n_bars)
        stop = min(max(self._selection.stop - self._position, start), block.n_bars)
        self._position += block.n_bars
        return replace(block, mask=mask).window(start, stop)


def _columns(block: Block, chosen: NDArray[np.int64]) -> Block:
    extras = {name: array[:, chosen] for name, array in block.extras.items()}
    return Block(block.times, block.prices[:, chosen], block.mask[:, chosen], extras)


def select_shards(
    directory: str | Path, config: DataConfig, fault: Fault = refuse, verified: bool = False
) -> ShardSelection:
    """Look at a directory of shards and work out which bars and names `config` asks for.

    A directory of plain wide files has no manifest, so all of it is read once, one file at a
    time, to count bars, check prices and take the fingerprint. Of other shards the bytes of the
    files to be read are compared with the manifest, which is where the fingerprint comes from;
    `verified` says that the caller has just done so.

    Raises
    ------
    DataError, ConfigError
        When there are no shards, they changed since they were written, or `config` asks for
        what they do not hold.
    """
    folder = Path(directory)
    if config.dollar_volume_path is not None:
        raise ConfigError(
            "data.dollar_volume_path: shards hold their own traded value",
            "give it to 'dpa data import' instead",
        )
    if (folder / MANIFEST).exists():
        manifest = ShardManifest.load(folder)
        selection = ShardSelection(manifest, config, manifest.names, 0, manifest.n_bars)
    else:
        scan = scan_plain(folder, config, fault)
        selection = ShardSelection(
            scan.manifest,
            config,
            scan.names,
            0,
            scan.manifest.n_bars,
            True,
            scan.off_session_prices,
            scan.dropped_names,
        )
    manifest = selection.manifest
    _check_interval(config, manifest, folder)
    selection.rules.require("dollar_volume" in manifest.extras, str(folder))
    wanted = None if selection.plain else config.names  # the scan has chosen already
    names = choose_names(selection.names, wanted, folder)
    start, stop = _date_span(selection)
    if start >= stop:
        first, last = (pd.Timestamp(t) for t in (manifest.files[0].first, manifest.files[-1].last))
        raise no_bars(str(folder), config, first, last)
    selection = replace(selection, names=names, start=start, stop=stop)
    if not (selection.plain or verified):
        _check_bytes(selection, fault)
    return selection


def _check_bytes(selection: ShardSelection, fault: Fault) -> None:
    altered = selection.manifest.altered_files(selection.files())
    if altered:
        fault(
            "altered",
            len(altered),
            DataError(
                f"{Path(selection.manifest.directory) / altered[0]}: is not the file that was "
                f"written, like {len(altered) - 1} more",
                "restore it, or import the data again with 'dpa data import'",
            ),
        )


def _check_interval(config: DataConfig, manifest: ShardManifest, folder: Path) -> None:
    wanted = configured_interval(config)
    if wanted is not None and wanted != parse_interval(manifest.interval):
        raise ConfigError(
            f"data.interval: {wanted}, but {folder} holds {manifest.interval} bars",
            "leave it out, or give other data",
        )


def _date_span(selection: ShardSelection) -> tuple[int, int]:
    """First bar and bar after the last within the dates; reads times of files at the edges."""
    manifest, config = selection.manifest, selection.config
    if config.start is None and config.end is None:
        return 0, manifest.n_bars
    start, stop, first = manifest.n_bars, 0, 0
    for file in manifest.files:
        ends = nanoseconds(pd.DatetimeIndex([pd.Timestamp(t) for t in (file.first, file.last)]))
        low, high = date_span(config, manifest.calendar, ends)
        if low < 2 and high > 0:  # neither wholly before the dates nor wholly after
            whole = (low, high) == (0, 2)
            times = ends if whole else selection_times(selection, file)
            low, high = date_span(config, manifest.calendar, times)
            high = file.n_bars if whole else high
            if low < high:
                start, stop = min(start, first + low), max(stop, first + high)
        first += file.n_bars
    return start, stop


def selection_times(selection: ShardSelection, file: ShardFile) -> Nanoseconds:
    """Bar closes of one file, UTC nanoseconds."""
    if selection.plain:
        return np.concatenate([block.times for block in selection.raw_blocks(file)])
    try:
        column = pq.ParquetFile(selection.manifest.path(file)).read(columns=["time"])
    except (OSError, pa.ArrowException) as e:
        raise DataError(
            f"{selection.manifest.path(file)}: cannot be read", "import the data again"
        ) from e
    times: Nanoseconds = column["time"].cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy()
    return times


def bar_times(selection: ShardSelection) -> pd.DatetimeIndex:
    """Closes of the selected bars, UTC, shape (n_bars,): reads only the time columns."""
    times = [selection_times(selection, file) for file in selection.manifest.files]
    return utc_index(np.concatenate(times)[selection.start : selection.stop])
