"""``dpa sim tws``: what it refuses in a line, and a whole life of it as a process."""

import json
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dpa.cli import build_parser, main
from dpa.simulation.tws.commands import market_from

PATIENCE = 60  # seconds, of a failure only


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "one of the arguments --planted --replay is required"),
        ("--planted 1 --replay x", "not allowed with argument"),
        ("--planted -1", "seed -1"),
        ("--planted 1 --names 0", "--names: 0; give 1 to 10000"),
        ("--planted 1 --sessions 0", "--sessions: 0"),
        ("--planted 1 --history -1", "--history: -1"),
        ("--planted 1 --interval 7s", "interval '7s' is not understood"),
        ("--planted 1 --start soon", "'soon' is not a date"),
        ("--planted 1 --symbols A", "--symbols means nothing with --planted"),
        ("--replay x --names 3", "--names means nothing with --replay"),
        ("--replay nowhere.parquet", "nowhere.parquet"),
        ("--planted 1 --port 65536", "--port: 65536; give 0 to 65535"),
        ("--planted 1 --control-port -1", "--control-port: -1"),
        ("--planted 1 --server-version 179", "--server-version: 179; give 157 to 178"),
        ("--planted 1 --speed 0", "--speed: 0"),
        ("--planted 1 --speed nan", "--speed: nan"),
        ("--planted 1 --speed 2 --stepped", "not allowed with argument"),
        ("--planted 1 --accounts DU1,DU1", "--accounts: 'DU1,DU1'"),
        ("--planted 1 --accounts ,", "--accounts: ','"),
        ("--planted 1 --cash lots", "--cash: 'lots' is not a number"),
        ("--planted 1 --cash -1", "--cash: '-1'"),
        ("--planted 1 --half-spread-bps -1", "--half-spread-bps: -1"),
        ("--planted 1 --lines -1", "--lines: -1"),
        ("--planted 1 --messages-per-second 0", "--messages-per-second: 0"),
        ("--planted 1 --faults nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("--planted 1 --acounts DU1", "unrecognized arguments: --acounts"),
    ],
)
def test_a_mistake_is_one_line_with_its_cure(words, complaint, capsys):
    assert main(["sim", "tws", *words.split()]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert complaint in told


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["sim", "tws", "--help"])
    told = capsys.readouterr().out
    assert "dpa sim tws --planted 7 --names 100" in told
    assert "do: restart" in told


def parsed(*words):
    return build_parser().parse_args(["sim", "tws", *words])


def test_an_invented_market_is_as_asked():
    words = [
        "--names",
        "3",
        "--sessions",
        "2",
        "--history",
        "1",
        "--interval",
        "30m",
        "--start",
        "2024-07-01",
    ]
    market = market_from(parsed("--planted", "4", *words))
    assert (market.panel.n_assets, market.panel.interval) == (3, "30m")
    assert market.live_from == 13
    assert market.starts_at.strftime("%Y-%m-%d") == "2024-07-02"
    assert market.ends_at.strftime("%Y-%m-%d %H:%M") == "2024-07-03 17:00"


def test_shards_are_replayed(tmp_path, capsys):
    shards = tmp_path / "shards"
    words = "simulate bars --sessions 2 --clusters 1 --names-per-cluster 3 --seed 4 --out"
    assert main([*words.split(), str(shards)]) == 0
    market = market_from(parsed("--replay", str(shards), "--symbols", "N2,N0"))
    assert market.panel.names == ("N2", "N0")
    assert market.panel.n_bars == 2 * 78


@contextmanager
def running(tmp_path: Path, *words: str):
    """A process of the command: (process, API port, control port, token)."""
    token_file = tmp_path / "token"
    command = [sys.executable, "-m", "dpa.cli", "sim", "tws", "--planted", "3", "--names", "2"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--token-file", str(token_file), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[3] == "Ctrl-C ends it\n", (lines, process.stderr.read())
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        port = int(lines[1].strip().rpartition(":")[2])
        control = int(lines[2].partition(",")[0].rpartition(":")[2])
        yield process, port, control, token_file.read_text().strip()
    finally:
        process.kill()
        if process.stdin.closed:
            process.stdin = None
        process.communicate(timeout=PATIENCE)


def test_it_ends_with_the_program_that_started_it_where_asked_to(tmp_path):
    with running(tmp_path, "--stepped", "--end-with-input") as (process, *_):
        process.stdin.write("a word is no end\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
        assert not (tmp_path / "token").exists()


def test_input_that_cannot_be_watched_is_refused(tmp_path):
    command = [
        sys.executable,
        "-m",
        "dpa.cli",
        "sim",
        "tws",
        "--planted=3",
        "--names=2",
        "--port=0",
    ]
    done = subprocess.run(
        [*command, "--end-with-input", f"--token-file={tmp_path / 'token'}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no pipe" in done.stderr


def test_a_process_steps_tells_the_truth_and_cleans_up(tmp_path):
    truth = tmp_path / "truth.json"
    words = ("--stepped", "--accounts", "DU1,DU2", "--cash", "5000", "--truth", str(truth))
    with running(tmp_path, *words) as (process, port, control, token):
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        with socket.create_connection(("127.0.0.1", control), PATIENCE) as line:
            file = line.makefile("rwb")
            for said in ({"token": token}, {"op": "step", "count": 3}, {"op": "stop"}):
                file.write(json.dumps(said).encode() + b"\n")
            file.flush()
            stepped, stopped = json.loads(file.readline()), json.loads(file.readline())
        assert stepped["now"].startswith("2024-06-17T13:30:")
        assert stopped == {"ok": True}
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    told = json.loads(truth.read_text())
    assert {name: books["cash"] for name, books in told["accounts"].items()} == {
        "DU1": "5000",
        "DU2": "5000",
    }
    assert not (tmp_path / "token").exists()


def test_ctrl_c_ends_it(tmp_path):
    with running(tmp_path, "--speed", "60") as (process, *_):
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    assert not (tmp_path / "token").exists()


def test_a_port_that_is_taken_is_named(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = f"sim tws --planted 1 --names 1 --port {port} --token-file {tmp_path / 'token'}"
        assert main(words.split()) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err
