"""``dpa serve`` against the real HTTP application on this machine."""

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dpa import cli, serve_commands
from dpa.market.panel import Panel
from dpa.market.shard_files import write_shards
from dpa.serving.wire import parse_json
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.serving.conftest import ComputingDesk
from tests.serving.http_server import TOKEN, serving
from tests.serving.planted_decisions import decisions, settings_for_few_bars

MARKET = IntradayMarket(n_clusters=2, names_per_cluster=3, n_sessions=3, start="2024-06-24")


class Desk(ComputingDesk):
    """Knows the names of the invented market and which bar came last."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(settings_for_few_bars())
        self.names, self.waits = names, ""

    async def bundle(self) -> dict[str, Any]:
        newest = max((r.time for r in self.requests), default=None)
        if self.panel is not None and newest is None:
            newest = self.panel.times[-1]
        about = {"names": list(self.names), "newest_bar": newest and newest.isoformat()}
        return await super().bundle() | about

    async def ready(self) -> dict[str, Any]:
        return {"ready": not self.waits, "stages": {"market": self.waits or "ok"}}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate_bars(MARKET, 3).panel


@pytest.fixture(scope="module")
def shards(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bars") / "shards"
    write_shards(panel, folder)
    return folder


@pytest.fixture
def desk(panel: Panel) -> Desk:
    return Desk(panel.names)


@pytest.fixture
def service(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(serve_commands.TOKEN_VARIABLE, TOKEN)
    with serving(desk) as url:
        yield url


def dpa(*words: Any) -> int:
    return cli.main(["serve", *map(str, words)])


def plain_text(capsys: Any) -> str:
    """What was printed, with single blanks."""
    return " ".join(capsys.readouterr().out.split())


def test_replay_sends_every_bar_once_and_goes_on_where_it_ended(
    service, desk, panel, shards, capsys
):
    first, last = str(panel.times[0].date()), str(panel.times[-1].date())
    assert dpa("replay", "--url", service, "--data", shards, "--end", first) == 0
    said = capsys.readouterr()
    n_bars = len(desk.requests)
    assert f"bars        {n_bars} sent" in said.out
    assert f"decisions   {n_bars}" in said.out
    assert "refusals    0" in said.out
    assert "not trading" in said.err
    targets = desk.newest["replay"].sizes.shares
    assert dpa("replay", "--url", service, "--data", shards, "--end", last, "--json") == 0
    assert [request.time for request in desk.requests] == list(panel.times)
    np.testing.assert_array_equal(desk.requests[n_bars].shares, targets)
    assert dpa("replay", "--url", service, "--data", shards) == 2
    assert "nothing to send" in capsys.readouterr().err


def test_replay_can_send_a_history_first(service, desk, panel, shards, capsys):
    assert dpa("replay", "--url", service, "--data", shards, "--history", 100) == 0
    np.testing.assert_array_equal(desk.panel.prices, panel.prices[:100])
    assert [request.time for request in desk.requests] == list(panel.times[100:])
    assert np.isfinite(desk.requests[0].adv_usd).all()  # of the sessions in the history
    assert dpa("replay", "--url", service, "--data", shards, "--history", 10**6) == 2


def test_request_writes_what_curl_can_post(service, desk, panel, shards, capsys):
    desk.names = (*panel.names[:4], "OTHER")
    desk.panel = panel.window(0, 50)
    assert dpa("request", "--url", service, "--data", shards, "--nav", 5e5) == 0
    request = parse_json(capsys.readouterr().out.encode(), 100)
    assert request.time == panel.times[50]
    assert request.names == panel.names[:4]
    assert (request.nav_usd, request.account) == (5e5, "replay")
    np.testing.assert_array_equal(request.bars["close"], panel.prices[50, :4])


def test_request_at_a_time_needs_no_service(panel, shards, capsys):
    nobody = ("--url", "http://127.0.0.1:9")
    at = panel.times[60].tz_convert("America/New_York").tz_localize(None)
    assert dpa("request", *nobody, "--data", shards, "--at", at + pd.Timedelta(90, "s")) == 0
    request = parse_json(capsys.readouterr().out.encode(), 100)
    assert request.time == panel.times[60]
    assert dpa("request", *nobody, "--data", shards, "--at", "2001-01-01") == 2
    assert "no bar is known then" in capsys.readouterr().err
    assert dpa("request", *nobody, "--data", shards, "--at", "noon") == 2
    assert "'noon' is not a time" in capsys.readouterr().err
    assert dpa("request", *nobody) == 2
    assert "--data: is missing" in capsys.readouterr().err


def test_status_in_words(service, desk, capsys):
    assert dpa("status", "--url", service) == 0
    assert "decision none yet" in plain_text(capsys)
    desk.newest["default"] = decisions()[-1]
    assert dpa("status", "--url", service, "--account", "default") == 0
    said = plain_text(capsys)
    assert "ready yes" in said
    assert "bundle 0123456789ab, 5m bars of XNYS" in said
    assert "left out gbdt: not done within 500 ms" in said
    traded = int((decisions()[-1].sizes.shares != decisions()[-1].snapshot.market.shares).sum())
    assert f"trades {traded} of 20 symbols" in said
    desk.waits = "no bars on record"
    assert dpa("status", "--url", service) == 1
    assert "ready no; market: no bars on record" in plain_text(capsys)


def test_explain_has_the_numbers_of_every_stage(service, desk, capsys):
    decision = decisions()[-1]
    desk.newest["default"] = decision
    assert dpa("explain", "S006", "--url", service) == 0
    said = capsys.readouterr().out
    for h, horizon in enumerate(decision.snapshot.forecasts.horizons):
        line = next(text for text in said.splitlines() if text.startswith(f"{horizon.label} "))
        assert f"{decision.blend.alpha[h, 6]:+.2f}" in line
        for f in range(4):
            assert f"{decision.beliefs.ic[h, f]:+.4f}" in said
    assert f"{decision.sizes.shares[6]:,g} shares" in said
    assert f"{decision.sizes.wanted[6]:+.2%} of NAV" in said
    assert dpa("explain", "S06", "--url", service) == 2
    assert "there is S016, S006" in capsys.readouterr().err
    assert dpa("explain", "S006", "--url", service, "--account", "nobody") == 2
    assert "no decision of account 'nobody'" in capsys.readouterr().err


def test_halting_asks_nothing_and_resuming_asks_first(service, capsys, monkeypatch):
    about = ("--url", service, "--by", "Ada", "--why", "a test")
    assert dpa("halt", "default", *about) == 0
    assert capsys.readouterr().out == "account default: HALTED (Ada: a test)\n"
    assert dpa("resume", "default", *about) == 2
    assert "give --yes" in capsys.readouterr().err
    assert dpa("resume", "default", *about, "--yes") == 0
    assert capsys.readouterr().out == "account default: NORMAL (Ada: a test)\n"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for typed, code in (("y\n", 0), ("\n", 2), ("no\n", 2)):
        monkeypatch.setattr("sys.stdin.readline", lambda typed=typed: typed, raising=False)
        assert dpa("resume", "default", *about) == code


def test_the_token_comes_from_the_option_then_the_environment_then_the_storage(
    service, tmp_path, monkeypatch, capsys
):
    about = ("halt", "default", "--by", "Ada", "--why", "a test", "--url", service)
    storage = tmp_path / "runs"
    (storage / "serving").mkdir(parents=True)
    (storage / "serving" / "token").write_text(f"{TOKEN}\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("a-wrong-token-of-some-length\n")
    assert dpa(*about, "--storage", storage, "--token-file", wrong) == 2
    assert "error: the token is wrong" in capsys.readouterr().err
    assert dpa(*about, "--storage", tmp_path) == 0  # the environment's
    monkeypatch.delenv(serve_commands.TOKEN_VARIABLE)
    assert dpa(*about, "--storage", storage) == 0
    assert dpa(*about, "--storage", tmp_path) == 2
    assert "a token is needed" in capsys.readouterr().err
    assert dpa(*about, "--token-file", tmp_path / "none") == 2
    assert "there is no such file" in capsys.readouterr().err


def test_nobody_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("dpa.serving.client.FIRST_WAIT", 100.0)  # try once
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert dpa("status", "--url", f"http://127.0.0.1:{port}") == 2
    said = capsys.readouterr().err
    assert "nobody answers (Connection refused); start it with 'make serve'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("words", [("replay", "--speed", "0"), ("replay", "--history", "-1"),
                                   ("replay", "--nav", "nan"), ("halt", "default")])  # fmt: skip
def test_what_makes_no_sense_is_one_line(words, capsys):
    assert dpa(*words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_examples_of_the_help_are_commands(capsys):
    parser = cli.build_parser()
    for name in ("status", "explain", "request", "replay", "halt", "resume"):
        with pytest.raises(SystemExit):
            dpa(name, "--help")
        text = capsys.readouterr().out
        examples = text.partition("examples:")[2].strip().splitlines()
        assert examples
        for line in examples:
            words = shlex.split(line.partition(" > ")[0])
            assert parser.parse_args(words[1:]).run.startswith("dpa.serve_commands:")
