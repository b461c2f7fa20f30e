"""The ``dpa`` command line: help, single steps, settings, and errors as one line."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml

import dpa
from dpa import cli
from dpa.config import Settings, load_settings
from dpa.errors import ClusterUnavailable, ConfigError, DpaError, RunError
from dpa.runs import RunDirectory, list_runs
from dpa.simulation.planted import PlantedMarket, simulate
from tests.horizon_runs import HORIZONS, write_horizon_run

SMALL = "--window 10 --n-clusters 2 --epochs 2 --train-bars 40 --test-bars 30".split()  # noqa: SIM905


def commands_of(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that can be typed, with its parser."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield words, parser
    for action in inner:
        for name, below in action.choices.items():
            yield from commands_of(below, (*words, name))


COMMANDS = dict(commands_of(cli.build_parser()))


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planted = simulate(PlantedMarket(n_clusters=2, names_per_cluster=3, n_bars=150), 5).panel
    dates = planted.times.tz_convert("America/New_York").normalize().tz_localize(None)
    path = tmp_path_factory.mktemp("data") / "prices.csv"
    frame = pd.DataFrame(planted.prices, dates.rename("date"), list(planted.names))
    frame.to_csv(path)
    return path


def test_the_commands_are_the_documented_ones() -> None:
    assert {" ".join(words) for words in COMMANDS} >= {
        "data import",
        "data check",
        "train",
        "backtest",
        "rolling",
        "runs list",
        "runs show",
        "runs promote",
        "runs report",
        "runs compare",
        "config show",
        "config check",
        "config schema",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_parse(words: tuple[str, ...]) -> None:
    shown = COMMANDS[words].format_help()
    examples = [
        shlex.split(line.strip().split(" > ")[0])[1:]
        for line in shown.partition("example")[2].splitlines()
        if line.strip().startswith("dpa ")
    ]
    assert examples
    for example in examples:
        cli.build_parser().parse_args(example)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"dpa {dpa.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x: bad", "mend it"), 2),
        (RunError("gone"), 2),
        (ClusterUnavailable("away"), 2),
        (DpaError("two\nlines"), 1),
    ],
)
def test_errors_become_one_line_and_their_code(
    error: DpaError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert cli.guarded(fail) == code
    said = capsys.readouterr().err
    assert said == f"error: {' '.join(str(error).split())}\n"


def test_an_interruption_is_130_and_a_defect_keeps_its_traceback() -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    def defect() -> int:
        raise ZeroDivisionError

    assert cli.guarded(interrupt) == 130
    with pytest.raises(ZeroDivisionError):
        cli.guarded(defect)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    code = "import sys; from dpa.cli import main; sys.exit(main(['config', 'schema']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate()
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("nonsense", "invalid choice: 'nonsense'"),
        ("", "required: COMMAND"),
        ("runs", "required: COMMAND"),
        ("train --windw 3", "unrecognized arguments"),
        ("train --data absent.csv --out new", "absent.csv"),
        ("config show --window 3", "--window: '3'"),
        ("config check absent.yaml", "absent.yaml"),
        ("runs show latest --storage absent", "no run is called 'latest' under absent"),
        ("backtest absent --data absent.csv --out new", "absent"),
        ("rolling --resume 2020 --storage absent", "no run is called '2020'"),
    ],
)
def test_mistakes_are_one_line(
    words: str,
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_config_show_is_the_settings_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {window: 20, n_clusters: 7}\n")
    monkeypatch.setenv("DPA__MODEL__N_CLUSTERS", "8")
    assert cli.main(["config", "show", "--config", str(path), "--max-age", "none"]) == 0
    shown = capsys.readouterr().out
    model = yaml.safe_load(shown)["model"]
    assert (model["window"], model["n_clusters"], model["max_age"]) == (20, 8, None)
    path.write_text(shown)
    assert load_settings(path, environ={}).model.n_clusters == 8


def test_config_check_reads_grid_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("grid: {window: [20, 30], n_clusters: [5], similarity_threshold: [0.1, 0.2]}\n")
    assert cli.main(["config", "check", str(path)]) == 0
    assert "4 points" in capsys.readouterr().out
    path.write_text("grid: {window: [20, 30]}\nmodle: 1\n")
    assert cli.main(["config", "check", str(path)]) == 2


def test_config_schema_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(Settings.model_fields)


def test_train_then_backtest_by_hand(
    prices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    data = ["--data", str(prices)]
    window = ["--window", "10", "--n-clusters", "2", "--epochs", "2"]
    assert cli.main(["train", *data, *window, "--end", "2010-05-31", "--out", model]) == 0
    assert "2 epochs" in capsys.readouterr().out
    again = ["train", *data, *window, "--out", model]
    assert cli.main(again) == 2
    assert f"--out {model}: exists already" in capsys.readouterr().err
    traded = ["backtest", model, *data, "--start", "2010-06-01", "--end", "2010-07-30"]
    assert cli.main([*traded, "--out", out]) == 0
    assert "net Sharpe" in capsys.readouterr().out
    times = pd.read_parquet(Path(out) / "returns.parquet").index
    assert str(times[0].date()) == "2010-06-01"
    assert str(times[-1].date()) == "2010-07-30"


def rolled(prices: Path, storage: Path) -> RunDirectory:
    assert cli.main(["rolling", "--data", str(prices), *SMALL, "--storage", str(storage)]) == 0
    [run] = list_runs(storage)
    return run


def test_rolling_writes_a_run_and_says_what_it_does(
    prices: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rolled(prices, tmp_path)
    out = capsys.readouterr().out
    assert "fold 1/3" in out
    assert "1 of 1 trials finished" in out
    assert run.trial_names() == ["default"]
    assert run.status() == "complete"
    assert run.report.is_file()
    assert (run.best / "model.safetensors").is_file()


def test_an_interrupted_rolling_is_resumed_to_the_same_bytes(
    prices: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = rolled(prices, tmp_path / "whole")
    from dpa.research.trials import TrialRun

    advance = TrialRun.advance

    def interrupted(self: TrialRun) -> object:
        if self.folds_done == 2:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(TrialRun, "advance", interrupted)
    storage = tmp_path / "broken"
    words = ["rolling", "--data", str(prices), *SMALL, "--storage", str(storage)]
    assert cli.main(words) == 130
    [run] = list_runs(storage)
    assert f"dpa rolling --resume {run.path}" in capsys.readouterr().out
    assert run.status() == "interrupted"
    monkeypatch.setattr(TrialRun, "advance", advance)
    monkeypatch.chdir(os.sep)
    assert cli.main(["rolling", "--resume", str(run.path)]) == 0
    for name in ("returns.parquet", "weights.parquet", "clusters.parquet"):
        left, right = (r.trial("default") / name for r in (run, whole))
        assert left.read_bytes() == right.read_bytes()


@pytest.fixture
def both_kinds(prices: Path, tmp_path: Path) -> Path:
    """Storage of a run of the grid and a later one of predictors."""
    rolled(prices, tmp_path)
    write_horizon_run(tmp_path, skill=0.03, created=datetime(2100, 1, 5, 12, tzinfo=UTC))
    return tmp_path


def test_runs_of_both_kinds_are_listed(
    both_kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["runs", "list", "--storage", str(both_kinds)]) == 0
    head, grid, predictors = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "kind", "status", "done", "best", "data"]
    assert grid.split()[1:6] == ["grid", "complete", "1/1", "net", "Sharpe"]
    [run] = [run for run in list_runs(both_kinds) if run.read_manifest().kind == "horizons"]
    ic = pd.read_csv(run.tables / "ic.csv")
    best = ic.loc[ic["t"].idxmax()]
    shown = f"{best.family} {best.horizon} IC {best.ic:.4f} (t {best.t:.1f})"
    assert predictors.split()[1:4] == ["horizons", "complete", "40/40"]
    assert shown in predictors


def test_a_run_of_predictors_that_has_not_begun_is_listed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_horizon_run(tmp_path, begun=False, status="interrupted")
    assert cli.main(["runs", "list", "--storage", str(tmp_path)]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == [run.path.name, "horizons", "interrupted", "0/40", "-", "us_5min_bars.parquet"]
    assert cli.main(["runs", "show", "latest", "--storage", str(tmp_path)]) == 0
    assert "No verdict:" in capsys.readouterr().out


def test_a_run_of_predictors_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_horizon_run(tmp_path, skill=0.03)
    assert cli.main(["runs", "show", "latest", "--storage", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "families  cluster, ridge, gbdt, encoder" in lines
    assert "fits      40 of 40 done" in lines
    assert "fold 0    4602 bars trained, tested 2024-09-10 to 2024-10-07" in lines
    assert lines[[line[:6] for line in lines].index("fold 2")].endswith("(cut short)")
    head = next(line for line in lines if line.startswith("rank IC"))
    assert head.split()[2:] == list(HORIZONS)
    for row in pd.read_csv(run.tables / "ic.csv").itertuples():
        [line] = [line for line in lines if line.startswith(f"{row.family} ")]
        assert f"{row.ic:.4f} (t {row.t:.1f})" in line
    assert lines[-1].startswith("Evidence at 5m, 10m, 15m and 30m; no evidence at 60m and 1d.")


def test_the_report_of_predictors_is_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_horizon_run(tmp_path, horizons=("5m", "1d"))
    assert cli.main(["runs", "report", "latest", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{run.report}\n"
    assert "Rank IC by family and horizon" in run.report.read_text(encoding="utf-8")


def test_promoting_predictors_names_the_command_that_does_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_horizon_run(tmp_path, begun=False)
    assert cli.main(["runs", "promote", "latest", "--storage", str(tmp_path)]) == 2
    assert f"use 'dpa bundle promote {run.path.name}'" in capsys.readouterr().err


def test_runs_of_predictors_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_horizon_run(tmp_path, skill=0.03)
    second = write_horizon_run(
        tmp_path, horizons=("5m", "1d"), created=datetime(2026, 1, 6, tzinfo=UTC), seed=1
    )
    names = [first.path.name, second.path.name]
    assert cli.main(["runs", "compare", *names, "--storage", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "IC", *names]
    ridge = next(line for line in lines if line.startswith("ridge 10m"))
    assert ridge.endswith("  -")
    tables = [pd.read_csv(run.tables / "ic.csv") for run in (first, second)]
    stacked = next(line for line in lines if line.startswith("stacked 1d"))
    for table in tables:
        [row] = [r for r in table.itertuples() if (r.family, r.horizon) == ("stacked", "1d")]
        assert f"{row.ic:.4f} (t {row.t:.1f})" in stacked
    differs = next(line for line in lines if line.startswith("horizons "))
    assert differs.split() == ["horizons", ",".join(HORIZONS), "5m,1d"]


def test_runs_of_two_kinds_are_not_compared(
    both_kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run.path.name for run in list_runs(both_kinds)]
    assert cli.main(["runs", "compare", *names, "--storage", str(both_kinds)]) == 2
    assert "compare runs of one kind" in capsys.readouterr().err
