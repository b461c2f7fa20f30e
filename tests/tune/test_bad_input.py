"""Mistakes of the user: one line with the thing and the cure, exit code 2, nothing written."""

import socket
from collections.abc import Iterator
from pathlib import Path

import _session
import grid
import numpy as np
import pandas as pd
import pytest

from tests.tune.conftest import POINTS, SMALL


def refusal(capsys: pytest.CaptureFixture[str], storage: Path, *words: object) -> str:
    """What the grid says when it refuses; checks code, shape and that nothing was written."""
    before = sorted(storage.parent.rglob("*"))
    arguments = ["--storage", str(storage), *SMALL, *(str(word) for word in words)]
    assert grid.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert sorted(storage.parent.rglob("*")) == before
    return err


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def table(prices: Path) -> pd.DataFrame:
    """The prices with ISO dates in the first column, free to be spoilt."""
    frame = pd.read_parquet(prices)
    frame.index = frame.index.strftime("%Y-%m-%d")
    return frame.astype(object)


def swap_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[[0, 2, 1, *range(3, len(frame))]]


def repeat_row(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[[0, 1, 1, *range(2, len(frame))]]


def spoil(value: object) -> object:
    def spoilt(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[4, 2] = value
        return frame

    return spoilt


def empty_name(frame: pd.DataFrame) -> pd.DataFrame:
    frame["N5"] = np.nan
    return frame


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(swap_rows, ["row"], id="non-monotone"),
        pytest.param(repeat_row, ["row"], id="duplicate"),
        pytest.param(spoil("n/k"), ["'N2'", "row 5", "n/k"], id="text"),
        pytest.param(spoil(0.0), ["'N2'", "row 5"], id="zero"),
        pytest.param(spoil(-3.5), ["'N2'", "row 5", "-3.5"], id="negative"),
        pytest.param(spoil("inf"), ["'N2'", "row 5", "inf"], id="infinite"),
        pytest.param(empty_name, ["N5"], id="all missing"),
    ],
)
def test_bad_prices_name_file_column_and_row(
    damage: object,
    named: list[str],
    table: pd.DataFrame,
    storage: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = storage.parent / "bad.csv"
    damage(table).to_csv(path)
    said = refusal(capsys, storage, "--data", path, *POINTS)
    for word in ["bad.csv", *named]:
        assert word in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--window 90 --train-bars 50", "90 bars are longer than the training span"),
        ("--train-bars 400", "230 bars are too few for one fold"),
        ("--window 3", "--window: '3' is not allowed; give integer, >= 5, <= 5000"),
        ("--window 10,10", "--window: 10 is given twice"),
        ("--windw 10", "unrecognized arguments: --windw 10"),
        ("--entry-threshold 5", "stop_threshold 4.0 must exceed entry_threshold 5.0"),
        ("--entry-threshold 1,5", "entry_threshold=5"),
        ("--num-cpus 0", "--num-cpus"),
        ("--num-cpus 2 --address auto", "--num-cpus 2: a running cluster has the cores it has"),
        ("--half-spread-bps 1,8", "costs.half_spread_bps: 2 values"),
        ("--start 2030-01-01", "no bar from 2030-01-01"),
        ("--start soon", "data.start"),
        ("--names N1,NOPE", "NOPE"),
        ("--calendar MOON", "MOON"),
        ("--config absent.yaml", "absent.yaml"),
    ],
)
def test_bad_options_name_the_field(
    words: str, named: str, prices: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", prices, *POINTS[2:]]
    assert named in refusal(capsys, storage, *data, *words.split())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {windw: 10}\n", "unknown key 'model.windw'"),
        ("grid: {windw: [10]}\n", "unknown setting 'windw'"),
        ("grid: {window: [10, ten]}\n", "grid.window: 'ten'"),
        ("modle: {}\n", "unknown key 'modle'"),
        ("model: [\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_file_and_key(
    text: str, named: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = storage.parent / "grid.yaml"
    path.write_text(text)
    said = refusal(capsys, storage, "--config", path)
    assert "grid.yaml" in said
    assert named in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--resume 2020", "no run is called '2020'"),
        ("--resume latest", "no run is called 'latest'"),
        ("--resume latest --window 10", "--window: a resumed run keeps the settings"),
        ("--resume latest --config x.yaml", "--config: a resumed run keeps the settings"),
    ],
)
def test_a_run_that_cannot_be_resumed_is_named(
    words: str, named: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main(["--storage", str(storage), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert named in err
    assert (out, err.count("\n"), storage.exists()) == ("", 1, False)


def test_absent_data_is_named(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.parquet" in refusal(capsys, storage, "--data", "absent.parquet")


def test_unwritable_storage_is_named(
    prices: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write_text("a file")
    said = refusal(capsys, storage / "below", "--data", prices, *POINTS)
    assert f"--storage {storage / 'below'}: cannot be written" in said


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_cluster_that_does_not_listen_is_named(
    prices: Path, storage: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{closed_port}"
    said = refusal(capsys, storage, "--data", prices, *POINTS, "--address", address)
    assert f"--address {address}: cannot be reached" in said


def test_a_cluster_that_never_answers_is_given_up(
    prices: Path,
    storage: Path,
    silent_port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_session, "JOIN_SECONDS", 0.5)
    address = f"127.0.0.1:{silent_port}"
    said = refusal(capsys, storage, "--data", prices, *POINTS, "--address", address)
    assert f"--address {address}: no Ray cluster answers there" in said


@pytest.mark.parametrize(
    ("address", "named"),
    [("nonsense", "is not an address"), ("ray://head:10001", "does not run over Ray Client")],
)
def test_a_wrong_address_is_named(
    address: str, named: str, prices: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, storage, "--data", prices, *POINTS, "--address", address)
    assert named in said
