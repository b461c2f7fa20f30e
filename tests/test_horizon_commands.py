"""``dpa features``, ``dpa bundle`` and ``dpa transfer`` as they are typed."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dpa import cli
from dpa.horizons.bundle import HorizonBundle, read_bundle_manifest, write_bundle
from dpa.horizons.plugins import load_plugins
from dpa.horizons.promotion import POINTER
from dpa.horizons.registry import FEATURES
from dpa.market.shard_files import write_shards
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from tests.horizons.small_run import CLOCK, MARKET, run_small, small_settings

PLUGIN = '''
from dpa.horizons.registry import feature

@feature("return with its sign turned", (15,), serves=(10, 60), role="risk", version=3)
def typed_by_a_user(view, minutes):
    """Mine."""
    return -view.scaled(view.now("log_close") - view.ago("log_close", minutes), minutes)
'''
FIRST, SECOND, BARE = (f"2026010{k}-100000-{letter * 8}" for k, letter in enumerate("abc", 1))
TRANSFER = ("--train-sessions", "3", "--test-sessions", "2", "--horizons", "5m,30m")
SHORT = "return_scaled_5m,return_rank_30m,close_location_5m,volume_surprise_5m"


class Say:
    """Types a command; what it printed, or the one line of its error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> str:
        code = cli.main([str(word) for word in words])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out

    def error(self, *words: object) -> str:
        code = cli.main([str(word) for word in words])
        out, err = self.capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return Say(capsys)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with two runs that have bundles and one that has none, and bars as shards."""
    root = tmp_path_factory.mktemp("small")
    panel = simulate_bars(MARKET, 3).panel
    families = ("ridge", "gbdt", "encoder")
    run = run_small(root / "work", small_settings(families=families), panel)
    parts = run.parts(root / "models")
    for name, data in ((FIRST, "one"), (SECOND, "two"), (BARE, None)):
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        if data is not None:
            write_bundle(folder / "bundle", replace(parts, data_fingerprint=data), CLOCK)
    write_shards([panel], str(root / "bars"))
    market = IntradayMarket(
        n_clusters=2, names_per_cluster=3, n_sessions=8, interval="1m", start="2024-06-24"
    )
    write_shards([simulate_bars(market, 4).panel], str(root / "minutes"))
    return root


@pytest.fixture
def storage(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small / "runs", tmp_path / "runs"))


@pytest.fixture
def plugin(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, encoding="utf-8")
    before = set(FEATURES)
    yield path
    for name in set(FEATURES) - before:
        del FEATURES[name]
    for name in [name for name in sys.modules if name.startswith("dpa_plugin_mine_")]:
        del sys.modules[name]


def rows_of(table: str) -> dict[str, str]:
    """Lines of a table by their first word."""
    return {line.split()[0]: line for line in table.splitlines() if line.strip()}


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, dpa.cli as c; c.build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class TestFeatures:
    def test_the_registry_as_a_table(self, say: Say) -> None:
        rows = rows_of(say("features", "list"))
        assert set(FEATURES) <= set(rows)
        assert rows["momentum_60m"].split()[1:6] == ["60", "390", "alpha", ">=", "15m"]
        assert "price" in rows["momentum_60m"]
        assert "high, low" in rows["close_location_5m"]
        assert " cluster " in rows["cluster_score"]
        assert "(does not fit bars of 5m)" in rows["momentum_8190m"]

    def test_an_interval_leaves_out_what_does_not_fit(self, say: Say) -> None:
        fitting = rows_of(say("features", "list", "--interval", "1d"))
        assert "momentum_8190m" in fitting
        assert "return_scaled_30m" not in fitting
        every = rows_of(say("features", "list", "--interval", "1d", "--all"))
        assert set(FEATURES) <= set(every)
        assert "(does not fit bars of 1d)" in every["return_scaled_30m"]

    def test_as_json(self, say: Say) -> None:
        found = {entry["name"]: entry for entry in json.loads(say("features", "list", "--json"))}
        assert set(found) == set(FEATURES)
        own = found["close_location_30m"]
        assert (own["minutes"], own["bars"], own["needs"]) == (30, 5, ["high", "low"])
        assert own["horizons"] == [0, None]
        assert found["momentum_8190m"]["reason"] == "does not fit bars of 5m"
        assert found["cluster_score"]["needs"] == ["cluster"]
        assert len(own["fingerprint"]) == 64

    def test_one_with_its_source(self, say: Say) -> None:
        shown = say("features", "show", "reversal_30m")
        assert "look-back    30 session minutes" in shown
        assert "def reversal(view: View, minutes: int)" in shown
        assert "does not fit bars of 1d" in say(
            "features", "show", "reversal_30m", "--interval", "1d"
        )

    def test_plugins_are_included(self, say: Say, plugin: Path, tmp_path: Path) -> None:
        row = rows_of(say("features", "list", "--plugins", plugin))["typed_by_a_user_15m"]
        assert row.split()[1:9] == ["15", "390", "risk", ">=", "10m", "and", "<=", "60m"]
        settings = tmp_path / "mine.yaml"
        settings.write_text(f"horizons: {{plugins: [{plugin}]}}\ndata: {{interval: 15m}}\n")
        shown = say("features", "show", "typed_by_a_user_15m", "--config", settings)
        assert "on 15m" in shown
        assert "version      3" in shown
        assert PLUGIN.strip().partition("\n\n")[2] in shown

    def test_mistakes(self, say: Say) -> None:
        assert "feature 'nope' is not known" in say.error("features", "show", "nope")
        assert "7m" in say.error("features", "list", "--interval", "7m")
        assert "nowhere.py does not exist" in say.error(
            "features", "list", "--plugins", "nowhere.py"
        )


class TestBundles:
    def test_list_marks_the_promoted_one(self, say: Say, storage: Path) -> None:
        assert say("bundle", "list", "--storage", storage / "none").startswith("no bundles under")
        listed = say("bundle", "list", "--storage", storage)
        assert FIRST in listed
        assert BARE not in listed
        assert "*" not in listed
        say("bundle", "promote", FIRST, "--storage", storage)
        marked = [
            line
            for line in say("bundle", "list", "--storage", storage).splitlines()
            if line.startswith("* ")
        ]
        assert FIRST in marked[0]
        assert "ridge, gbdt, encoder" in marked[0]

    def test_list_survives_damage_and_knows_bundles_elsewhere(
        self, say: Say, storage: Path, tmp_path: Path
    ) -> None:
        elsewhere = Path(shutil.copytree(storage / FIRST / "bundle", tmp_path / "elsewhere"))
        say("bundle", "promote", elsewhere, "--storage", storage)
        (storage / SECOND / "bundle" / "manifest.json").write_text("{")
        listed = say("bundle", "list", "--storage", storage)
        assert "damaged" in rows_of(listed)[SECOND]
        assert str(elsewhere) in listed

    def test_show(self, say: Say, storage: Path) -> None:
        shown = say("bundle", "show", SECOND[:8], "--storage", storage)
        manifest = read_bundle_manifest(storage / SECOND / "bundle")
        for words in (
            manifest.fingerprint,
            "5m, 30m, 60m by ridge, gbdt, encoder",
            f"{manifest.tail_bars} bars",
            "peak and valley, calibrated (platt)",
            "8: N0, N1",
            "+0.0100",
        ):
            assert words in shown
        found = json.loads(say("bundle", "show", SECOND, "--storage", storage, "--json"))
        assert found["fingerprint"] == manifest.fingerprint
        assert found["tail_bars"] == manifest.tail_bars

    def test_verify(self, say: Say, storage: Path) -> None:
        said = say("bundle", "verify", FIRST, "--storage", storage)
        files = read_bundle_manifest(storage / FIRST / "bundle").files
        assert ": good" in said
        assert f"files        {len(files)}, each with its SHA-256" in said
        harmed = storage / FIRST / "bundle" / "families" / "ridge" / "ridge.safetensors"
        harmed.write_bytes(harmed.read_bytes()[:-1])
        error = say.error("bundle", "verify", FIRST, "--storage", storage)
        assert "ridge.safetensors: was altered or cut short" in error

    def test_what_needs_plugins_says_which(self, say: Say, plugin: Path, tmp_path: Path) -> None:
        load_plugins([str(plugin)])
        features = ("return_scaled_5m", "return_rank_30m", "typed_by_a_user_15m")
        settings = small_settings(
            families=("ridge",), feature_list=features, plugins=(str(plugin),)
        )
        run = run_small(tmp_path / "own", settings, simulate_bars(MARKET, 3).panel, 1)
        folder = tmp_path / "own" / "bundle"
        write_bundle(folder, run.parts(tmp_path / "models"), CLOCK)
        words = [sys.executable, "-m", "dpa.cli", "bundle", "verify", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "'typed_by_a_user_15m' is not known" in done.stderr
        assert "--plugins mine.py" in done.stderr
        assert "mine.py" in say("bundle", "show", folder)
        with_plugins = subprocess.run(
            [*words, "--plugins", str(plugin)], capture_output=True, text=True, check=False
        )
        assert with_plugins.returncode == 0, with_plugins.stderr

    def test_promote(self, say: Say, storage: Path) -> None:
        say("bundle", "promote", FIRST, "--storage", storage)
        pointer = json.loads((storage / POINTER).read_text())
        assert (pointer["bundle"], pointer["promoted_by"]) == (f"{FIRST}/bundle", "hand")
        (storage / SECOND / "bundle" / "probe.safetensors").unlink()
        error = say.error("bundle", "promote", SECOND, "--storage", storage)
        assert "probe.safetensors: is missing" in error
        assert json.loads((storage / POINTER).read_text()) == pointer
        assert "has no bundle" in say.error("bundle", "promote", BARE, "--storage", storage)

    def test_compare(self, say: Say, storage: Path, small: Path) -> None:
        said = say("bundle", "compare", FIRST, SECOND, "--storage", storage)
        differing = said.partition("differs in")[2].splitlines()[1:]
        assert [line.split() for line in differing] == [["data", "fingerprint", "one", "two"]]
        same = say("bundle", "compare", FIRST, storage / FIRST / "bundle", "--storage", storage)
        assert "they differ in nothing that decides a forecast" in same
        assert "give two or more" in say.error("bundle", "compare", FIRST, "--storage", storage)

    def test_compare_tells_settings_features_and_models(
        self, say: Say, storage: Path, small: Path, tmp_path: Path
    ) -> None:
        panel = simulate_bars(MARKET, 3).panel
        features = ("return_scaled_5m", "return_rank_30m", "cluster_gate")
        settings = small_settings(families=("ridge",), feature_list=features, sigma_minutes=300)
        run = run_small(tmp_path / "other", settings, panel, 1)
        write_bundle(tmp_path / "other" / "bundle", run.parts(tmp_path / "models"), CLOCK)
        said = say("bundle", "compare", FIRST, tmp_path / "other" / "bundle", "--storage", storage)
        rows = {line.partition("  ")[0]: line for line in said.splitlines()}
        assert rows["sigma_minutes"].split()[1:] == ["390", "300"]
        assert rows["feature momentum_60m"].split()[-1] == "-"
        assert rows["model gbdt"].split()[-1] == "-"
        assert rows["gbdt 5m"].split()[-1] == "-"
        assert "families" in rows

    def test_predict(self, say: Say, storage: Path, small: Path) -> None:
        bars = ("--data", small / "bars")
        say("bundle", "promote", FIRST, "--storage", storage)
        said = say("bundle", "predict", "promoted", *bars, "--storage", storage)
        panel = simulate_bars(MARKET, 3).panel
        bundle = HorizonBundle.load(storage / FIRST / "bundle")
        forecast = bundle.predict(panel)
        rows = rows_of(said)
        for place, name in enumerate(panel.names):
            if forecast.reasons[place]:
                assert forecast.reasons[place] in rows[name]
                continue
            numbers = [float(word) for word in rows[name].split()[1:]]
            sigma = forecast.sigma[place]
            wanted = [sigma]
            for h, minutes in enumerate((5, 30, 60)):
                wanted += [forecast.stacked[h, place] * sigma * np.sqrt(minutes)]
                wanted += [forecast.confidence[h, place]]
            np.testing.assert_allclose(numbers, [*wanted, *forecast.barriers[:, place]], atol=0.006)

    def test_predict_at_a_time_as_json(self, say: Say, storage: Path, small: Path) -> None:
        words = ("bundle", "predict", SECOND, "--data", small / "bars", "--storage", storage)
        at = ("--at", "2024-07-02 11:32", "--json", "--names", ",".join(f"N{k}" for k in range(6)))
        found = json.loads(say(*words, *at))
        assert found["time"] == "2024-07-02T15:30:00+00:00"
        assert json.loads(say(*words, "--at", "2024-07-02T15:34:59Z", *at[2:])) == found
        panel = simulate_bars(MARKET, 3).panel
        until = panel.until(panel.times[panel.times <= "2024-07-02T15:30Z"][-1])
        names = tuple(f"N{k}" for k in range(6))
        chosen = [panel.names.index(name) for name in names]
        part = replace(
            until,
            names=names,
            prices=until.prices[:, chosen],
            mask=until.mask[:, chosen],
            **{name: values[:, chosen] for name, values in until.extras().items()},
        )
        forecast = HorizonBundle.load(storage / SECOND / "bundle").predict(part)
        for place, entry in enumerate(found["symbols"]):
            assert entry["symbol"] == forecast.names[place]
            if forecast.reasons[place]:
                assert entry["reason"] == forecast.reasons[place]
                assert entry["horizons"]["5m"]["bps"] is None
                continue
            bps = forecast.stacked[1, place] * forecast.sigma[place] * np.sqrt(30)
            assert entry["horizons"]["30m"]["bps"] == pytest.approx(bps, rel=1e-9)
            ridge = forecast.returns[2, 0, place] * forecast.sigma[place] * np.sqrt(60)
            assert entry["horizons"]["60m"]["families"]["ridge"] == pytest.approx(ridge, rel=1e-9)
            assert entry["peak"] == pytest.approx(forecast.barriers[0, place])
        absent = {e["symbol"]: e["reason"] for e in found["symbols"] if e["symbol"] in ("N6", "N7")}
        assert absent == {"N6": "not in the data", "N7": "not in the data"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "--data: is missing"),
            (("--data", "minutes"), "interval of the data is 1m, the bundle's is 5m"),
            (("--data", "bars", "--at", "2020-01-01"), "no bar is known then"),
            (("--data", "bars", "--at", "2024-06-24 12:00"), "is too short"),
            (("--data", "bars", "--at", "noon-ish"), "is not a time"),
            (("--data", "bars", "--names", "N0,N1"), "of the names the bundle was trained on"),
        ],
    )
    def test_predict_refuses(self, say: Say, small: Path, words, message, monkeypatch) -> None:
        monkeypatch.chdir(small)
        assert message in say.error("bundle", "predict", FIRST, *words)


class TestTransfer:
    def test_a_table_a_file_and_its_thresholds(self, say: Say, small: Path, tmp_path: Path) -> None:
        words = ("transfer", "--train", "5m", "--validate", "1m", "--data", small / "minutes")
        options = ("--sigma-minutes", "390", *TRANSFER, "--out", tmp_path / "t.csv")
        said = say(*words, *options, "--feature-list", f"{SHORT},momentum_8190m")
        assert "ridge trained on 5m bars, tested on 5m and on 1m: 2 folds" in said
        assert "at least 0.5 of that of the training interval" in said
        assert "momentum_8190m (5m: does not fit bars of 5m; 1m: does not fit" in said
        with (tmp_path / "t.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["horizon"] for row in rows] == ["5m", "30m"]
        for row in rows:
            shown = rows_of(said)[row["horizon"]]
            assert f"{float(row['ic_train']):+.4f} ± {float(row['se_train']):.4f}" in shown
            assert f"{float(row['ic_validate']):+.4f}" in shown
            assert f"{float(row['degradation']):+.4f}" in shown
            assert shown.endswith(row["verdict"])

    def test_two_files_and_the_names_of_both(self, say: Say, small: Path, tmp_path: Path) -> None:
        words = ("transfer", "--train", "5m", "--validate", "1m", "--data", small / "bars")
        options = ("--sigma-minutes", "390", *TRANSFER, "--feature-list", SHORT)
        said = say(*words, "--validate-data", small / "minutes", *options)
        assert "4 features" in said  # the bars hold 8 names, the minutes 6 of them

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--train", "5m", "--validate", "1m", "--data", "bars"), "do not make bars of 1m"),
            (("--train", "7m", "--validate", "1m", "--data", "minutes"), "7m"),
            (
                ("--train", "5m", "--validate", "1m", "--data", "minutes", "--families", "ridge"),
                "use --family",
            ),
            (
                ("--train", "5m", "--validate", "1m", "--data", "minutes", "--cluster", "x"),
                "--cluster: is of no use here",
            ),
            (
                ("--train", "5m", "--validate", "1m", "--data", "minutes", "--out", "bars"),
                "--out bars: is a folder",
            ),
            (("--train", "5m", "--validate", "1m", "--data", "minutes"), "too few for one fold"),
            (("--train", "5m", "--data", "minutes"), "--validate"),
        ],
    )
    def test_mistakes(self, say: Say, small: Path, words, message, monkeypatch) -> None:
        monkeypatch.chdir(small)
        assert message in say.error("transfer", *words)
