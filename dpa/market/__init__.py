"""What was known and when, and what trading costs."""

from dpa.market.calendars import TradingCalendar
from dpa.market.costs import CostModel
from dpa.market.fingerprints import panel_fingerprint
from dpa.market.intervals import Interval, parse_interval
from dpa.market.panel import BarSource, Panel, concat
from dpa.market.readers import LoadReport, load_wide_data, load_with_report
from dpa.market.selections import ShardSelection, bar_times, select_shards
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
    "open_shard_store",
    "panel_fingerprint",
    "parse_interval",
    "read_shards",
    "select_shards",
    "start_shard_store",
    "write_shards",
]
