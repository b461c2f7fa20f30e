"""What is counted from files that a scenario leaves."""

from tests.hosts.facts import Facts, table
from tests.hosts.grid import folds_again
from tests.hosts.serving import STEADY, Attempt, recovered_at
from tests.hosts.trading import host_of


def reported(*folds: tuple[str, int, int]) -> list[dict[str, object]]:
    return [{"node_ip": ip, "pid": pid, "folds_done": done} for ip, pid, done in folds]


def test_folds_done_again_are_those_saved_before_and_reported_after() -> None:
    told = {
        "moved": reported(("a", 1, 1), ("a", 1, 2), ("a", 1, 3), ("b", 9, 3), ("b", 9, 4)),
        "resumed": reported(("a", 2, 1), ("a", 2, 2), ("b", 9, 3)),
        "undisturbed": reported(("b", 3, 1), ("b", 3, 2)),
        "finished": reported(("a", 4, 1), ("b", 9, 1)),
    }
    before = {"moved": 4, "resumed": 2, "undisturbed": 1, "finished": -1}
    assert folds_again(before, told) == {"moved": 2, "resumed": 0}


def attempt(number: int, seconds: float = 0.1, error: str = "", left_out: int = 0) -> Attempt:
    return Attempt(number, float(number), seconds, error, left_out)


def test_recovered_is_the_beginning_of_a_steady_row() -> None:
    bad = [attempt(3, error="503"), attempt(5, seconds=2.0), attempt(7, left_out=1)]
    good = [attempt(n) for n in range(40) if n not in (3, 5, 7)]
    attempts = sorted([*good, *bad], key=lambda each: each.sent)
    assert recovered_at(attempts, 0.0) == 8.0
    assert recovered_at(attempts[: 8 + STEADY - 1], 0.0) is None
    assert recovered_at(attempts, 12.0) == 12.0


def test_the_host_of_a_trader_is_in_its_lease() -> None:
    holder = "trader (process 7 on worker1, last heard of at 2026-03-02 15:00:00 UTC)"
    assert host_of({"lease": {"holder": holder}}) == "worker1"
    assert host_of({"lease": {"holder": ""}}) == ""


def test_a_broken_promise_stands_out() -> None:
    facts = Facts("A title")
    facts.measured("seconds", 3)
    facts.promised("one order an intent", "2 | 1", False)
    facts.promised("the ledger", "agrees", True)
    assert table([facts]).splitlines() == [
        "### A title",
        "",
        "| what | found | |",
        "|---|---|---|",
        "| seconds | 3 |  |",
        "| one order an intent | 2 / 1 | **BROKEN** |",
        "| the ledger | agrees | holds |",
    ]
    assert [fact.what for fact in facts.broken] == ["one order an intent"]
