"""A crash loses nothing, nothing is half written, damage is never taken for an empty journal."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.errors import HaltError
from dpa.trading import journal_tables as tables
from dpa.trading import lifecycle
from dpa.trading.broker import OrderSaid
from dpa.trading.identity import intent_id
from dpa.trading.journal import STEPS, Journal, JournalReader
from dpa.trading.ledger import Ledger
from dpa.trading.types import (
    Commission,
    Execution,
    Order,
    OrderState,
    Position,
    Purpose,
    Side,
)
from tests.trading.bookkeeping import (
    ACCOUNT,
    NOON,
    a_clock,
    a_fee,
    a_word,
    an_execution,
    an_intent,
    an_order,
)

D, S = Decimal, OrderState
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path, a_clock()) as made:
        yield made


def filled_in(journal: Journal) -> None:
    """A little of everything."""
    journal.set_baseline(ACCOUNT, [Position(ACCOUNT, "BBB", D(5), D("20.5"))], D(1000), "first")
    journal.commit_intents([an_intent()], [an_order()])
    journal.order_changed(lifecycle.sent(an_order()))
    journal.order_changed(lifecycle.told(an_order(), a_word(S.WORKING)), why="the broker said so")
    journal.charged(a_fee("e1"))
    journal.executed(an_execution("e1", 40, "10.01"))
    journal.executed(an_execution("e1", 30, "10.01", 2))
    journal.executed(an_execution("x1", 5, "10.01", ref="", order_id=0))
    journal.note("decision", {"id": "d1", "nav": D("1.10"), "at": NOON, "side": Side.BUY})
    journal.set_value("session", {"date": "2026-03-02", "count": 1})
    journal.raise_order_id_mark(50)
    journal.take_over("me")
    lost = an_intent("CCC")
    journal.commit_intents([lost], [an_order(lost, 51)])
    journal.order_changed(lifecycle.sent(an_order(lost, 51)))
    journal.order_changed(lifecycle.absent(journal.order(lost.id), "in no list"))
    journal.new_attempt(an_order(lost, 52, attempt=2))


def told(journal: JournalReader) -> dict[str, Any]:
    """All that can be asked."""
    return {
        "intents": journal.intents(),
        "orders": journal.orders(),
        "live": set(journal.orders(live_only=True)),
        "executions": journal.executions(),
        "external": journal.external(),
        "commissions": journal.commissions(),
        "mark": journal.order_id_mark,
        "token": journal.token,
        "value": journal.value("session"),
        "events": list(journal.events()),
        "baseline": journal.baseline(ACCOUNT),
        "accounts": journal.accounts(),
        "ledger": journal.ledger(ACCOUNT),
        "fills": journal.ledger(ACCOUNT).fills,
    }


def test_all_is_there_after_opening_again_and_for_a_reader(journal: Journal, path: Path) -> None:
    filled_in(journal)
    before = told(journal)
    assert before["mark"] == 52
    assert before["token"] == 1
    assert journal.filled(an_intent().id) == 30
    assert journal.ledger(ACCOUNT).position("AAA").shares == 35
    with Journal.reader(path) as reader:
        assert told(reader) == before
        assert reader.verify() == ()
    journal.close()
    with Journal(path, a_clock()) as again:
        assert told(again) == before
        assert again.verify() == ()
    with Journal.reader(path) as reader:
        assert told(reader) == before


def test_the_same_intent_is_never_kept_twice(journal: Journal) -> None:
    one, two = an_intent(), an_intent("BBB")
    assert journal.commit_intents([one], [an_order(one)]) == (one,)
    again = replace(one, shares=999, decided_at=NOON + timedelta(seconds=1))
    assert journal.commit_intents([again, two, two], [an_order(again, 8), an_order(two, 9)]) == (
        two,
    )
    assert journal.intent(one.id) == one
    assert [order.order_id for order in journal.orders()] == [1, 9]
    assert journal.commit_intents([], []) == ()
    assert len(list(journal.events())) == 2


def refused(journal: Journal, act: Callable[[], object], match: str) -> None:
    before = told(journal)
    with pytest.raises(HaltError, match=match):
        act()
    assert told(journal) == before


def test_what_would_make_two_live_orders_is_refused_whole(journal: Journal) -> None:
    one, other = an_intent(), an_intent(purpose=Purpose.EXIT, side=Side.SELL)
    third = an_intent("CCC")
    journal.commit_intents([one], [an_order(one)])
    both = [an_order(other, 2), an_order(third, 3)]
    refused(journal, lambda: journal.commit_intents([other, third], both), "live order already")
    refused(journal, lambda: journal.commit_intents([third], [an_order(third, 1)]), "used before")
    refused(journal, lambda: journal.commit_intents([], [an_order(third, 7)]), "no first attempt")
    sent = an_order(third, 7, state=S.SENT)
    refused(journal, lambda: journal.commit_intents([third], [sent]), "not planned")
    refused(journal, lambda: journal.new_attempt(an_order(one, 7, attempt=2)), "not proved absent")
    refused(journal, lambda: journal.new_attempt(an_order(third, 7, attempt=2)), "follows no other")


def test_an_order_never_moves_back_unless_it_was_found_alive(journal: Journal) -> None:
    journal.commit_intents([an_intent()], [an_order()])
    journal.order_changed(an_order(state=S.CANCELLED, reported=D(3), perm_id=9))
    late = an_order(state=S.WORKING)
    refused(journal, lambda: journal.order_changed(late), "cancelled becomes working")
    refused(journal, lambda: journal.order_changed(an_order(order_id=2)), "cannot change")
    unknown = an_order(an_intent("ZZZ"), 5)
    refused(journal, lambda: journal.order_changed(unknown), "not in the journal")
    journal.order_revived(late, "in the list of open orders")
    kept = journal.order(late.ref)
    assert kept == replace(late, reported=D(3), perm_id=9)
    refused(journal, lambda: journal.order_revived(late, "again"), "working becomes working")
    count = len(list(journal.events()))
    journal.order_changed(kept)
    assert len(list(journal.events())) == count


def test_an_order_is_live_while_fills_are_owed(journal: Journal) -> None:
    journal.commit_intents([an_intent()], [an_order()])
    journal.order_changed(lifecycle.told(an_order(), a_word(S.CANCELLED, 40)))
    (live,) = journal.orders(live_only=True)
    assert live.state is S.CANCELLED
    assert journal.owed(live) == 40
    journal.executed(an_execution("e1", 40))
    assert journal.orders(live_only=True) == ()
    journal.executed(an_execution("e1", 0, revision=2))  # taken back: not owed again
    assert journal.orders(live_only=True) == ()
    assert journal.verify() == ()


def test_fills_move_their_order_in_the_same_step(journal: Journal) -> None:
    journal.commit_intents([an_intent()], [an_order()])
    assert journal.executed(an_execution("e1", 60))
    assert journal.order(an_intent().id).state is S.WORKING
    assert journal.order(an_intent().id).perm_id == 7001
    assert not journal.executed(an_execution("e1", 60))
    assert journal.executed(an_execution("e2", 40))
    assert journal.order(an_intent().id).state is S.FILLED
    assert journal.executed(an_execution("e3", 1))
    (finding,) = journal.verify()
    assert finding.what == "overfilled: 101 shares of 100"


def test_fills_of_nobodys_order_are_kept_and_counted(journal: Journal) -> None:
    journal.commit_intents([an_intent()], [an_order()])
    journal.executed(an_execution("e1", 10, ref="manual"))
    assert [e.exec_id for e in journal.external()] == ["e1.01"]
    assert journal.ledger(ACCOUNT).position("AAA").shares == 10
    assert journal.filled(an_intent().id) == 0
    assert not journal.executed(an_execution("e1", 10))  # told again, now with its ref
    assert journal.external() == ()
    assert journal.filled(an_intent().id) == 10
    assert journal.ledger(ACCOUNT).position("AAA").shares == 10
    assert journal.order(an_intent().id).state is S.WORKING
    (fill,) = journal.ledger(ACCOUNT).fills
    assert fill.execution.ref == an_intent().id
    assert journal.verify() == ()


def test_a_fill_told_differently_a_second_time_is_noted(journal: Journal) -> None:
    journal.executed(an_execution("e1", 10, ref=""))
    assert not journal.executed(an_execution("e1", 11, ref=""))
    (event,) = journal.events("execution differs")
    assert (event.facts["kept"]["shares"], event.facts["said"]["shares"]) == ("10", "11")


def test_fills_find_their_attempt(journal: Journal) -> None:
    one = an_intent()
    journal.commit_intents([one], [an_order(one, 1)])
    journal.order_changed(an_order(one, 1, state=S.ABSENT, perm_id=501))
    journal.new_attempt(an_order(one, 2, attempt=2))
    journal.executed(an_execution("e1", 10, order_id=1, perm_id=0))
    journal.executed(an_execution("e2", 20, order_id=0, perm_id=501))
    journal.executed(an_execution("e3", 30, order_id=0, perm_id=0))
    first, second = journal.attempts(one.id)
    assert journal.filled(one.id) == 60
    assert first.state is second.state is S.WORKING  # it was not absent after all
    assert [finding.what for finding in journal.verify()] == [
        f"AAA has another live order, {one.id}"
    ]


def test_a_baseline_covers_what_was_known_then(journal: Journal) -> None:
    journal.executed(an_execution("e1", 40, "9.00", ref=""))
    assert journal.ledger(ACCOUNT).position("AAA").shares == 40
    journal.set_baseline(ACCOUNT, [Position(ACCOUNT, "AAA", D(40), D(9))], D(100), "the broker's")
    assert journal.ledger(ACCOUNT).position("AAA") == Position(ACCOUNT, "AAA", D(40), D(9))
    journal.executed(an_execution("e2", 1, "9.00", ref=""))
    assert journal.ledger(ACCOUNT).cash == 91
    with pytest.raises(ValueError, match="another account"):
        journal.set_baseline("DU2", [Position(ACCOUNT, "AAA", D(1), D(9))], D(0), "wrong")


CALLS = st.lists(
    st.one_of(
        st.builds(
            a_word,
            st.sampled_from([S.WORKING, S.CANCELLING, S.FILLED, S.CANCELLED, S.REJECTED]),
            st.integers(0, 100),
            code=st.sampled_from([0, 201, 10349]),
        ),
        st.builds(
            an_execution,
            st.sampled_from(["e1", "e2", "e3"]),
            st.integers(1, 60),
            st.sampled_from(["10.00", "10.05"]),
            st.integers(1, 3),
        ),
        st.builds(a_fee, st.sampled_from(["e1", "e2", "e3"])),
    ),
    max_size=7,
    unique_by=lambda call: getattr(call, "exec_id", call),
)


def consumed(folder: Path, calls: list[OrderSaid | Execution | Commission]) -> dict[str, Any]:
    with Journal(folder / "journal.sqlite", a_clock()) as journal:
        journal.commit_intents([an_intent()], [an_order()])
        for call in calls:
            if isinstance(call, Execution):
                journal.executed(call)
            elif isinstance(call, Commission):
                journal.charged(call)
            else:
                order = journal.order(call.ref)
                assert order is not None
                journal.order_changed(lifecycle.told(order, call))
            assert {f.what[:10] for f in journal.verify()} <= {"overfilled"}
        kept = told(journal)
    names = ("orders", "live", "ledger", "fills", "mark")
    return {name: kept[name] for name in names} | {"executions": set(kept["executions"])}


@settings(max_examples=25, deadline=None)
@given(CALLS.flatmap(lambda c: st.tuples(st.just(c), st.permutations(c))))
def test_callbacks_in_any_order_end_in_the_same_books_and_states(both: tuple) -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        first, second = consumed(Path(one), both[0]), consumed(Path(other), both[1])
    assert first == second


def test_a_transaction_is_kept_whole_or_not_at_all(journal: Journal, path: Path) -> None:
    journal.commit_intents([an_intent()], [an_order()])
    before = told(journal)

    def half() -> None:
        with journal.transaction():
            journal.executed(an_execution("e1", 10))
            assert journal.filled(an_intent().id) == 10
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half()
    assert told(journal) == before
    with journal.transaction():
        journal.executed(an_execution("e1", 10))
        with Journal.reader(path) as reader:
            assert told(reader) == before
        with pytest.raises(HaltError), journal.transaction():  # writes nothing, spoils nothing
            journal.order_changed(an_order(order_id=99))
        journal.note("seen", {})
    assert journal.ledger(ACCOUNT).position("AAA").shares == 10
    assert journal.verify() == ()


def test_a_part_that_failed_after_writing_spoils_the_whole_transaction(journal: Journal) -> None:
    before = told(journal)

    def swallow() -> None:
        with journal.transaction(), suppress(RuntimeError), journal.transaction():
            journal.note("half", {})
            raise RuntimeError("in the middle")

    with pytest.raises(HaltError, match="nothing of it was kept"):
        swallow()
    assert told(journal) == before


def test_values_and_notes(journal: Journal) -> None:
    assert journal.value("x") is None
    for value in (None, 0, [1, {"a": None}], "text"):
        journal.set_value("x", value)
        assert journal.value("x") == value
    count = len(list(journal.events("value")))
    journal.set_value("x", "text")
    assert len(list(journal.events("value"))) == count == 4
    number = journal.note("seen", {"at": NOON, "money": D("1.10"), "side": Side.SELL})
    (event,) = journal.events("seen")
    assert (event.number, event.time) == (number, NOON)
    assert event.facts == {
        "at": "2026-03-02T17:00:00.000000+00:00",
        "money": "1.10",
        "side": "sell",
    }
    with pytest.raises(ValueError, match="of kind 'order'"):
        journal.note("order", {})


def test_what_is_no_number_or_moment_is_refused_before_it_is_kept(journal: Journal) -> None:
    for execution in (
        an_execution("e1", "NaN"),
        an_execution("e1", 1, "Infinity"),
        replace(an_execution("e1"), time=datetime(2026, 3, 2)),  # noqa: DTZ001
    ):
        with pytest.raises(ValueError, match=r"finite|time zone"):
            journal.executed(execution)
    with pytest.raises(ValueError, match="finite"):
        journal.charged(a_fee("e1", "NaN"))
    assert list(journal.events()) == []


# --- crashes -------------------------------------------------------------------------------

CRASH = """
import os, signal, sys
from pathlib import Path
from dpa.trading.journal import Journal
from tests.trading.bookkeeping import a_clock
from tests.trading.test_journal import filled_in

def crash(path, at, left):
    def step(name):
        nonlocal left
        left -= name == at
        if name == at and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    filled_in(Journal(Path(path), a_clock(), step))

for line in sys.stdin:  # each in a process of its own
    path, at, left = line.rstrip().split(chr(9))
    child = os.fork()
    if not child:
        crash(path, at, int(left))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def crash() -> Iterator[Callable[[Path, str, int], int]]:
    """Run :func:`filled_in` in another process, killed at a step; returns its exit code."""
    command = [sys.executable, "-c", CRASH]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:

        def ask(path: Path, at: str, count: int = 1) -> int:
            process.stdin.write(f"{path}\t{at}\t{count}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask


def events_of(path: Path) -> list[Any]:
    with Journal.reader(path) as reader:
        return list(reader.events())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    path = tmp_path_factory.mktemp("whole") / "journal.sqlite"
    with Journal(path, a_clock()) as journal:
        filled_in(journal)
        return list(journal.events())


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("when", ["", "writing "])
def test_killed_at_any_step_nothing_is_lost_and_nothing_half_written(
    kind: str, when: str, path: Path, whole: list[Any], crash: Callable
) -> None:
    assert crash(path, when + kind, 1) == -signal.SIGKILL
    step = "decision" if kind == "note" else kind
    first = next(k for k, event in enumerate(whole) if event.kind == step)
    kept = whole[: first if when else first + 1]
    assert events_of(path) == kept
    with Journal(path, a_clock()) as journal:
        assert list(journal.events()) == kept
        assert journal.verify() == ()
        journal.note("again", {})


def test_what_is_repeated_after_crashes_is_kept_once(path: Path, crash: Callable) -> None:
    """The trader that starts again decides the same and is told the same."""
    for at in ("intents", "writing order", "execution", "writing execution"):
        crash(path, at, 1)
    with Journal(path, a_clock()) as journal:
        assert len(journal.intents()) == 1
        assert len(journal.executions()) == 1
        assert journal.verify() == ()


# --- damage --------------------------------------------------------------------------------


def test_a_new_journal_is_private_and_leaves_no_rubbish(journal: Journal, path: Path) -> None:
    journal.note("x", {})
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    names = {file.name for file in path.parent.iterdir()}
    assert names == {path.name + end for end in ("", "-wal", "-shm", ".made")}


def whole_file(path: Path) -> bytes:
    with Journal(path, a_clock()) as journal:
        with journal.transaction():
            for k in range(300):
                journal.note("filler", {"k": k, "text": "x" * 50})
        filled_in(journal)
    return path.read_bytes()


DAMAGE = {
    "empty": lambda data: b"",
    "no database": lambda data: b"something else" * 500,
    "cut in two": lambda data: data[: len(data) // 2],
    "a head of zeros": lambda data: b"\0" * 4096 + data[4096:],
    "a torn page": lambda data: data[:4096] + b"\xff" * 4096 + data[8192:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_halts_and_is_never_an_empty_journal(how: str, path: Path) -> None:
    spoiled = DAMAGE[how](whole_file(path))
    path.write_bytes(spoiled)
    with pytest.raises(HaltError, match="damaged") as caught:
        Journal(path, a_clock())
    assert "restore" in caught.value.cure
    assert path.read_bytes() == spoiled


def test_a_journal_that_was_lost_halts(path: Path) -> None:
    Journal(path, a_clock()).close()
    path.unlink()
    with pytest.raises(HaltError, match="is gone"):
        Journal(path, a_clock())
    assert not path.exists()
    path.with_name(path.name + ".made").unlink()
    Journal(path, a_clock()).close()


def test_a_file_of_another_program_or_a_newer_dpa_is_refused(path: Path) -> None:
    Journal(path, a_clock()).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(tables.MIGRATIONS) + 1}")
    db.close()
    for opened in (lambda: Journal(path, a_clock()), lambda: Journal.reader(path)):
        with pytest.raises(HaltError, match=r"newer dpa .version 2; this one knows 1.*; use that"):
            opened()
    stranger = path.with_name("stranger.sqlite")
    db = sqlite3.connect(stranger)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    with pytest.raises(HaltError, match="not a journal"):
        Journal(stranger, a_clock())


def test_a_journal_of_version_0_is_brought_up_to_date(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("VACUUM")  # a page, and no table
    db.close()
    assert path.stat().st_size > 0
    with pytest.raises(HaltError, match=r"older dpa .version 0 of 1.*start the trader once"):
        Journal.reader(path)
    with Journal(path, a_clock()) as journal:
        filled_in(journal)
        assert journal.verify() == ()


def test_an_older_journal_keeps_its_lines_and_a_failing_step_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path, a_clock()) as journal:
        filled_in(journal)
        before = list(journal.events())
    good = tables.MIGRATIONS
    broken = "ALTER TABLE numbers ADD COLUMN more TEXT; SELECT * FROM nowhere;"
    monkeypatch.setattr(tables, "MIGRATIONS", (*good, broken))
    with pytest.raises(HaltError, match="nowhere"):
        Journal(path, a_clock())
    monkeypatch.setattr(tables, "MIGRATIONS", (*good, "CREATE TABLE more (x TEXT) STRICT;"))
    with Journal(path, a_clock()) as journal:
        assert list(journal.events()) == before
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_a_full_disk_halts_and_keeps_what_was_there(journal: Journal, path: Path) -> None:
    filled_in(journal)
    before = told(journal)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    many = [an_intent(f"S{k}") for k in range(500)]
    with pytest.raises(HaltError, match="disk is full; nothing of this step was kept; free space"):
        journal.commit_intents(many, [an_order(one, 100 + k) for k, one in enumerate(many)])
    assert told(journal) == before
    journal._db.execute("PRAGMA max_page_count = 1000000")
    assert len(journal.commit_intents(many, [])) == 500
    assert journal.verify() == ()


def test_a_second_writer_makes_the_first_one_stop(journal: Journal, path: Path) -> None:
    journal.note("first", {})
    with Journal(path, a_clock()) as other:
        other.note("second", {})
        for _ in range(2):
            with pytest.raises(HaltError, match="another process wrote"):
                journal.note("late", {})
        other.note("third", {})
        assert [event.kind for event in other.events()] == ["first", "second", "third"]


def test_a_writer_waits_for_no_lock_for_ever(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BUSY_MILLISECONDS", 10)
    held = pytest.raises(HaltError, match="another process is writing")
    with Journal(path, a_clock()) as other, journal.transaction(), held:
        other.note("x", {})


# --- verify --------------------------------------------------------------------------------


def tampered(path: Path, *statements: str) -> list[str]:
    with Journal(path, a_clock()) as journal:
        filled_in(journal)
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER events_kept")
    db.execute("DROP TRIGGER events_unchanged")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()
    with Journal.reader(path) as reader:
        return [str(finding) for finding in reader.verify()]


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE events SET facts = '{}' WHERE number = 5", "event 5: its hash does not fit"),
        ("UPDATE events SET time = '' WHERE number = 5", "event 5: its hash does not fit"),
        ("DELETE FROM events WHERE number = 5", "event 6: events 5 to 5 are missing"),
        ("DELETE FROM events WHERE number > 11", "numbers token: no event made it"),
        (
            "UPDATE orders SET state = 'filled' WHERE attempt = 2",
            "state is 'filled', by the events",
        ),
        ("UPDATE orders SET live = 0", "live is 0, by the events 1"),
        ("DELETE FROM executions WHERE revision = 2", "it is gone from the tables"),
        ("UPDATE executions SET shares = '31' WHERE revision = 2", "shares is '31', by the"),
        ("DELETE FROM intents WHERE symbol = 'CCC'", "it has no intent"),
        ('UPDATE "values" SET value = \'{"of":2}\'', "values session: value is"),
        ("UPDATE numbers SET number = 3 WHERE name = 'order_id_mark'", "above the mark"),
        ("UPDATE baselines SET cash = '1'", "cash is '1', by the events '1000'"),
        ("UPDATE commissions SET amount = '1'", "amount is '1', by the events '0.35'"),
    ],
)
def test_every_alteration_is_found(statement: str, finding: str, path: Path) -> None:
    assert any(finding in said for said in tampered(path, statement))


def test_events_cannot_be_changed_through_sql(journal: Journal) -> None:
    journal.note("x", {})
    for statement in ("DELETE FROM events", "UPDATE events SET kind = 'y'"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            journal._db.execute(statement)


# --- beside a reader, and speed ------------------------------------------------------------


def test_a_reader_sees_whole_transactions_while_a_trader_writes(
    journal: Journal, path: Path
) -> None:
    ready, halves = threading.Event(), []

    def read() -> None:
        with Journal.reader(path) as reader:
            seen = -1
            while seen < 200:
                with reader.snapshot():
                    executions, fees = reader.executions(), reader.commissions()
                    if len(executions) != len(fees):
                        halves.append((len(executions), len(fees)))
                seen = len(executions)
                ready.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert ready.wait(30)
    for k in range(200):
        with journal.transaction():
            journal.executed(an_execution(f"e{k}", 1, ref=""))
            journal.charged(a_fee(f"e{k}"))
    thread.join(60)
    assert not thread.is_alive()
    assert halves == []


def test_the_books_of_weeks_stay_small_and_right(journal: Journal, path: Path) -> None:
    def fill(day: int, revision: int = 1, shares: int = 10) -> Execution:
        time = NOON + timedelta(days=day)
        return an_execution(f"e{day}", shares, 10 + day, revision, ref="", time=time)

    journal.ledger(ACCOUNT)
    most = 0
    for day in range(40):
        journal.executed(fill(day))
        journal.charged(a_fee(f"e{day}"))
        most = max(most, len(journal.ledger(ACCOUNT).fills))
    assert most <= 16
    for late in (fill(2, 2, 5), fill(-3)):
        journal.executed(late)
        with Journal.reader(path) as reader:
            assert journal.ledger(ACCOUNT) == reader.ledger(ACCOUNT)
    journal.charged(a_fee("e-3"))
    with Journal.reader(path) as reader:
        assert journal.ledger(ACCOUNT) == reader.ledger(ACCOUNT)
        assert len(reader.ledger(ACCOUNT).fills) == 41
    assert journal.verify() == ()


def test_threads_take_turns(journal: Journal) -> None:
    def write(name: int) -> None:
        for k in range(20):
            journal.executed(an_execution(f"e{name}-{k}", 1, ref=""))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert journal.ledger(ACCOUNT).position("AAA").shares == 80
    assert journal.verify() == ()


def many_intents(count: int) -> tuple[list, list[Order]]:
    made = [an_intent(f"S{k:04d}") for k in range(count)]
    return made, [an_order(one, k + 1) for k, one in enumerate(made)]


def test_500_intents_cost_milliseconds(journal: Journal) -> None:
    """A bound ten times what was measured, for machines that are busy."""
    given_intents, orders = many_intents(500)
    start = time.perf_counter()
    assert len(journal.commit_intents(given_intents, orders)) == 500
    assert time.perf_counter() - start < 0.5
    assert len(list(journal.events())) == 1


def test_5000_executions_are_folded_in_milliseconds() -> None:
    told_ones = [
        an_execution(f"e{k:05d}", 10, symbol=f"S{k % 500}", time=NOON + timedelta(seconds=k))
        for k in range(5000)
    ]
    start = time.perf_counter()
    ledger = Ledger(ACCOUNT, None, told_ones)
    assert time.perf_counter() - start < 1.0
    assert ledger.position("S7").shares == 100


def test_many_intents_are_looked_for_in_as_many_questions_as_few(journal: Journal) -> None:
    asked: list[str] = []
    journal._db.set_trace_callback(asked.append)

    def questions(count: int, first: int) -> int:
        intents = [an_intent(f"S{first + k}") for k in range(count)]
        orders = [an_order(intent, first + k) for k, intent in enumerate(intents)]
        assert journal.known(intent.id for intent in intents) == set()
        asked.clear()
        assert journal.commit_intents(intents, orders) == tuple(intents)
        found = sum(line.startswith("SELECT") for line in asked)
        refs = {intent.id for intent in intents}
        assert journal.known([*refs, an_intent("another").id]) == refs
        return found

    few, many = questions(2, 1), questions(200, 1000)
    assert few == many
    journal._db.set_trace_callback(None)


def test_two_orders_of_one_number_are_refused_together(journal: Journal) -> None:
    one, two = an_intent(), an_intent("BBB")
    orders = [an_order(one, 7), an_order(two, 7)]
    refused(journal, lambda: journal.commit_intents([one, two], orders), "used before")
    assert journal.orders() == ()


def test_ids_of_intents_are_what_the_journal_keys_on(journal: Journal) -> None:
    one = an_intent(decision="d9")
    assert one.id == intent_id(ACCOUNT, "d9", "AAA", Side.BUY, Purpose.ENTER)
    journal.commit_intents([one], [an_order(one)])
    assert journal.order_by_id(1) == journal.order(one.id) == an_order(one)
    assert journal.order_by_id(2) is journal.order("none") is journal.intent("none") is None


def test_a_clock_that_steps_back_breaks_nothing(path: Path) -> None:
    for hours in (1, 0):
        with Journal(path, FixedClock(NOON + timedelta(hours=hours))) as journal:
            journal.note("x", {})
            assert journal.verify() == ()


def test_a_journal_that_was_moved_away_is_seen_as_missing(tmp_path: Path) -> None:
    with pytest.raises(HaltError, match="there is no journal"):
        Journal.reader(tmp_path / "none.sqlite")
    with pytest.raises(HaltError):
        Journal(Path(os.devnull) / "x", a_clock())
