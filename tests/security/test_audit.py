"""The scan finds what it is for."""

import pytest

from tests.security.audit import scan, secrets_in


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "Q" * 16,
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "ghp_" + "a" * 36,
        "glpat-" + "a" * 20,
        "aws_secret_access_key = " + "a" * 40,
    ],
)
def test_a_secret_is_found_and_not_repeated(secret: str) -> None:
    count, found = scan([("a.py", f"x = '{secret}'".encode()), ("b.py", b"x = 1")])
    assert count == 2
    assert len(found) == 1
    assert found[0].startswith("a.py: ")
    assert secret not in found[0]


def test_hashes_and_words_are_none() -> None:
    assert secrets_in("5" * 64 + " task-list sk-learn AKIA PRIVATE KEY") == []
