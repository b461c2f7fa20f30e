"""A cluster that asks for a token is joined with this machine's, and one that does not without."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpa.errors import ClusterUnavailable
from serve.joining import find_cluster


@pytest.mark.parametrize("wanted", ["token", None])
@pytest.mark.parametrize("has_token", [True, False])
def test_what_the_cluster_asks_for_is_found_out(
    wanted: str | None, has_token: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    if has_token:
        token.write_text("x" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    environ = dict[str, str]()
    monkeypatch.setattr("os.environ.update", environ.update)

    def ray(*_: object, env: dict[str, str], **__: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=int(env.get("RAY_AUTH_MODE") != wanted))

    monkeypatch.setattr(subprocess, "run", ray)
    if wanted and not has_token:
        with pytest.raises(ClusterUnavailable, match=r"joined at '127.0.0.1:6379'.*auth_token"):
            find_cluster(None)
        return
    assert find_cluster(None) == "127.0.0.1:6379"
    assert environ.get("RAY_AUTH_MODE") == wanted
