"""Price history from a file, a directory of shards or the sample, as one checked panel."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpa.config import DataConfig
from dpa.errors import ConfigError
from dpa.market.calendars import utc_index
from dpa.market.frames import (
    Frame,
    align,
    choose_names,
    is_long,
    judge_empty_names,
    read_frame,
    read_wide,
)
from dpa.market.intervals import DAY, Interval
from dpa.market.panel import Bools, Floats, Panel
from dpa.market.ranges import between_dates
from dpa.market.sample import SAMPLE, read_sample
from dpa.market.selections import select_shards
from dpa.market.stamps import OFF_SESSION, Fault, Stamps, bar_closes, overlook, refuse
from dpa.market.tables import open_source
from dpa.market.universe import Universe, UniverseRules

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What loading did besides reading.

    Parameters
    ----------
    origin : str
        File or directory; ``"sample"`` for the sample.
    layout : str
        ``wide``, ``long``, ``shards`` or ``sample``.
    n_rows : int
        Data rows read.
    off_session_prices : int
        Prices dropped because their stamp lies outside the calendar's sessions.
    empty_names : tuple of str
        Names without a single price in the dates used; they stay, never held.
    dropped_names : tuple of str
        Names without a single price in the file, left out as ``drop_empty_names`` asks.
    """

    origin: str
    layout: str
    n_rows: int
    off_session_prices: int = 0
    empty_names: tuple[str, ...] = ()
    dropped_names: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The remarkable parts, one line each."""
        lines = []
        if self.off_session_prices:
            lines.append(f"{self.origin}: {self.off_session_prices} off-session prices left out")
        for names, words in (
            (self.dropped_names, "never have a price and are left out"),
            (self.empty_names, "have no price in the dates used"),
        ):
            if names:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                lines.append(f"{self.origin}: {len(names)} names {words}: {shown}")
        return lines


def load_wide_data(config: DataConfig) -> Panel:
    """Prices, membership and what else is known of each bar: the one entry for data in memory.

    Parameters
    ----------
    config : DataConfig
        ``path`` names a wide or long CSV or Parquet file or a directory of Parquet shards;
        without it, or with ``"sample"``, the sample of 20 names is read. Dates and names are
        selected, and the universe rules applied: membership looks back over history before
        ``start`` where there is some.

    Returns
    -------
    Panel
        Times are bar closes in UTC. Missing prices are NaN, never filled. The mask is True
        where the name may be held.

    Raises
    ------
    DataError
        Naming file, column and row, and the cure; nothing is repaired silently.
    ConfigError
        When a field of `config` makes no sense.
    """
    panel, report = load_with_report(config)
    for line in report.lines():
        logger.warning("%s", line)
    return panel


def load_with_report(config: DataConfig, fault: Fault = refuse) -> tuple[Panel, LoadReport]:
    """Like :func:`load_wide_data`, with what was left out.

    Parameters
    ----------
    config : DataConfig
        See there.
    fault : callable
        What to do about faulty rows and cells: raise (default), or take note of them.
    """
    path = None if config.path in (None, SAMPLE) else Path(str(config.path))
    if path is not None and path.is_dir():
        return _load_shards(path, config, fault)
    if path is None:
        frame, layout, origin = _sample_frame(config), "sample", SAMPLE
    else:
        source = open_source(path)
        layout, origin = ("long" if is_long(source) else "wide"), str(path)
        frame = read_frame(source, config, fault)
    frame, dropped = without_empty_names(frame, config, origin, fault)
    frame = with_traded_value(frame, config, fault)
    mask = _membership(frame, config, origin)
    panel = Panel(
        utc_index(frame.closes),
        frame.names,
        frame.values,
        mask,
        str(frame.interval),
        config.calendar,
        **frame.extras,
    )
    panel = between_dates(panel, config, origin)
    report = LoadReport(
        origin,
        layout,
        frame.n_rows,
        int(frame.off_session.sum()),
        names_without_price(panel),
        dropped,
    )
    return panel, report


def _load_shards(path: Path, config: DataConfig, fault: Fault) -> tuple[Panel, LoadReport]:
    selection = select_shards(path, config, fault)
    panel = selection.panel(refuse if fault is refuse else overlook)
    report = LoadReport(
        str(path),
        "shards",
        selection.manifest.n_bars,
        selection.off_session_prices,
        names_without_price(panel),
        selection.dropped_names,
    )
    return panel, report


def names_without_price(panel: Panel) -> tuple[str, ...]:
    """Names that never have a price in `panel`."""
    return _without(panel.names, panel.prices)


def _without(names: tuple[str, ...], prices: Floats) -> tuple[str, ...]:
    """Names whose column holds no price."""
    empty = np.flatnonzero(~np.isfinite(prices).any(axis=0))
    return tuple(names[k] for k in empty)


def _sample_frame(config: DataConfig) -> Frame:
    times, names, prices = read_sample()
    chosen = choose_names(names, config.names, SAMPLE)
    if config.interval not in (None, "1d"):
        raise ConfigError(
            f"data.interval: {config.interval!r}, but the sample is daily", "leave it out"
        )
    interval = Interval(DAY)
    stamps = Stamps(times, np.full(len(times), len(names)), lambda place: place, SAMPLE)
    closes = bar_closes(stamps, interval, config)
    kept = closes != OFF_SESSION
    values = prices[:, [names.index(name) for name in chosen]][kept]
    outside = np.full(len(chosen), int((~kept).sum()))
    return Frame(closes[kept], chosen, values, interval, {}, len(times), outside)


def without_empty_names(
    frame: Frame, config: DataConfig, origin: str, fault: Fault = refuse
) -> tuple[Frame, tuple[str, ...]]:
    """Refuse names without a single price, or leave them out where `config` asks for that."""
    empty = _without(frame.names, frame.values)
    if not empty:
        return frame, ()
    judge_empty_names(frame.names, empty, config, origin, fault)
    return frame.columns(~np.isin(frame.names, empty)), empty


def with_traded_value(frame: Frame, config: DataConfig, fault: Fault = refuse) -> Frame:
    """`frame` with the traded value, USD, of ``dollar_volume_path`` where `config` names one."""
    if config.dollar_volume_path is None:
        return frame
    source = open_source(config.dollar_volume_path)
    there = [name.strip() for name in source.columns if name != source.time_column]
    shared = tuple(name for name in frame.names if name in set(there))
    matching = config.model_copy(
        update={"interval": str(frame.interval), "names": shared or tuple(there[:1])}
    )
    volume = read_wide(source, matching, traded_value=True, fault=fault)
    traded = align(volume, frame.closes, frame.names, source.path)
    return replace(frame, extras=frame.extras | {"dollar_volume": traded})


def _membership(frame: Frame, config: DataConfig, origin: str) -> Bools:
    rules = UniverseRules.from_config(config)
    traded = frame.extras.get("dollar_volume")
    rules.require(traded is not None, origin)
    return Universe(rules, len(frame.names)).update(frame.values, traded)
