"""``dpa simulate bars`` writes the market it describes."""

import json

import numpy as np
import pytest

from dpa.errors import ConfigError, DataError
from dpa.market.shard_files import ShardManifest, read_shards
from dpa.options import OneLineParser
from dpa.simulation.commands import add_simulate_commands, describe_truth
from dpa.simulation.planted_bars import SIGNALS, IntradayMarket, implied_ic, simulate_bars

FEW = ["--sessions", "3", "--clusters", "2", "--names-per-cluster", "3"]


def simulate(*words):
    parser = OneLineParser(prog="dpa")
    add_simulate_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["simulate", "bars", *map(str, words)])
    return arguments.run(arguments)


def test_shards_and_truth_of_the_market_asked_for(tmp_path, capsys):
    out = tmp_path / "planted"
    assert simulate("--out", out, *FEW, "--seed", 4, "--slow-payoff", 80) == 0
    config = IntradayMarket(n_sessions=3, n_clusters=2, names_per_cluster=3, slow_payoff=80)
    planted = simulate_bars(config, 4)
    panel = read_shards(out)
    assert panel.names == planted.panel.names
    assert list(panel.times) == list(planted.panel.times)
    np.testing.assert_array_equal(panel.prices, planted.panel.prices)
    np.testing.assert_array_equal(panel.dollar_volume, planted.panel.dollar_volume)
    truth = json.loads((out / "truth.json").read_text())
    assert IntradayMarket(**truth["config"]) == config
    assert truth == describe_truth(planted.truth, panel.names, 4)
    assert list(truth["clusters"].values()) == planted.truth.labels.tolist()
    assert truth["signals"]["slow"]["half_life_minutes"] == 585
    assert truth["signals"]["slow"]["payoff_bps"] == 80
    assert set(truth["signals"]) == set(SIGNALS)
    assert list(truth["implied_ic"]) == ["5m", "10m", "15m", "30m", "60m", "1d"]
    assert truth["implied_ic"]["30m"] == pytest.approx(implied_ic(config, 6), abs=1e-6)
    printed = capsys.readouterr().out
    assert "6 names, 234 bars of 5m (XNYS)" in printed
    assert f"{truth['implied_ic']['1d']['slow']:.3f}" in printed


@pytest.mark.parametrize(
    ("interval", "labels"),
    [
        ("15m", ["15m", "30m", "60m", "1d"]),
        ("1h", ["60m"]),
        ("1d", ["1d", "2d", "5d", "10d", "21d"]),
    ],
)
def test_only_horizons_of_whole_bars_are_described(tmp_path, interval, labels):
    simulate("--out", tmp_path / "planted", *FEW, "--interval", interval)
    truth = json.loads((tmp_path / "planted" / "truth.json").read_text())
    assert list(truth["implied_ic"]) == labels


def test_unknown_is_null_in_the_file(tmp_path, capsys):
    out = tmp_path / "single"
    simulate("--out", out, "--n-sessions", 2, "--n-clusters", 1, "--names-per-cluster", 1)
    truth = json.loads((out / "truth.json").read_text())
    assert set(truth["implied_ic"]["5m"].values()) == {None}
    assert "unknown" in capsys.readouterr().out


def test_an_earlier_market_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "planted"
    simulate("--out", out, *FEW)
    first = ShardManifest.load(out).fingerprint
    with pytest.raises(DataError, match="--force"):
        simulate("--out", out, *FEW, "--seed", 1)
    assert ShardManifest.load(out).fingerprint == first
    simulate("--out", out, *FEW, "--seed", 1, "--force")
    assert ShardManifest.load(out).fingerprint != first
    assert json.loads((out / "truth.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "--seed"),
        (["--noise", "-3"], "--noise"),
        (["--sessions", "many"], "--sessions"),
        (["--interval", "7x"], "7x"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        simulate("--out", tmp_path / "planted", *words)
    assert not list(tmp_path.iterdir())
