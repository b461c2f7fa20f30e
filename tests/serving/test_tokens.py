"""A token that is made once, kept from others, and compared whole."""

import base64
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dpa.errors import ConfigError, RunError
from dpa.serving.tokens import authorised, read_or_make_token


def test_it_is_made_once_and_kept_from_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "serving" / "token"
    with caplog.at_level(logging.DEBUG):
        token = read_or_make_token(path, {})
    assert len(base64.urlsafe_b64decode(token + "=")) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["token"]
    assert read_or_make_token(path, {}) == token
    assert token not in caplog.text
    assert read_or_make_token(tmp_path / "other", {}) != token


def test_all_who_make_it_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        tokens = list(pool.map(lambda _: read_or_make_token(tmp_path / "token", {}), range(64)))
    assert len(set(tokens)) == 1


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPA_SERVE_TOKEN", "a-token-of-my-own-choice")
    assert read_or_make_token(tmp_path / "token") == "a-token-of-my-own-choice"
    assert not (tmp_path / "token").exists()


@pytest.mark.parametrize("given", ["", "short", "sixteen letters and blanks", "ä" * 32])
def test_a_poor_token_in_the_environment_is_refused_and_not_shown(
    tmp_path: Path, given: str
) -> None:
    with pytest.raises(ConfigError, match="DPA_SERVE_TOKEN is no token of 16") as caught:
        read_or_make_token(tmp_path / "token", {"DPA_SERVE_TOKEN": given})
    assert not given or given not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    token = read_or_make_token(path, {})
    path.chmod(mode)
    with pytest.raises(RunError, match=rf"others may read or change it \(mode {mode:04o}\); del"):
        read_or_make_token(path, {})
    path.unlink()
    assert read_or_make_token(path, {}) != token


def test_what_holds_no_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    with pytest.raises(RunError, match="holds no token; delete it"):
        read_or_make_token(path, {})
    path.unlink()
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(RunError, match="cannot be read or made"):
        read_or_make_token(path, {})
    with pytest.raises(RunError, match=r"is not a file of this user|cannot be read"):
        read_or_make_token(tmp_path, {})


def test_only_the_whole_token_opens() -> None:
    token = "abcdefghijklmnop"
    assert authorised(f"Bearer {token}", token)
    assert authorised(f"bearer  {token} ", token)
    for header in (None, "", "Bearer", "Bearer ", token, f"Basic {token}", f"Bearer {token}q"):
        assert not authorised(header, token)
    assert not authorised(f"Bearer {token[:-1]}", token)
    assert not authorised("Bearer ä", token)
