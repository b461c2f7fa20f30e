"""The command that serves on this machine: what it refuses, and what it would begin with."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

from serve import run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--num-cpus", "0"), "--num-cpus 0; give 1 or more"),
        (("--bars-per-second", "0"), "--bars-per-second 0.0; give more than 0"),
        (("--data", "prices.parquet"), "--data: is for bundles of your own"),
        (("--bundle", "latest"), "--bundle: is for bundles of your own"),
        (("--http-port", "0"), "--http-port: '0' is not allowed"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
def test_a_storage_without_a_bundle_says_what_to_do(capsys, tmp_path):
    assert run.main(["--storage", str(tmp_path)]) == 2
    assert "no bundle is promoted" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "--max-name-weight" in said


def test_the_training_of_the_invented_market_is_one_that_tune_understands(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tune"))
    parser = runpy.run_path(str(REPOSITORY / "tune" / "horizons.py"))["build_parser"]()
    parser.parse_args(run.DEMO_TRAINING)


def test_the_invented_market_is_written_once_and_read_back(tmp_path):
    panel = run._demo_bars(tmp_path / "bars")
    written = (tmp_path / "bars" / "manifest.json").stat().st_mtime_ns
    again = run._demo_bars(tmp_path / "bars")
    assert (tmp_path / "bars" / "manifest.json").stat().st_mtime_ns == written
    pd.testing.assert_index_equal(panel.times, again.times)
    dates = panel.times.tz_convert("America/New_York").normalize().unique()
    assert len(dates) > run.TRAINED_SESSIONS + run.WARM_SESSIONS + 5
