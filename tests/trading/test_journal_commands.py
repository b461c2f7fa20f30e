"""What a person sees of a journal, on a terminal and in files."""

import csv
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from dpa.cli import main
from dpa.trading import lifecycle
from dpa.trading.journal import FILE_NAME, Journal
from dpa.trading.types import OrderState, Position, Side
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


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Yesterday's position, a purchase half filled today, and a sale by hand at 20:00 in New York,
    which is tomorrow in UTC."""
    clock = a_clock()
    with Journal(tmp_path / "trading" / ACCOUNT / FILE_NAME, clock) as made:
        start = Position(ACCOUNT, "BBB", Decimal(100), Decimal("20.25"))
        made.set_baseline(ACCOUNT, [start], Decimal("5000.00"), "the broker's")
        made.commit_intents([an_intent()], [an_order()])
        made.order_changed(lifecycle.told(an_order(), a_word(OrderState.WORKING, 60)))
        made.executed(an_execution("e1", 50, "10.00"))
        made.charged(a_fee("e1", "0.35"))
        evening = NOON.replace(day=3, hour=1)
        by_hand = {"symbol": "BBB", "side": Side.SELL, "time": evening, "ref": "", "order_id": 0}
        made.executed(an_execution("x1", 40, "21.25", **by_hand))
        yield made


def typed(tmp_path: Path, *words: str) -> int:
    return main(["journal", *words, "--storage", str(tmp_path)])


def test_a_person_reads_orders_fills_positions_and_profit(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(tmp_path, "show") == 0
    said = capsys.readouterr().out
    ref = an_intent().id
    for line in (
        "orders: 1",
        "2026-03-02 12:00:00  AAA     buy   100     50 (10 owed)  adaptive  -      working  enter "
        f"   {ref}",
        "fills: 2",
        "2026-03-02 12:00:00  AAA     buy   50      10.00  0.00      0.35  50        e1.01",
        "2026-03-02 20:00:00  BBB     sell  40      21.25  40.00     -     60        x1.01 "
        "   not ours",
        "positions of DU1: 2",
        "AAA     50      10.0000",
        "BBB     60      20.2500",
        "cash 5,349.65 USD",
        "realised 40.00 USD before fees of 0.35 USD; fees not told yet: 1",
    ):
        assert line in said, said


def test_filters_choose_and_say_what_is_there(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def counted(*words: str) -> tuple[int, int, int]:
        assert typed(tmp_path, "show", "--json", *words) == 0
        said = json.loads(capsys.readouterr().out)
        return len(said["orders"]), len(said["fills"]), len(said["positions"])

    assert counted() == (1, 2, 2)
    assert counted("--symbol", "BBB") == (0, 1, 1)
    assert counted("--session", "2026-03-02") == (1, 2, 2)
    assert counted("--session", "2026-03-03") == (0, 0, 2)
    assert counted("--session", "latest") == (1, 2, 2)
    assert counted("--account", ACCOUNT, "--live") == (1, 2, 2)
    assert typed(tmp_path, "show", "--account", "DU9") == 2
    assert "nothing of account DU9; there is DU1" in capsys.readouterr().err
    assert typed(tmp_path, "show", "--session", "2.3.2026") == 2
    assert "write it as 2026-03-02" in capsys.readouterr().err


def test_numbers_in_json_are_exact_text(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(tmp_path, "show", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["accounts"] == [
        {
            "account": ACCOUNT,
            "cash": "5349.65",
            "realised": "40.00",
            "fees": "0.35",
            "fees_pending": 1,
        }
    ]
    assert said["fills"][0]["price"] == "10.00"


def test_an_empty_journal_is_shown_as_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.sqlite"
    Journal(path, a_clock()).close()
    assert main(["journal", "show", "--journal", str(path), "--session", "latest"]) == 0
    assert capsys.readouterr().out == "orders: none\n\nfills: none\n\n"


def test_verify_says_good_or_what_is_wrong_and_leaves_with_1(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(tmp_path, "verify") == 0
    assert capsys.readouterr().out.endswith("journal.sqlite: good, 6 events\n")
    db = sqlite3.connect(journal.path)
    db.execute("UPDATE orders SET state = 'filled'")
    db.commit()
    db.close()
    assert typed(tmp_path, "verify") == 1
    said = capsys.readouterr().out
    assert f"orders {an_intent().id} 1: state is 'filled', by the events 'working'" in said


def test_verify_of_a_ruin_leaves_with_1_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ruin = tmp_path / "ruin.sqlite"
    ruin.write_bytes(b"no database at all" * 100)
    assert main(["journal", "verify", "--journal", str(ruin)]) == 1
    said = capsys.readouterr()
    assert "damaged" in said.out + said.err
    assert "Traceback" not in said.err


def test_exports_say_the_same_in_every_format(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ending in ("parquet", "csv", "jsonl"):
        assert typed(tmp_path, "export", "--out", str(tmp_path / f"fills.{ending}")) == 0
    assert "fills.csv: 2 fills" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "fills.parquet").to_pylist()
    rows = list(csv.DictReader((tmp_path / "fills.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (tmp_path / "fills.jsonl").read_text().splitlines()]
    assert [row["price"] for row in table] == [Decimal("10"), Decimal("21.25")]
    assert [row["price"] for row in rows] == [row["price"] for row in lines] == ["10.00", "21.25"]
    assert table[0]["time"] == NOON
    assert [row["external"] for row in table] == [False, True]
    assert not list(tmp_path.glob(".fills*"))


@pytest.mark.parametrize("what", ["fills", "orders", "events"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_everything_can_be_exported_also_when_there_is_nothing(
    what: str, ending: str, journal: Journal, tmp_path: Path
) -> None:
    out = tmp_path / f"{what}.{ending}"
    for session, empty in (("2026-03-02", False), ("1999-01-04", True)):
        assert (
            typed(tmp_path, "export", "--what", what, "--session", session, "--out", str(out)) == 0
        )
        if ending == "parquet":
            assert (len(pd.read_parquet(out)) == 0) == empty
        else:
            assert len(out.read_text().splitlines()) >= (not empty)


def test_exports_that_cannot_be_are_refused_in_a_line(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, words in (
        ("fills.xlsx", "end its name in .parquet, .csv, .jsonl"),
        ("fills", "a file without an ending"),
        ("nowhere/fills.csv", "there is no folder"),
    ):
        assert typed(tmp_path, "export", "--out", str(tmp_path / out)) == 2
        assert words in capsys.readouterr().err
    out = str(tmp_path / "events.csv")
    assert typed(tmp_path, "export", "--what", "events", "--symbol", "AAA", "--out", out) == 2


def test_the_journal_is_found_or_the_choice_is_named(
    journal: Journal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(tmp_path / "none", "show") == 2
    assert "there is no journal" in capsys.readouterr().err
    with Journal(tmp_path / "trading" / "DU2" / FILE_NAME, a_clock()) as other:
        other.executed(an_execution("e1", account="DU2", ref=""))
    assert typed(tmp_path, "show") == 2
    assert "several journals" in capsys.readouterr().err
    assert typed(tmp_path, "show", "--account", "DU2") == 0
    assert "positions of DU2: 1" in capsys.readouterr().out
    folder = str(tmp_path / "trading" / ACCOUNT)
    assert main(["journal", "verify", "--journal", folder]) == 0
    assert main(["journal", "verify", "--journal", str(tmp_path / "x")]) == 2


def test_verify_of_a_torn_page_names_the_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, a_clock()) as made, made.transaction():
        for k in range(500):
            made.note("filler", {"k": k, "text": "x" * 80})
    data = bytearray(path.read_bytes())
    middle = len(data) // 8192 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    assert main(["journal", "verify", "--journal", str(path)]) == 1
    said = capsys.readouterr()
    assert "damaged" in said.out
    assert said.err == ""


@pytest.mark.parametrize("name", ["show", "verify", "export"])
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["journal", name, "--help"])
    said = capsys.readouterr().out
    assert f"examples:\n  dpa journal {name}" in said


def test_help_and_reading_are_possible_from_a_shell(journal: Journal) -> None:
    """While this process holds the journal open for writing."""
    command = [sys.executable, "-m", "dpa.cli", "journal", "verify", "--journal", str(journal.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
