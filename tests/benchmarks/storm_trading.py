"""Thousands of orders while everything goes wrong: is any fill lost, any order sent twice?

    python -m tests.benchmarks.storm_trading --seed 7 --orders 10000

The real dealer, journal, client library and gateway, in simulated time; see
tests/trading/faults/storm.py. Exit code 1 when a fill was lost or made up, an intent had two
orders, a position was not explained, or money was not the venue's to the cent. What goes wrong is
a function of the seed; where messages fall between faults depends on the machine as well.
"""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.trading.faults.storm import Result, Storm


def table(result: Result) -> str:
    """What happened, in Markdown."""
    rows = [
        ("orders at the venue", f"{result.orders:,}"),
        ("sessions", f"{result.sessions}"),
        ("fills, corrections among them", f"{result.fills:,}"),
        ("attempts by how they ended", _counts(result.states)),
        ("faults", f"{sum(result.faults.values()):,}"),
        *((f"- {kind}", f"{count:,}") for kind, count in result.faults.most_common()),
        ("lost fills", f"{result.lost_fills}"),
        ("fills made up", f"{result.invented_fills}"),
        ("duplicate orders", f"{result.duplicates}"),
        ("unexplained positions", f"{result.unexplained}"),
        ("sessions with money that was not the venue's", f"{result.money_off}"),
        ("halts", _counts(result.halts) or "none"),
        ("wall time", f"{result.seconds:.0f} s"),
        ("CPU time", f"{time.process_time():.0f} s"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counted.items()))


def main() -> int:
    """Run it; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--names", type=int, default=40)
    parser.add_argument("--faults", type=float, default=2.5, help="most that begin in a minute")
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # connections are lost on purpose

    def progress(result: Result) -> None:
        print(
            f"session {result.sessions}: {result.orders:,} orders, {result.fills:,} fills, "
            f"{sum(result.faults.values())} faults, {result.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        storm = Storm(
            Path(folder),
            given.seed,
            given.orders,
            given.names,
            faults=given.faults,
            told=progress,
        )
        result = asyncio.run(storm.run())
    print(f"seed {given.seed}, {os.cpu_count()} cores\n\n{table(result)}")
    enough = result.orders >= given.orders
    return 0 if result.good and enough else 1


if __name__ == "__main__":
    sys.exit(main())
