"""The token of Ray: made once, for its owner only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dpa.errors import ConfigError
from dpa.hosts.token import ensure_token, token_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_only_and_kept(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    assert ensure_token(path, {}) == "made"
    token = path.read_text(encoding="ascii")
    assert len(token) == 64
    assert set(token) <= set("0123456789abcdef")
    assert mode(path) == 0o600
    assert ensure_token(path, {}) == "kept"
    assert path.read_text(encoding="ascii") == token
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    path.write_text("a" * 64, encoding="ascii")
    path.chmod(0o644)  # as Ray leaves it
    assert ensure_token(path, {}) == "mended"
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", ["", "short", "with a blank in the middle of it all"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "auth_token"
    path.write_text(content, encoding="ascii")
    with pytest.raises(ConfigError, match="holds no token"):
        ensure_token(path, {})


def test_of_many_at_once_one_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: ensure_token(path, {}), range(8)))
    assert done.count("made") == 1
    assert set(done) == {"made", "kept"}


def test_the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    assert ensure_token(path, {"RAY_AUTH_TOKEN": "x" * 32}) == "environment"
    assert not path.exists()
    assert token_path({"RAY_AUTH_TOKEN_PATH": str(path)}) == path
