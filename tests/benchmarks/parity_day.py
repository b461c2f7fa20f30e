"""A recorded day over the wire, and through the pure functions: the same decisions and intents?

    python tests/benchmarks/parity_day.py --data us_5min_bars.parquet

One side is the trader: the simulated gateway replays the day on a socket, ib_insync reads it,
five-second bars become bars, the graph in this process decides, dealer and journal trade. The
other side never sees any of that. It is the pure pipeline (``take``, ``decide``, ``next_leg``,
``intent_for``) on

- bars read from the file with pandas alone, half-open, in New York's time;
- quotes by the gateway's rule: the newest trade in the middle, whole cents, as old as the moment at
  which they were first seen, so 0 s at a close;
- positions, cash and live orders from the gateway's own books at the same moments; worth from them
  and the closes.

So quotes must enter on both sides as the gateway shows them at that very moment: prices as decimal
texts, and dated by the moment and not by when they came. Decisions and intents are compared byte
for byte. Exit code 1 where they differ or nothing was traded. A small bundle (ridge, gbdt) is
trained on the weeks before, with thresholds low enough that it trades; what it earns says nothing.
"""

from trading_runs import NEWEST, NO_LIMIT, machine  # noqa: I001

import argparse
import asyncio
import contextlib
import hashlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dpa.clock import FixedClock  # noqa: E402
from dpa.config import DataConfig, Settings, load_settings  # noqa: E402
from dpa.decision.decision import State  # noqa: E402
from dpa.decision.learning import LearningState, learn  # noqa: E402
from dpa.decision.pipeline import decide  # noqa: E402
from dpa.decision.risk import RiskState  # noqa: E402
from dpa.decision.types import Snapshot  # noqa: E402
from dpa.horizons.bundle import HorizonBundle, write_bundle  # noqa: E402
from dpa.horizons.promotion import promote_bundle  # noqa: E402
from dpa.market.costs import CostModel  # noqa: E402
from dpa.market.panel import Panel  # noqa: E402
from dpa.market.readers import load_wide_data  # noqa: E402
from dpa.serving.graph import Graph, LocalLinks, local_stages  # noqa: E402
from dpa.serving.market_stage import MarketStage  # noqa: E402
from dpa.serving.meters import NoMeters  # noqa: E402
from dpa.serving.types import Request  # noqa: E402
from dpa.serving.wire import to_json  # noqa: E402
from dpa.simulation.tws.control import Control  # noqa: E402
from dpa.simulation.tws.gateway import Gateway  # noqa: E402
from dpa.simulation.tws.markets import replayed_market  # noqa: E402
from dpa.simulation.tws.venue import SimVenue  # noqa: E402
from dpa.simulation.tws.words import Traits  # noqa: E402
from dpa.trading.books_compared import differences  # noqa: E402
from dpa.trading.bus import Bus  # noqa: E402
from dpa.trading.clocks import VirtualClock  # noqa: E402
from dpa.trading.dealer import Dealer  # noqa: E402
from dpa.trading.decider import DeskDecider  # noqa: E402
from dpa.trading.engine import Engine  # noqa: E402
from dpa.trading.events import Decided, Filled, Intended  # noqa: E402
from dpa.trading.ibkr.broker import IbkrBroker  # noqa: E402
from dpa.trading.ibkr.client import TwsClient  # noqa: E402
from dpa.trading.ibkr.feed import IbkrFeed  # noqa: E402
from dpa.trading.intents import Price, Target, intent_for, next_leg, record_of  # noqa: E402
from dpa.trading.journal import Journal  # noqa: E402
from dpa.trading.runner import Moment, MomentFeed, Runner, TimeKeeper  # noqa: E402
from dpa.trading.switch import Level, Switch  # noqa: E402
from dpa.trading.types import Instrument, Intent, Quote, Style  # noqa: E402
from tests.horizons.small_run import run_small, small_settings  # noqa: E402
from tests.serving.served import FAMILIES, TREE  # noqa: E402

ACCOUNT, CASH = "DU1234567", Decimal(1_000_000)
NAMES = ("AAPL", "AMD", "AMZN", "AVGO", "BAC", "COIN", "GOOG", "HOOD", "INTC", "JPM", "MARA", "BA")
CALENDAR, BAR = "XNYS", pd.Timedelta(5, "min")
TRAINED_DAYS, WARM_SESSIONS = 30, 2  # calendar days of training; sessions learned from after it
HALF_SPREAD_BPS = 1.0
QUIET, LIFE = timedelta(minutes=10), timedelta(seconds=60)
CLOCK = FixedClock(pd.Timestamp("2026-01-02", tz="UTC").to_pydatetime())


# what both sides begin with


@dataclass(frozen=True)
class Ground:
    """The bundle, the bars before the day, and the settings."""

    settings: Settings
    storage: Path
    before: Panel
    names: tuple[str, ...]
    day: str
    data: Path

    def market(self, storage: Path) -> MarketStage:
        """A market stage of its own over the bundle, which begins with the bars before the day."""
        storage.mkdir(parents=True)
        for found in self.storage.iterdir():
            if found.is_file():
                shutil.copy(found, storage)

        def history(_: HorizonBundle, n_bars: int) -> Panel:
            return self.before.window(max(self.before.n_bars - n_bars, 0), self.before.n_bars)

        return MarketStage(self.settings, storage, "promoted", (), CLOCK, history)


def prepare(given: argparse.Namespace, folder: Path) -> Ground:
    """Train a small bundle on the weeks before the day."""
    day = pd.Timestamp(given.day)
    data = DataConfig(
        path=str(given.data), stamps="start", names=NAMES[: given.names],
        start=f"{day - pd.Timedelta(TRAINED_DAYS + 7, 'D'):%Y-%m-%d}",
        end=f"{day - pd.Timedelta(1, 'D'):%Y-%m-%d}",
    )  # fmt: skip
    before = load_wide_data(data)
    dates = before.times.tz_convert("America/New_York").normalize()
    warm = dates.unique()[-WARM_SESSIONS]
    trained = before.window(0, int((dates < warm).sum()))
    run = run_small(folder / "run", small_settings(families=FAMILIES), trained)
    write_bundle(folder / "bundle", run.parts(folder / "models"), CLOCK)
    promote_bundle(folder / "bundle", folder / "storage", CLOCK, "hand")
    sections = {
        **TREE,
        "serving": {**TREE["serving"], "warm_sessions": WARM_SESSIONS},
        "trading": {"broker": "ibkr"},
        "risk": {"max_orders_per_minute": 1000},
    }
    settings = load_settings(None, sections, {})
    return Ground(settings, folder / "storage", before, before.names, given.day, given.data)


# the trader


@dataclass(frozen=True)
class Seen:
    """The gateway's own books at a moment."""

    now: datetime
    cash: Decimal
    shares: dict[str, int]
    busy: frozenset[str]
    last: dict[str, Decimal]


@dataclass
class Traded:
    """What the trader did, and what the gateway held."""

    seen: list[Seen] = field(default_factory=list)
    decisions: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    fills: int = 0
    problems: list[str] = field(default_factory=list)


class Recording(DeskDecider):
    """Keeps what it was asked."""

    requests: list[Request]

    async def decide(self, request: Request) -> Mapping[str, Any]:
        """See :class:`~dpa.trading.decider.Decider`."""
        self.requests.append(request)
        return await super().decide(request)


class Watched(TimeKeeper):
    """Writes down the gateway's books at every moment, before the trader does anything."""

    venue: SimVenue
    seen: list[Seen]

    async def moment(self) -> Moment:
        """See :class:`TimeKeeper`."""
        found = await super().moment()
        venue, account = self.venue, self.venue.accounts[ACCOUNT]
        names = venue.market.panel.names
        shares = {n: int(account.shares(venue.listing.contracts[k].con_id))
                  for k, n in enumerate(names)}  # fmt: skip
        busy = frozenset(names[work.place] for work in venue.book.live())
        last = {n: price for k, n in enumerate(names) if (price := venue.tape.last(k)) is not None}
        self.seen.append(
            Seen(found.now, account.cash, {n: s for n, s in shares.items() if s}, busy, last)
        )
        return found


async def trade(ground: Ground, folder: Path) -> Traded:
    """The day over the wire."""
    found, settings = Traded(), ground.settings
    market = replayed_market(
        DataConfig(path=str(ground.data), stamps="start", names=ground.names, start=ground.day,
                   end=ground.day),
        history=1,
    )  # fmt: skip
    venue = SimVenue(market, Traits(lines=100, messages_per_second=NO_LIMIT), CASH)
    stage = ground.market(folder / "graph")
    graph = Graph(
        LocalLinks(local_stages(settings, folder / "graph", (), stage)), settings,
        folder / "graph", "promoted", NoMeters(), CLOCK,
    )  # fmt: skip
    await graph.begin()
    decider = Recording(graph)
    decider.requests = found.requests

    def hear(event: Any) -> None:
        if isinstance(event, Decided):
            found.decisions.append(to_json(event.content))
        elif isinstance(event, Intended):
            found.intents += event.intents
        elif isinstance(event, Filled):
            found.fills += 1

    async with Gateway(venue, versions=(157, NEWEST)) as gateway:
        control = Control(venue, "t0ken", gateway.settled)
        await control.start()
        keeping = asyncio.create_task(control.run())
        clock = VirtualClock(venue.clock.now())
        config = settings.ibkr.model_copy(update={"ibkr_port": gateway.port})
        broker = IbkrBroker(config, clock, TwsClient(config, clock, 0))
        switch, bus = Switch(folder / "switch.json", clock), Bus(clock)
        bus.subscribe(hear, on_order_path=True)
        keeper = await Watched.connect("127.0.0.1", control.port, "t0ken")
        keeper.venue, keeper.seen = venue, found.seen
        try:
            with Journal(folder / "journal.sqlite", clock) as journal:
                await broker.connect()
                instruments = await broker.instruments(ground.names)
                dealer = Dealer(broker, journal, switch, clock, settings, bus.publish, instruments)
                await dealer.start()
                feed = MomentFeed(
                    IbkrFeed(broker.client, broker.contracts, config, "5m", CALENDAR, 2.0, clock),
                    clock,
                )
                await feed.start(sorted(instruments))
                engine = Engine(
                    feed, decider, dealer, instruments, switch, journal, clock, settings, "5m",
                    CALENDAR, bus.publish, feed_kind="aggregated", patient=True,
                )  # fmt: skip
                runner = Runner(engine, dealer, broker, switch, clock, settings, bus.publish,
                                uniform=lambda low, high: high)  # fmt: skip
                await runner.run_virtual(clock, keeper, asyncio.Event())
                found.problems += differences(journal, venue.truth(), ACCOUNT)
                found.problems += [str(finding) for finding in journal.verify()]
                if runner.failures or switch.level is not Level.RUNNING:
                    found.problems.append(f"{runner.failures} steps failed, {switch.read()}")
        finally:
            await keeper.close()
            await broker.close()
            control.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            await control.close()
    gateway.check()
    return found


# the pure side


def read_day(ground: Ground) -> dict[pd.Timestamp, pd.DataFrame]:
    """Bars of the day by their close, with pandas alone."""
    frame = pd.read_parquet(ground.data)
    frame = frame[frame["symbol"].isin(ground.names)]
    frame = frame.astype(dict.fromkeys(("open", "high", "low", "close", "volume"), float))
    opens = frame["time"].dt.tz_localize("America/New_York")
    local = opens.dt.strftime("%H:%M")
    of_day = (opens.dt.strftime("%Y-%m-%d") == ground.day) & (local >= "09:30") & (local < "16:00")
    frame = frame[of_day].assign(closes=(opens + BAR).dt.tz_convert("UTC")[of_day])
    return {t: part.set_index("symbol") for t, part in frame.groupby("closes")}


def bars_of(names: Sequence[str], part: pd.DataFrame) -> dict[str, Any]:
    """Fields of a bar, and its dollar volume: four trades, at open, extremes and close."""
    rows = {n: part.loc[n] if n in part.index else None for n in names}
    kinds = ("close", "open", "high", "low", "volume", "dollar_volume")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for row in rows.values():
        if row is None:
            for values in found.values():
                values.append(math.nan)
            continue
        volume = round(row.volume)
        quarter = volume // 4
        extremes = (row.low, row.high) if row.close >= row.open else (row.high, row.low)
        value = 0.0
        for price, shares in zip(
            (row.open, *extremes, row.close), (*(quarter,) * 3, volume - 3 * quarter), strict=True
        ):
            value += shares * price
        for name in ("close", "open", "high", "low"):
            found[name].append(row[name])
        found["volume"].append(float(volume))
        found["dollar_volume"].append(value)
    return {name: np.array(values) for name, values in found.items()}


def quoted(price: Decimal) -> tuple[Decimal, Decimal]:
    """Bid and ask that the gateway shows after a trade, in cents."""
    mid = float(price) / 0.01
    wide = max(round(mid * 2e-4 * HALF_SPREAD_BPS), 1)
    bid = max(round(mid - wide / 2), 1)
    return Decimal(bid) / 100, Decimal(bid + wide) / 100


def request_at(names: tuple[str, ...], closes: pd.Timestamp, bars: Mapping[str, Any], seen: Seen,
               nav: Decimal, prior: Decimal) -> Request:  # fmt: skip
    """The snapshot, from the file and the gateway's books."""
    sides = np.array([[float(p) for p in quoted(Decimal(repr(float(c))))] for c in bars["close"]])
    n = len(names)
    return Request(
        time=closes,
        moment=pd.Timestamp(seen.now),
        account=ACCOUNT,
        nav_usd=float(nav),
        prior_nav_usd=float(prior),
        feed="aggregated",
        names=names,
        bars=dict(bars),
        member=np.isfinite(bars["close"]),
        bid=sides[:, 0],
        ask=sides[:, 1],
        quote_age_ms=np.zeros(n),
        adv_usd=np.full(n, np.nan),
        shares=np.array([float(seen.shares.get(name, 0)) for name in names]),
        lot=np.ones(n),
    )


class Pure:
    """Decisions by pure functions, one bar after another."""

    def __init__(self, ground: Ground, storage: Path) -> None:
        self.settings = ground.settings
        self.market = ground.market(storage)
        self.bundle = HorizonBundle.load(ground.storage.parent / "bundle")
        past = self.market.past(self.market.version())
        said = past[0].forecasts
        learned = LearningState.start(
            past[0].market.names, said.horizons, said.families, said.models
        )
        for snapshot in past:
            learned = learn(learned, snapshot, self.settings)[0]
        self.state = State(learned, RiskState.start(ACCOUNT))

    def decide(self, request: Request) -> dict[str, Any]:
        """The decision, without its trace."""
        taken = self.market.take(request)
        said = {n: f.predict(taken.rows.features) for n, f in self.bundle.families.items()}
        whole = taken.model.combiner.combine(taken.rows, said)
        snapshot = Snapshot(taken.market, taken.model.forecasts(whole, {}))
        decision = decide(snapshot, self.state, self.settings)
        self.state = decision.state
        return decision.only(request.names).to_dict(trace=False)


def again(ground: Ground, traded: Traded, storage: Path) -> Traded:
    """The same day by the pure side: decisions and intents."""
    names, days, found = tuple(sorted(ground.names)), read_day(ground), Traded()
    pure, costs = Pure(ground, storage), CostModel(ground.settings.costs)
    collar, ends = ground.settings.trading.collar_bps, max(days).to_pydatetime()
    instrument = Instrument("", 1, "SMART", "NYSE", "USD", Decimal("0.01"), 1, "America/New_York",
                            ())  # fmt: skip
    targets: dict[str, Target] = {}
    tried: set[str] = set()
    prior: Decimal | None = None
    closed: dict[str, Decimal] = {}
    for seen in traded.seen:
        now = seen.now
        closes = pd.Timestamp(now)
        if closes in days and closes - BAR >= pd.Timestamp(traded.seen[0].now):
            bars = bars_of(names, days[closes])
            closed |= {n: Decimal(repr(float(c))) for n, c in zip(names, bars["close"], strict=True)
                       if math.isfinite(c)}  # fmt: skip
            nav = seen.cash + sum(s * closed[n] for n, s in seen.shares.items())
            prior = nav if prior is None else prior
            request = request_at(names, closes, bars, seen, nav, prior)
            found.requests.append(request)
            if now < ends:
                content = pure.decide(request)
                found.decisions.append(to_json(content))
                expires = min(now + LIFE, (closes + BAR).to_pydatetime(), ends)
                targets = {
                    r["symbol"]: Target(content["id"], r["symbol"], round(r["target_shares"]), now,
                                        expires, None, True, Style.ADAPTIVE)
                    for r in content["symbols"]
                }  # fmt: skip
            else:
                content = pure.decide(request)  # the market has closed: nothing of it binds
                found.decisions.append(to_json(content))
        made = []
        for symbol in sorted(targets):
            target = targets[symbol]
            if now >= target.expires_at:
                del targets[symbol]
                continue
            if symbol in seen.busy:
                continue
            leg = next_leg(seen.shares.get(symbol, 0), target)
            if leg is None or (leg.purpose.adds and now >= ends - QUIET):
                del targets[symbol]
                continue
            bid, ask = quoted(seen.last[symbol])
            price = Price(Quote(symbol, now, bid, ask, None, 1, 1), closed[symbol], math.nan,
                          math.nan)  # fmt: skip
            intent = intent_for(ACCOUNT, target, leg, price, instrument, collar, costs)
            if isinstance(intent, str):
                continue
            if intent.id in tried:
                del targets[symbol]
                continue
            made.append(intent)
        made.sort(key=lambda intent: (intent.purpose.adds, intent.symbol))
        tried.update(intent.id for intent in made)
        found.intents += made
    return found


# the whole


def lines_of(traded: Traded) -> tuple[list[bytes], list[bytes]]:
    """Decisions and intents as they are compared."""
    return traded.decisions, [to_json(record_of(intent)) for intent in traded.intents]


def digest(parts: Sequence[bytes]) -> str:
    """SHA-256 over lines."""
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def inputs_differ(one: Sequence[Request], other: Sequence[Request]) -> list[str]:
    """What the snapshots of both sides do not agree on, field by field; the first few."""
    found = []
    for a, b in zip(one, other, strict=False):
        for each in fields(Request):
            left, right = getattr(a, each.name), getattr(b, each.name)
            pairs = [(each.name, left, right)]
            if each.name == "bars":
                pairs = [(f"bars {n}", left[n], right.get(n)) for n in left]
            for name, x, y in pairs:
                same = np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y
                if not same:
                    found.append(f"{a.time}: {name}: {x} and {y}")
    return found[:5]


def first_difference(one: Sequence[bytes], other: Sequence[bytes]) -> str:
    """Where two lists of lines part."""
    for k, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            at = next(i for i in range(min(len(a), len(b)) + 1) if a[i : i + 1] != b[i : i + 1])
            lo = max(at - 160, 0)
            return f"line {k}:\n  {a[lo : at + 80]!r}\n  {b[lo : at + 80]!r}"
    return f"{len(one)} and {len(other)} lines"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = os.environ.get("DPA_MARKET_DATA", str(ROOT.parent / "shared" / "data"))
    default = Path(folder) / "us_5min_bars.parquet"
    parser.add_argument("--data", type=Path, default=default, help="us_5min_bars.parquet")
    parser.add_argument("--day", default="2025-11-20", help="session that is traded")
    parser.add_argument("--names", type=int, default=len(NAMES))
    given = parser.parse_args()
    if not given.data.exists():
        print(f"skipped: {given.data} is not there; give --data or DPA_MARKET_DATA")
        return 0
    began, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="dpa-parity-") as name:
        scratch = Path(name)
        ground = prepare(given, scratch)
        prepared = time.perf_counter() - began
        (scratch / "trader").mkdir()
        over = asyncio.run(trade(ground, scratch / "trader"))
        traded = time.perf_counter() - began - prepared
        pure = again(ground, over, scratch / "pure")
    print(f"## {given.day} over the wire and by the pure functions\n\n"
          f"{len(ground.names)} names: {', '.join(ground.names)}; {machine()}\n")  # fmt: skip
    print("| | over the wire | pure |\n|---|---|---|")
    differ = [*over.problems, *inputs_differ(over.requests, pure.requests)]
    for words, one, other in zip(("decisions", "intents"), lines_of(over), lines_of(pure),
                                 strict=True):  # fmt: skip
        print(f"| {words} | {len(one)} | {len(other)} |")
        print(f"| SHA-256 of the {words} | `{digest(one)}` | `{digest(other)}` |")
        if one != other:
            differ.append(f"{words}: {first_difference(one, other)}")
        elif not one:
            differ.append(f"no {words}: nothing was compared")
    print(f"\n{over.fills} fills, {len(over.seen)} moments; bundle {prepared:.0f} s, day over the "
          f"wire {traded:.0f} s, all {time.perf_counter() - began:.0f} s, CPU "
          f"{time.process_time() - used:.0f} s; {machine()}")  # fmt: skip
    for problem in differ:
        print(f"DIFFERS: {problem}")
    if not differ:
        print("the same, byte for byte; the books of gateway and journal agree to the cent")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
