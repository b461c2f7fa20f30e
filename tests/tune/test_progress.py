"""What the grid says while it runs."""

import io
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from _progress import PLAIN_SECONDS, Board, duration, showing
from rich.console import Console

from dpa.clock import FixedClock


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def board(clock: FixedClock) -> Board:
    names = ("a", "b", "c")
    return Board({name: f"window={name}" for name in names}, dict.fromkeys(names, 4), clock)


def fold(number: int, sharpe: float, done: bool = False, status: str = "running") -> dict[str, Any]:
    return {
        "folds_done": number,
        "net_sharpe_so_far": sharpe,
        "done": done,
        "status": "done" if done and status == "running" else status,
    }


def trial(name: str) -> SimpleNamespace:
    return SimpleNamespace(config={"point": {"trial_id": name}}, status="ERROR")


def test_the_line_counts_trials_and_folds_and_names_the_best(
    board: Board, clock: FixedClock
) -> None:
    assert board.line() == "trials 0/3, folds 0/12, time left not known yet"
    clock.advance(60)  # starting up says nothing about the pace
    board.update("a", fold(1, 0.5))
    clock.advance(5)
    board.update("b", fold(1, 1.25))
    assert board.line() == (
        "trials 0/3, folds 2/12, best net Sharpe so far 1.25 (window=b), about 50s left"
    )


def test_a_sharpe_ratio_that_is_not_known_is_never_the_best(board: Board) -> None:
    board.update("a", fold(1, float("nan")))
    assert board.best() is None
    board.update("b", fold(1, -3.0))
    assert board.best() == ("b", -3.0)


def test_folds_of_a_failed_trial_are_not_waited_for(board: Board, clock: FixedClock) -> None:
    board.update("a", fold(1, 0.1))
    clock.advance(4)
    board.update("b", fold(1, 0.1))
    board.update("a", {"done": True, "status": "failed"})
    assert board.total_folds == 9
    assert "trials 1/3, 1 failed, folds 2/9" in board.line()
    assert board.seconds_left() == pytest.approx(7 * 4.0)


def test_time_left_counts_only_work_of_this_session(board: Board, clock: FixedClock) -> None:
    board.restore({"a": "done"})
    board.update("b", fold(3, 0.1))  # two of them were done before
    clock.advance(6)
    board.update("b", fold(4, 0.1))
    assert board.line().startswith("trials 1/3, folds 8/12")
    assert board.seconds_left() == pytest.approx(4 * 6.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (185, "3m05s"), (3720, "1h02m")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_come_seldom_but_for_every_finished_trial(
    board: Board, clock: FixedClock
) -> None:
    out = io.StringIO()
    with showing(board, Console(file=out, width=200)) as callback:
        for number in (1, 2, 3):
            callback.on_trial_result(0, [], trial("a"), fold(number, 0.1))
        callback.on_trial_result(0, [], trial("a"), fold(4, 0.1, done=True))
        clock.advance(PLAIN_SECONDS)
        callback.on_trial_result(0, [], trial("b"), fold(1, 0.2))
        callback.on_trial_recover(0, [], trial("b"))
        callback.on_trial_error(0, [], trial("c"))
    lines = out.getvalue().splitlines()
    assert [line.split(", best")[0] for line in lines] == [
        "trials 0/3, folds 1/12",
        "trials 1/3, folds 4/12",
        "trials 1/3, folds 5/12",
        "trial window=b lost its process; it resumes at the fold it lost",
        "trials 2/3, 1 failed, folds 5/8",
    ]
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_live_table_of_running_trials(board: Board) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    with showing(board, console) as callback:
        callback.on_trial_result(0, [], trial("a"), fold(4, 0.75, done=True))
        callback.on_trial_result(0, [], trial("b"), fold(2, 0.5))
    last = out.getvalue().split("net Sharpe\n")[-1]
    assert "window=b" in last
    assert "2/4" in last
    assert "trials 1/3, folds 6/12" in last
