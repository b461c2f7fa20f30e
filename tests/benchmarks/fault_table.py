"""What a trader does in each of the 33 faults of TWS, as a table, by running the tests.

    python -m tests.benchmarks.fault_table > faults.md

Every test of tests/trading/faults plays one fault on the real dealer, journal, client library and
gateway, and says afterwards what the venue's books and ours are. Exit code 1 when one failed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.trading.faults.rig import TABLE

HERE = "tests/trading/faults"
RULES = "tests/trading/ibkr/test_rules.py"
CONNECTION = "tests/trading/ibkr/test_connection.py"
KILL = "tests/trading/test_kill.py"
FAULTS = (
    ("killed between journal and send; after send before the ack",
     "a restart finds the order by its reference; exactly one order"),
    ("the gateway never answers a place",
     "unknown; absence proved by two complete looks; then a new number, the same intent"),
    ("10349, 161, 10148, 399 on a live order", "it stays live; nothing is sent again"),
    ("a fill just before the cancel's ack", "taken after the cancel; the position is right"),
    ("partial fills, then a cancel", "quantities and average price from price × quantity"),
    ("duplicate, reordered and early callbacks", "count once, by execution"),
    ("an execution is corrected or busted", "replaced by its stem; profit restated; alert"),
    ("the commission comes late, never, or first", "the position moves at the fill; fee pending"),
    ("rejects 201, 203, 460, 110, 10289", "final, with the reason; some in a row halt"),
    ("1100, fills, 1102", "no new orders; fills still count"),
    ("1101, 1102, 2103 and 2104", "reconciled; quotes count when they move; subscribed anew"),
    ("reset, half-open, mute", "watchdog, growing pauses, nothing sent until reconciled"),
    ("a nightly restart in mid-batch, ids rolled back",
     "schedule known; numbers only rise; nothing twice"),
    ("61, 62, 53 or 55 lost at the start", "incomplete: halted, never flat"),
    ("a restart after midnight, an order filled yesterday",
     "the ledger covers it; what it lacks is a break that halts"),
    ("manual orders and positions, other clients", "marked external; permId is the identity"),
    ("326: client id in use", "fails fast, waits, takes the same id"),
    ("103: duplicate id", "numbers jump; verified by the reference"),
    ("a flood", "one rate; cancels first; bounded queue with an age limit"),
    ("162, 366, pacing of history", "limited; asked again; partial bars flagged"),
    ("101: no line left", "held positions keep theirs"),
    ("delayed or frozen data, 354, 10167, 10197", "marked; never traded on"),
    ("stale, crossed, zero and −1 quotes; a halt", "no new orders until they are good again"),
    ("09:29:59, half day 13:05, Saturday, clock change", "the venue's hours"),
    ("110, odd lots, fractions", "rounded to tick and increment; whole shares"),
    ("404 locate, nothing to borrow", "held, not rejected; refused before; cancelled in time"),
    ("margin jumps, what-if fails", "not sent; no crash; reductions pass"),
    ("ports 7496 and 4001; accounts U…; DU…,U…",
     "refused before the first order, and on reconnect"),
    ("an adviser's accounts F…,DU1,DU2", "the named account only"),
    ("read-only API (321)", "named at the start; nothing sent"),
    ("liquidation by the broker", "booked, alert, halt"),
    ("an exception in a handler", "surfaced; halts; the gateway stays up"),
    ("the kill switch during each of the above",
     "everything cancelled and verified, or said that it is not; halted in any case"),
)  # fmt: skip
BESIDE = {
    3: (f"{RULES}::test_no_code_alone_ends_an_order_that_was_acknowledged",),
    11: ("tests/trading/ibkr/test_feed.py::test_silence_is_ended_by_subscribing_anew",),
    13: (f"{RULES}::test_outages_are_known",),
    16: (f"{RULES}::test_fills_explain_positions_and_nothing_else_does",),
    19: (
        f"{CONNECTION}"
        "::test_messages_keep_to_their_pace_and_cancels_go_first",
    ),
    20: ("tests/trading/ibkr/test_history.py::test_pacing_violations_are_waited_out",),
    21: (f"{RULES}::test_who_is_held_has_a_line_before_who_is_not",),
    24: ("tests/trading/test_engine.py::test_nothing_is_sent_outside_the_session",),
    28: (f"{CONNECTION}::test_real_money_needs_the_account_number_written_out",),
    33: (f"{KILL}::test_it_holds_through_a_restart_and_a_resume_needs_a_person",),
}  # fmt: skip
"""Tests elsewhere that prove a part of a fault which these do not repeat."""

OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) (\S+?::test_(\w+?))(\[.*)?$")


@dataclass
class Row:
    """What happened in all scenarios of a fault."""

    tests: dict[str, None] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    why: str = ""

    def add(self, facts: dict[str, Any]) -> None:
        """Count a scenario."""
        for name in ("intents", "at_venue", "twice", "fills"):
            self.sums[name] += facts[name]
        self.sums["equal"] += facts["books_equal"] > 0
        self.refused.update(facts["refused"])
        self.levels[facts["level"]] += 1
        if facts["level"] == "HALTED" and not self.why:
            self.why = facts["why"]

    def __str__(self) -> str:
        passed, all_ = self.outcomes["PASSED"], sum(self.outcomes.values())
        sums = self.sums
        said = [
            f"{passed} of {all_} scenarios as expected",
            f"{sums['intents']} intents, {sums['at_venue']} orders, {sums['twice']} twice",
            f"{sums['fills']} fills",
        ]
        if sums["equal"]:
            said.append(f"books equal in {sums['equal']}")
        if self.refused:
            said.append("refused: " + ", ".join(f"{c} {n}" for c, n in self.refused.most_common(4)))
        said.append(", ".join(f"{name.lower()} {n}" for name, n in self.levels.most_common()))
        if self.why:
            said.append(f"halted: “{self.why[:90]}”")
        return "; ".join(said)


def rows(lines: list[str], facts: list[dict[str, Any]]) -> dict[int, Row]:
    """Rows by number of the fault.

    Parameters
    ----------
    lines : list of str
        What pytest printed.
    facts : list of dict
        What the scenarios wrote.
    """
    found: dict[int, Row] = defaultdict(Row)
    for line in lines:
        outcome = OUTCOME.match(line.split(" - ")[0].strip())
        if outcome and outcome[3][:2].isdigit():
            row = found[int(outcome[3][:2])]
            row.outcomes[outcome[1]] += 1
            row.tests[outcome[2].removeprefix(f"{HERE}/")] = None
    for each in facts:
        number = re.search(r"::test_(\d\d)_", each["test"])
        if number:
            found[int(number[1])].add(each)
    return found


def table(found: dict[int, Row]) -> str:
    """The table, in Markdown."""
    said = ["| # | fault | expected | happened | tests |", "|---|---|---|---|---|"]
    for number, (fault, expected) in enumerate(FAULTS, 1):
        row = found.get(number, Row())
        tests = [*row.tests, *BESIDE.get(number, ())]
        shown = "<br>".join(f"`{name}`" for name in tests)
        said.append(f"| {number} | {fault} | {expected} | {row} | {shown} |")
    return "\n".join(said)


def main() -> int:
    """Run the tests; print the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "facts.jsonl"
        beside = [test for tests in BESIDE.values() for test in tests]
        asked = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:randomly", HERE, *beside]
        done = subprocess.run(
            [*asked, "--tb=no", "--show-capture=no", *sys.argv[1:]],
            env={**os.environ, TABLE: str(file)},
            capture_output=True,
            text=True,
            check=False,
        )
        facts = [json.loads(line) for line in file.read_text().splitlines()]
    print(table(rows(done.stdout.splitlines(), facts)))
    print(f"\n{done.stdout.strip().splitlines()[-1].strip('= ')}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
