"""The history of a run: looked at once, kept as shards, streamed to all trials."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig, Settings
from dpa.errors import RunError
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.panel import Panel
from dpa.market.readers import load_wide_data
from dpa.market.sample import SAMPLE
from dpa.market.selections import ShardSelection, bar_times, select_shards
from dpa.market.shard_files import MANIFEST, Block, ShardManifest, write_shards
from dpa.research.single import last_price_bars
from dpa.runs import DataDescription, FoldRecord
from dpa.validation.splits import Fold

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class History:
    """What a run reads.

    Parameters
    ----------
    origin : str
        File or directory as given; ``"sample"`` for the sample.
    fingerprint : str
        Of the bars themselves.
    times : DatetimeIndex (n_bars,)
        Bar closes, UTC.
    last_bar : int ndarray (n_assets,)
        Bar number of each name's last price; for delistings in the accounting, no decision
        sees it.
    names, interval, calendar
        As of the panel.
    panel : Panel, optional
        The bars of a file or of the sample, until they are shards.
    selection : ShardSelection, optional
        The part of a directory of shards; there as soon as there are shards.
    """

    origin: str
    fingerprint: str
    times: pd.DatetimeIndex
    last_bar: NDArray[np.int64]
    names: tuple[str, ...]
    interval: str
    calendar: str
    panel: Panel | None = None
    selection: ShardSelection | None = None

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return len(self.times)

    @property
    def words(self) -> str:
        """One line for people."""
        return (
            f"{self.origin}: {len(self.names)} names, {self.n_bars} bars of {self.interval}, "
            f"{self.times[0]:%Y-%m-%d} to {self.times[-1]:%Y-%m-%d}"
        )

    @property
    def extras(self) -> tuple[str, ...]:
        """Optional arrays of a panel that the bars have."""
        if self.selection is not None:
            return self.selection.manifest.extras
        return () if self.panel is None else tuple(self.panel.extras())

    def in_memory(self) -> Panel:
        """All bars as one panel."""
        if self.panel is not None:
            return self.panel
        if self.selection is None:
            raise RunError(f"{self.origin}: there are neither bars nor shards")
        return self.selection.panel()

    def describe(self) -> DataDescription:
        """What the manifest of the run says about its data."""
        shards = self.selection.manifest.directory if self.selection is not None else ""
        return DataDescription(
            source=self.origin,
            fingerprint=self.fingerprint,
            shards=shards,
            n_bars=self.n_bars,
            names=self.names,
            interval=self.interval,
            calendar=self.calendar,
            first_bar=self.times[0].to_pydatetime(),
            last_bar=self.times[-1].to_pydatetime(),
        )

    def fold_records(self, folds: Sequence[Fold]) -> tuple[FoldRecord, ...]:
        """`folds` with the times of their first and last test bars."""
        return tuple(
            FoldRecord(
                index=fold.index,
                train_start=fold.train_start,
                train_stop=fold.train_stop,
                test_start=fold.test_start,
                test_stop=fold.test_stop,
                partial=fold.partial,
                first_test=self.times[fold.test_start].to_pydatetime(),
                last_test=self.times[fold.test_stop - 1].to_pydatetime(),
            )
            for fold in folds
        )


def located(settings: Settings) -> Settings:
    """`settings` with absolute paths of the data, so that a run can be resumed from anywhere."""
    fields = ("path", "dollar_volume_path")
    given = {field: getattr(settings.data, field) for field in fields}
    whole = {
        field: str(Path(path).absolute())
        for field, path in given.items()
        if path not in (None, SAMPLE)
    }
    return settings.model_copy(update={"data": settings.data.model_copy(update=whole)})


def open_history(config: DataConfig) -> History:
    """Look at what `config` names: a file and the sample are read, shards only looked at.

    Raises
    ------
    DataError, ConfigError
        Naming file, column and row, or the field, and the cure.
    """
    if config.path not in (None, SAMPLE) and Path(str(config.path)).is_dir():
        return _of_shards(select_shards(str(config.path), config), str(config.path))
    panel = load_wide_data(config)
    return History(
        config.path or SAMPLE,
        panel_fingerprint(panel),
        panel.times,
        last_price_bars(panel),
        panel.names,
        panel.interval,
        panel.calendar,
        panel=panel,
    )


def _of_shards(selection: ShardSelection, origin: str) -> History:
    return History(
        origin,
        selection.fingerprint,
        bar_times(selection),
        last_bars_of_shards(selection),
        selection.names,
        selection.interval,
        selection.calendar,
        selection=selection,
    )


def last_bars_of_shards(selection: ShardSelection) -> NDArray[np.int64]:
    """Bar number of each name's last price within `selection`, (n_assets,); -1 for none.

    Reads from the end, a file at a time, until every name is found.
    """
    last = np.full(len(selection.names), -1)
    stop = selection.manifest.n_bars
    for file in reversed(selection.manifest.files):
        start = stop - file.n_bars
        if start < selection.stop and stop > selection.start and (last < 0).any():
            _take_last(selection, list(selection.raw_blocks(file)), start, last)
        stop = start
    return np.where(last < 0, -1, last - selection.start)


def _take_last(
    selection: ShardSelection, blocks: list[Block], start: int, last: NDArray[np.int64]
) -> None:
    """Fill `last` (bars of the whole directory) for names first seen in these blocks."""
    found = np.full(len(last), -1)
    for block in blocks:
        rows = slice(
            min(max(selection.start - start, 0), block.n_bars),
            min(max(selection.stop - start, 0), block.n_bars),
        )
        priced = np.isfinite(block.prices[rows])
        if len(priced):
            ends = start + rows.start + len(priced) - 1 - priced[::-1].argmax(axis=0)
            found = np.where(priced.any(axis=0), ends, found)
        start += block.n_bars
    np.copyto(last, found, where=(last < 0) & (found >= 0))


def ensure_shards(history: History, cache: Path) -> History:
    """`history` as shards: its own, or written under `cache`, once for all runs.

    Raises
    ------
    DataError
        When `cache` cannot be written.
    """
    if history.selection is not None or history.panel is None:
        return history
    folder = cache / history.fingerprint[:16]
    if not ((folder / MANIFEST).is_file() and _are_whole(folder)):
        write_shards(history.panel, folder, force=folder.exists())
    config = DataConfig(calendar=history.calendar, interval=history.interval)
    return replace(history, panel=None, selection=select_shards(folder, config, verified=True))


def _are_whole(folder: Path) -> bool:
    """Whether shards are as they were written; says so when not."""
    altered = ShardManifest.load(folder).altered_files()
    if altered:
        logger.warning("%s: is not the file that was written; not used", folder / altered[0])
    return not altered


def reopen_history(config: DataConfig, data: DataDescription) -> History:
    """The history of an earlier run, from its shards, or else from what they were made of.

    Shards that changed since they were written are not used: those that the run made itself are
    to be made again.

    Raises
    ------
    RunError
        When the data are no longer those of the run.
    DataError
        Naming the file, when neither shards nor what they were made of can be read.
    """
    shards = Path(data.shards)
    made = data.source == SAMPLE or shards != Path(data.source)
    if data.shards and made and (shards / MANIFEST).is_file() and _are_whole(shards):
        plain = DataConfig(calendar=data.calendar, interval=data.interval)
        history = _of_shards(select_shards(shards, plain, verified=True), data.source)
    else:
        history = open_history(config)
    if history.fingerprint != data.fingerprint:
        raise RunError(
            f"{data.source}: the data changed since the run began", "start a new run, or restore it"
        )
    return history
