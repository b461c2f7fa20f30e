"""Downloaded history: the venue's bars, asked for once, at the pace that TWS allows."""

import asyncio
import itertools
import signal
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.cli import main
from dpa.clock import FixedClock
from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.intervals import Interval, parse_interval
from dpa.market.readers import load_wide_data
from dpa.market.resampling import resample
from dpa.simulation.tws.markets import planted_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from dpa.trading.ibkr.history import (
    HistoryDownload,
    HistoryPace,
    Progress,
    bar_size,
    plan,
    source_interval,
)
from dpa.trading.ibkr.history_store import HistoryBar, HistoryPiece, HistoryStore
from tests.trading.ibkr.rig import Rig, rig, run

FIRST, LAST = date(2024, 6, 17), date(2024, 6, 26)


def past_venue(interval: str = "5m", sessions: int = 8, **traits: Any) -> SimVenue:
    """A venue whose sessions are almost all past."""
    market = planted_market(seed=3, names=3, sessions=1, history=sessions, interval=interval)
    return SimVenue(market, traits=Traits(**traits))


class Hurry(FixedClock):
    """Pauses take no time; the venue's moment."""

    def __init__(self, venue: SimVenue) -> None:
        super().__init__(venue.clock.now())
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)


def download(
    r: Rig, store: HistoryStore, clock: Hurry, told: Callable[[Progress], None] = lambda _: None
) -> HistoryDownload:
    return HistoryDownload(
        r.broker.client, store, r.broker.settings, clock, sleep=clock.sleep, told=told
    )


@pytest.mark.parametrize("interval", ["5m", "30m", "1d"])
def test_what_is_stored_is_what_the_venue_has(tmp_path: Path, interval: str) -> None:
    async def scenario() -> None:
        venue = past_venue("30m" if interval == "1d" else interval)
        async with rig(venue=venue) as r:
            store = HistoryStore(tmp_path / "kept", parse_interval(interval), "XNYS")
            names = venue.market.panel.names
            pieces = plan(names, store.interval, FIRST, LAST)
            progress = await download(r, store, Hurry(venue)).run(pieces)
            assert progress.failed == {}
            past = venue.market.panel.window(0, venue.market.live_from)
            if interval == "1d":
                past = resample(past, "1d")
            (panel,) = store.panels(pieces, FIRST, LAST)
            chosen = past.times <= panel.times[-1]
            assert list(panel.times) == list(past.times[chosen])
            assert panel.names == past.names
            np.testing.assert_array_equal(panel.prices, past.prices[chosen])
            np.testing.assert_array_equal(panel.volume, past.volume[chosen])
            np.testing.assert_array_equal(panel.high, past.high[chosen])

    run(scenario)


def test_a_download_that_was_broken_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = past_venue("5m", sessions=15)
        async with rig(venue=venue) as r:
            names, interval = venue.market.panel.names, parse_interval("5m")
            pieces = plan(names, interval, FIRST, date(2024, 7, 7))
            store = HistoryStore(tmp_path / "kept", interval, "XNYS")
            enough = asyncio.Event()

            def told(progress: Progress) -> None:
                if progress.done >= 4:
                    enough.set()

            running = asyncio.create_task(download(r, store, Hurry(venue), told).run(pieces))
            await enough.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            done = [piece for piece in pieces if store.has(piece)]
            assert 4 <= len(done) < len(pieces)
            with (tmp_path / "kept" / "finished.jsonl").open("a") as file:
                file.write('{"piece": "torn')
            asked: list[str] = []
            again = HistoryStore(tmp_path / "kept", interval, "XNYS")
            load = download(r, again, Hurry(venue))
            ask = load._ask

            async def spy(piece: HistoryPiece) -> list[HistoryBar]:
                asked.append(piece.key)
                return await ask(piece)

            load._ask = spy  # type: ignore[method-assign]
            progress = await load.run(pieces)
            assert progress.kept == len(done)
            assert sorted(asked) == sorted(p.key for p in pieces if p not in done)
            assert progress.done == len(pieces)
            assert all(again.has(piece) for piece in pieces)

    run(scenario)


def test_pacing_violations_are_waited_out(tmp_path: Path) -> None:  # fault 20
    async def scenario() -> None:
        venue = past_venue("5m", history_requests=0)
        async with rig(venue=venue) as r:
            store = HistoryStore(tmp_path / "kept", parse_interval("5m"), "XNYS")
            names = venue.market.panel.names
            pieces = plan(names[:1], store.interval, FIRST, FIRST)
            clock = Hurry(venue)
            pause = clock.sleep

            async def sleep(seconds: float) -> None:
                if len(clock.pauses) >= 2:
                    venue.traits.history_requests = 60
                await pause(seconds)

            clock.sleep = sleep  # type: ignore[method-assign]
            progress = await download(r, store, clock).run(pieces)
            assert progress.failed == {}
            assert clock.pauses[:2] == [60.0, 120.0]
            assert store.has(pieces[0])

    run(scenario)


def test_a_symbol_that_tws_does_not_know_is_named_and_the_others_are_had(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = past_venue("30m")
        async with rig(venue=venue) as r:
            store = HistoryStore(tmp_path / "kept", parse_interval("30m"), "XNYS")
            names = venue.market.panel.names
            pieces = plan(["NOPE", *names], store.interval, FIRST, LAST)
            progress = await download(r, store, Hurry(venue)).run(pieces)
            assert progress.failed == {"NOPE": "TWS does not know it"}
            assert progress.done == len(names)

    run(scenario)


def test_a_lost_connection_is_made_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = past_venue("5m")
        async with rig(venue=venue) as r:
            store = HistoryStore(tmp_path / "kept", parse_interval("5m"), "XNYS")
            pieces = plan(venue.market.panel.names, store.interval, FIRST, LAST)
            lost = False

            def told(progress: Progress) -> None:
                nonlocal lost
                if progress.done == 2 and not lost:
                    lost = True
                    r.fault(do="disconnect", reset=True)

            progress = await download(r, store, Hurry(venue), told).run(pieces)
            assert lost
            assert progress.failed == {}
            assert progress.done == len(pieces)

    run(scenario)


def test_the_newest_piece_is_asked_for_again_until_its_session_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = past_venue("5m")
        today = venue.clock.now().date()
        async with rig(venue=venue) as r:
            store = HistoryStore(tmp_path / "kept", parse_interval("5m"), "XNYS")
            pieces = plan(venue.market.panel.names[:1], store.interval, FIRST, today)
            await download(r, store, Hurry(venue)).run(pieces)
            assert [store.has(piece) for piece in pieces] == [True] * (len(pieces) - 1) + [False]

    run(scenario)


def test_the_command_writes_shards_that_load(tmp_path: Path, capfd: Any) -> None:
    async def scenario() -> None:
        venue = past_venue("30m")
        async with rig(venue=venue) as r:
            out, names = tmp_path / "bars", venue.market.panel.names
            command = [
                *("data", "fetch", "--source", "ibkr", "--names", ",".join([*names, "NOPE"])),
                *("--interval", "1h", "--start", str(FIRST), "--end", str(LAST)),
                *("--out", str(out), "--ibkr-port", str(r.gateway.port)),
            ]
            assert await asyncio.to_thread(main, command) == 1
            said = capfd.readouterr()
            assert "NOPE: left out" in said.err
            assert "3 names" in said.out
            panel = load_wide_data(DataConfig(path=str(out), calendar="XNYS"))
            past = resample(venue.market.panel.window(0, venue.market.live_from), "1h")
            chosen = past.times <= panel.times[-1]
            assert panel.interval == "1h"
            np.testing.assert_array_equal(panel.prices, past.prices[chosen])
            assert await asyncio.to_thread(main, command) == 2
            assert "--force" in capfd.readouterr().err

    run(scenario)


def test_without_a_gateway_the_command_says_so(tmp_path: Path, capfd: Any) -> None:
    async def scenario() -> None:
        async with rig(connect=False) as r:
            port = r.gateway.port
            await r.gateway.stop()
            command = ["data", "fetch", "--names", "A", "--start", str(FIRST)]
            command += ["--out", str(tmp_path / "x"), "--ibkr-port", str(port)]
            assert await asyncio.to_thread(main, command) == 1
            assert "nobody listens" in capfd.readouterr().err

    run(scenario)


def test_an_interruption_keeps_what_is_finished(tmp_path: Path) -> None:
    async def scenario() -> None:
        venue = past_venue("5m", history_requests=1)
        async with rig(venue=venue, connect=False) as r:
            out, names = tmp_path / "bars", ",".join(venue.market.panel.names)
            running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dpa.cli", "data", "fetch", "--names", names),
                *("--start", str(FIRST), "--end", str(LAST), "--out", str(out)),
                *("--ibkr-port", str(r.gateway.port), "--history-requests", "1"),
                stderr=asyncio.subprocess.PIPE,
            )
            assert running.stderr is not None
            said = b""
            while b"1 of 6 pieces" not in said:
                said += await running.stderr.readline()
            running.send_signal(signal.SIGINT)
            said = await running.stderr.read()
            assert await running.wait() == 130
            assert b"interrupted: 1 of 6 pieces are kept" in said
            assert b"Traceback" not in said
            assert not out.exists()
            assert len(list(out.with_name("bars.fetch").glob("*/*.parquet"))) == 1

    run(scenario)


@given(
    st.sampled_from(["1m", "5m", "30m", "1d"]),
    st.dates(date(2015, 1, 1), date(2025, 1, 1)),
    st.integers(0, 800),
)
def test_pieces_cover_all_days_once(interval: str, first: date, days: int) -> None:
    last = first + timedelta(days=days)
    pieces = plan(["A"], parse_interval(interval), first, last)
    assert pieces[0].first <= first
    assert pieces[-1].last >= last
    for before, after in itertools.pairwise(pieces):
        assert after.first == before.last + timedelta(days=1)
    shifted = plan(["A"], parse_interval(interval), pieces[-1].first, last)
    assert shifted == pieces[-1:]


@given(st.lists(st.sampled_from("AB"), min_size=1, max_size=40), st.integers(1, 10))
def test_history_is_asked_for_at_the_pace_of_tws(symbols: list[str], most: int) -> None:
    clock = FixedClock(datetime(2024, 6, 17, tzinfo=UTC))
    asked: list[tuple[float, HistoryPiece]] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        clock.advance(seconds)

    async def scenario() -> None:
        pace = HistoryPace(most, clock, sleep)
        for k, symbol in enumerate(symbols):
            piece = HistoryPiece(symbol, FIRST + timedelta(days=k % 3), LAST)
            await pace.turn(piece)
            asked.append((clock.elapsed(), piece))

    asyncio.run(scenario())
    moments = [moment for moment, _ in asked]
    assert all(b - a >= 600 for a, b in zip(moments, moments[most:], strict=False))
    for symbol in "AB":
        own = [moment for moment, piece in asked if piece.symbol == symbol]
        assert all(b - a >= 2 for a, b in zip(own, own[5:], strict=False))
    for piece in {piece for _, piece in asked}:
        same = [moment for moment, other in asked if other == piece]
        assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(same))


@pytest.mark.parametrize(
    ("wanted", "source", "size"),
    [
        ("1m", "1m", "1 min"),
        ("4m", "2m", "2 mins"),
        ("5m", "5m", "5 mins"),
        ("20m", "10m", "10 mins"),
        ("1h", "30m", "30 mins"),
        ("2h", "30m", "30 mins"),
        ("1d", "1d", "1 day"),
    ],
)
def test_bars_are_downloaded_in_lengths_that_lie_on_the_grid(
    wanted: str, source: str, size: str
) -> None:
    found = source_interval(parse_interval(wanted))
    assert (str(found), bar_size(found)) == (source, size)


def test_a_store_of_other_bars_is_not_mixed_with_these(tmp_path: Path) -> None:
    HistoryStore(tmp_path / "kept", Interval(300), "XNYS")
    with pytest.raises(DataError, match="5m"):
        HistoryStore(tmp_path / "kept", Interval(600), "XNYS")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    with pytest.raises(DataError, match="something else"):
        HistoryStore(tmp_path / "other", Interval(300), "XNYS")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--start", "2024-06-17"],
        ["--names", "A", "--start", "2024-06"],
        ["--names", "A", "--start", "2024-06-17", "--end", "2024-06-16"],
        ["--names", "A", "--start", "2024-06-17", "--interval", "7m"],
        ["--names-file", "nowhere.txt", "--start", "2024-06-17"],
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    tmp_path: Path, arguments: list[str], capfd: Any
) -> None:
    assert main(["data", "fetch", *arguments, "--out", str(tmp_path / "x")]) == 2
    assert capfd.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_panels_need_no_more_than_what_is_there(tmp_path: Path) -> None:
    store = HistoryStore(tmp_path / "kept", Interval(1800), "XNYS")
    piece = HistoryPiece("A", date(2024, 6, 1), date(2024, 6, 30))
    off_grid = int(pd.Timestamp("2024-06-17 13:31", tz="UTC").value)
    on_grid = int(pd.Timestamp("2024-06-17 13:30", tz="UTC").value)
    bars = [HistoryBar(moment, 1, 2, 1, 2, 10, 1.5) for moment in (on_grid, off_grid)]
    store.keep(piece, bars, final=True)
    (panel,) = store.panels([piece], FIRST, LAST)
    assert panel.n_bars == 1
    assert panel.times[0] == pd.Timestamp("2024-06-17 14:00", tz="UTC")
    assert panel.dollar_volume is not None
    assert panel.dollar_volume[0, 0] == 15.0
    with pytest.raises(ConfigError):
        parse_interval("30s")
