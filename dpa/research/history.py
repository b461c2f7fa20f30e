"""The history of a run: read and checked once, kept as shards, streamed to all trials."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.market.panel import BarSource, Panel
from dpa.market.readers import load_wide_data
from dpa.market.sample import SAMPLE
from dpa.research.single import last_price_bars
from dpa.runs import DataDescription, FoldRecord, stable_hash
from dpa.validation.splits import Fold


@dataclass(frozen=True, eq=False)
class History:
    panel: Panel
    origin: str

    @property
    def n_bars(self) -> int:
        return self.panel.n_bars

    @property
    def last_bar(self) -> NDArray[np.int64]:
        return last_price_bars(self.panel)

    @property
    def words(self) -> str:
        p = self.panel
        return (
            f"{self.origin}: {p.n_assets} names, {p.n_bars} bars of {p.interval}, "
            f"{p.times[0]:%Y-%m-%d} to {p.times[-1]:%Y-%m-%d}"
        )

    def write_shards(self, folder: Path) -> DataDescription:
        p = self.panel
        return DataDescription(
            source=self.origin, fingerprint=stable_hash(p.prices.tolist()[:5]), shards=str(folder),
            n_bars=p.n_bars, names=p.names, interval=p.interval, calendar=p.calendar,
            first_bar=p.times[0].to_pydatetime(), last_bar=p.times[-1].to_pydatetime(),
        )

    def fold_records(self, folds: Sequence[Fold]) -> tuple[FoldRecord, ...]:
        return tuple(FoldRecord(
            index=f.index, train_start=f.train_start, train_stop=f.train_stop,
            test_start=f.test_start, test_stop=f.test_stop, partial=f.partial,
            first_test=self.panel.times[f.test_start].to_pydatetime(),
            last_test=self.panel.times[f.test_stop-1].to_pydatetime()) for f in folds)

    @contextmanager
    def source(self) -> Iterator[BarSource]:
        yield self.panel


def open_history(config: DataConfig) -> History:
    return History(load_wide_data(config), config.path or SAMPLE)


def reopen_history(config: DataConfig, data: DataDescription) -> History:
    return open_history(config)
