"""What was known and when, and what trading costs."""

from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.disk_source import DiskSource
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.intervals import Interval, parse_interval
from dpa.market.panel import BarSource, Panel, concat
from dpa.market.readers import LoadReport, load_wide_data, load_with_report
from dpa.market.resampling import resample, resample_pieces
from dpa.market.selections import ShardSelection, bar_times, select_shards
from dpa.market.session_grid import GridSource, on_session_grid, session_numbers
from dpa.market.shards import (
    ShardManifest,
    ShardStoreSource,
    open_shard_store,
    read_shards,
    start_shard_store,
    write_shards,
)
from dpa.market.universe import Universe, UniverseRules

__all__ = [
    "BarSource",
    "CostModel",
    "DiskSource",
    "GridSource",
    "Interval",
    "LoadReport",
    "Panel",
    "ShardManifest",
    "ShardSelection",
    "ShardStoreSource",
    "TradingCalendar",
    "Universe",
    "UniverseRules",
    "bar_times",
    "concat",
    "load_wide_data",
    "load_with_report",
    "on_session_grid",
    "open_shard_store",
    "panel_fingerprint",
    "parse_interval",
    "read_shards",
    "resample",
    "resample_pieces",
    "select_shards",
    "session_numbers",
    "start_shard_store",
    "write_shards",
]
