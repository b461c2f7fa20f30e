"""``dpa trade start`` and ``stop``: what needs the cluster."""

import argparse
import os

from dpa.errors import UserError
from dpa.trading.trade_commands import start_of
from serve.joining import find_cluster


def start_command(arguments: argparse.Namespace) -> int:
    """Start the trader; 0 once it trades, or waits for the broker."""
    start = start_of(arguments)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    where = find_cluster(arguments.ray)
    from serve.trader import connect_ray, start_trader

    connect_ray(where)
    _, status = start_trader(start)
    if status["state"] == "waiting":
        print(f"the trader waits, and tries again: {status['why']}")
    else:
        print(f"trading account {status['account']} with broker {status['broker']}; "
              f"level {status['level']}")  # fmt: skip
    print("'dpa trade status --watch' shows it; 'dpa kill' stops everything")
    return 0


def stop_command(arguments: argparse.Namespace) -> None:
    """Cancel what works and end the trader."""
    where = find_cluster(arguments.ray)
    from serve.trader import connect_ray, find_trader, stop_trader

    connect_ray(where)
    handle = find_trader()
    if handle is None:
        raise UserError("no trader runs", "'dpa trade start' starts one")
    status = stop_trader(handle)
    held = len(status["positions"]) if status else 0
    print(f"the trader has ended; {held} positions are held")
