"""What is said of nodes that are not as they should be."""

import dataclasses

import pytest

from dpa.hosts.checks import (
    check_before,
    check_clock,
    check_running,
    check_token,
    check_versions,
)
from dpa.hosts.node import PROGRAMS, Node
from dpa.hosts.problem import Problem, summary
from dpa.hosts.source import Source

SOURCE = Source(
    version="0.2.0",
    commit="c" * 40,
    changed=(),
    source="5" * 64,
    code="7" * 64,
    ray="2.60.0",
    files=("dpa/a.py",),
    root="/checkout",
)
GOOD = Node(
    host="10.0.0.1",
    python="3.12.3",
    programs=frozenset(PROGRAMS),
    free_gigabytes=100.0,
    venv_python="3.12.3",
    ray="2.60.0",
    stamp=SOURCE.stamp(),
    source=SOURCE.source,
    running=frozenset({"raylet", "gcs_server"}),
    token_mode="0600",
    token_fingerprint="f" * 16,
    ahead_seconds=0.01,
    doubt_seconds=0.001,
)


def node(host: str = "10.0.0.2", **changed: object) -> Node:
    return dataclasses.replace(GOOD, host=host, **changed)  # type: ignore[arg-type]


def kinds(problems: list[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


def test_a_good_node_has_nothing_against_it() -> None:
    assert check_before(GOOD, is_head=True) == []
    assert check_versions([GOOD, node()], SOURCE, "again") == []
    assert check_token(GOOD, "f" * 16) == []
    assert check_running({"10.0.0.1": GOOD}, "10.0.0.1", ["10.0.0.1"]) == []


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"programs": frozenset({"ssh", "make"})}, "no-rsync"),
        ({"programs": frozenset({"ssh", "rsync"})}, "no-make"),
        ({"python": "3.10.12"}, "python"),
        ({"python": None}, "python"),
        ({"ray": None, "free_gigabytes": 2.0}, "disk"),
        ({"ahead_seconds": -7.5}, "clock"),
    ],
)
def test_what_a_machine_lacks_is_named(changed: dict[str, object], kind: str) -> None:
    found = check_before(node(**changed), is_head=False)
    assert kinds(found) == [kind]
    assert found[0].cure


def test_only_the_head_needs_ssh() -> None:
    without = node(programs=frozenset({"rsync", "make"}))
    assert kinds(check_before(without, is_head=True)) == ["no-ssh"]
    assert check_before(without, is_head=False) == []


@pytest.mark.parametrize(
    ("ahead", "doubt", "wrong"),
    [(1.9, 0.0, False), (2.1, 0.0, True), (-2.1, 0.0, True), (2.4, 0.5, False), (3.0, 0.5, True)],
)
def test_a_clock_is_wrong_only_when_the_question_was_quick_enough_to_tell(
    ahead: float, doubt: float, wrong: bool
) -> None:
    found = check_clock(node(ahead_seconds=ahead, doubt_seconds=doubt), 2.0)
    assert bool(found) == wrong
    if found:
        assert ("ahead of" if ahead > 0 else "behind") in found[0].what


@pytest.mark.parametrize(
    ("changed", "kind", "word"),
    [
        ({"ray": None}, "not-installed", "not installed"),
        ({"ray": "2.55.0"}, "ray-version", "2.55.0"),
        ({"source": "6" * 64, "stamp": {"source": "6" * 64}}, "source", "66666666"),
        ({"source": "6" * 64}, "source", "was changed there since it was shipped"),
        ({"source": "6" * 64, "stamp": None}, "source", "was not shipped by this command"),
        ({"source": None, "stamp": None}, "source", "no source"),
        ({"venv_python": "3.11.9"}, "python-version", "3.11.9"),
    ],
)
def test_a_node_of_another_version_is_named(
    changed: dict[str, object], kind: str, word: str
) -> None:
    nodes = [GOOD, node("10.0.0.2"), node("10.0.0.3", **changed)]
    found = check_versions(nodes, SOURCE, "dpa cluster up x")
    assert kinds(found) == [kind]
    assert found[0].host == "10.0.0.3"
    assert word in found[0].what


def test_a_token_of_old_or_open_to_others_is_named() -> None:
    assert kinds(check_token(node(token_fingerprint="0" * 16), "f" * 16)) == ["token"]
    assert kinds(check_token(node(token_mode="0644"), "f" * 16)) == ["token-mode"]


def test_a_node_that_stopped_or_never_joined_is_named() -> None:
    nodes = {"10.0.0.1": GOOD, "10.0.0.2": node(), "10.0.0.3": node(running=frozenset())}
    found = check_running(nodes, "10.0.0.1", ["10.0.0.1"])
    assert [(p.host, p.kind) for p in found] == [
        ("10.0.0.2", "not-joined"),
        ("10.0.0.3", "stopped"),
    ]


def test_one_problem_is_the_error_and_several_are_counted() -> None:
    first, second = Problem("a", "k", "is wrong", "mend it"), Problem("b", "k", "too", "mend it")
    assert str(summary([first], "again")) == "a: is wrong; mend it"
    assert "2 problems on 2 machines" in str(summary([first, second], "again"))
