"""The stage that knows the bars: it turns a request into rows to forecast from.

It owns what is on record of the market, in one file, and the bundles loaded here. Taking the same
bar again changes nothing and gives the same rows.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dpa.clock import Clock
from dpa.config import Settings
from dpa.decision.types import Doubles, Forecasts, Market, Snapshot
from dpa.errors import DataError, DpaError, RunError
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.clock import BarGrid, bar_grid
from dpa.horizons.inference import (
    BundleForecast,
    Combiner,
    FeatureRows,
    LivePredictor,
    predict_batch,
    start,
)
from dpa.horizons.kept_bundles import pinned
from dpa.horizons.promotion import find_bundle
from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.interval_specs import Horizon
from dpa.market.panel import EXTRAS, Panel
from dpa.market.session_grid import on_session_grid, session_numbers
from dpa.runs import write_atomically
from dpa.serving.store import RowStore, pack, unpack
from dpa.serving.types import Request, RequestError
from dpa.stores.store import is_uri

ACTIVE, ANCHOR = "active-bundle", "anchor"
ADV_SESSIONS = 20  # whole sessions behind the average daily traded value
FUTURE_SECONDS = 2.0  # that the client's clock may be ahead
log = logging.getLogger("dpa.serving")
KEEP = 2  # times the bars that the bundle in use needs


def read_active(storage: Path) -> Path | None:
    """Folder of the bundle that was in use last; none before there was one."""
    try:
        text = (storage / "serving" / ACTIVE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    if not is_uri(text):
        return Path(text) if text else None
    try:
        return find_bundle(text, storage)
    except DpaError as e:  # as if it were gone
        log.warning("the bundle in use before: %s", e)
        return None


@dataclass(frozen=True, eq=False)
class Model:
    """What is fixed about a bundle's forecasts.

    Parameters
    ----------
    fingerprint, folder : str
        What names it on every node.
    horizons : tuple of Horizon
    models : tuple of str
        Fingerprint of each family's model.
    target : {"excess", "return"}
    lag : int
        Execution lag of its labels, bars.
    barriers : bool
        Whether it forecasts barriers.
    combiner : Combiner
    """

    fingerprint: str
    folder: str
    horizons: tuple[Horizon, ...]
    models: tuple[str, ...]
    target: Literal["excess", "return"]
    lag: int
    barriers: bool
    combiner: Combiner

    @classmethod
    def of(cls, bundle: HorizonBundle) -> "Model":
        """That of a bundle."""
        manifest = bundle.manifest
        return cls(
            manifest.fingerprint,
            pinned(bundle.folder),
            bundle.recipe.horizons,
            tuple(manifest.families.values()),
            manifest.settings.horizons.target,
            manifest.settings.walk_forward.execution_lag,
            bool(bundle.calibrators),
            Combiner.of(bundle),
        )

    def forecasts(self, said: BundleForecast, left_out: Mapping[str, str]) -> Forecasts:
        """What the bundle said, as a decision reads it."""
        return Forecasts(
            self.fingerprint,
            self.horizons,
            said.families,
            self.models,
            said.returns,
            said.sigma,
            said.barriers if self.barriers else None,
            self.target,
            self.lag,
            left_out,
            said.reasons,
        )


@dataclass(frozen=True, eq=False)
class Taken:
    """A request's bar, taken in.

    Parameters
    ----------
    market : Market
        In the order of the names on record.
    model : Model
        Of the bundle in use.
    rows : FeatureRows
    """

    market: Market
    model: Model
    rows: FeatureRows


@dataclass(frozen=True, eq=False)
class Candidate:
    """A bundle ready to be used.

    Parameters
    ----------
    model : Model
    families : tuple of str
    """

    model: Model
    families: tuple[str, ...]


@dataclass
class _Served:
    bundle: HorizonBundle
    model: Model
    live: LivePredictor
    since: pd.Timestamp
    wanted: int  # bars on record to begin with
    traded: frozenset[str]  # names with a price in the tail: a bar must say something of each
    rows: FeatureRows = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.live.rows()


class MarketStage:
    """Bars on record, and the rows to forecast from after the newest.

    Parameters
    ----------
    settings : Settings
    storage : Path
        Storage of runs; the record is kept in ``<storage>/serving/bars.sqlite``.
    reference : str
        Bundle to begin with when none was in use before: a folder, a run, or ``promoted``.
    plugins : sequence of str
    clock : Clock
    load_history : callable, optional
        Gives the last bars, so many as it is asked for, when there are none on record; or none.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Path,
        reference: str,
        plugins: tuple[str, ...],
        clock: Clock,
        load_history: Callable[[HorizonBundle, int], Panel | None] | None = None,
    ) -> None:
        self._settings, self._storage, self._plugins = settings, storage, plugins
        self._clock = clock
        self._store = RowStore(storage / "serving" / "bars.sqlite", durable=False)
        self._lock = threading.RLock()
        self._candidates: dict[str, tuple[HorizonBundle, Model]] = {}
        self._served: _Served | None = None
        self._grid: BarGrid | None = None
        self._adv: tuple[int, Doubles] | None = None
        bundle = self._bundle = self._first_bundle(reference)
        if self._store.newest() is None and load_history is not None:
            history = load_history(bundle, self._wanted(bundle))
            if history is not None:
                self._record(history)
        if self._store.newest() is not None:
            self._serve(bundle)

    def _first_bundle(self, reference: str) -> HorizonBundle:
        """The one in use before, where it is still whole; else the one asked for."""
        before = read_active(self._storage)
        if before is not None:
            with contextlib.suppress(RunError):
                return HorizonBundle.load(before, self._plugins)
        return HorizonBundle.load(find_bundle(reference, self._storage), self._plugins)

    def _wanted(self, bundle: HorizonBundle) -> int:
        """Bars to begin with: the tail, and what a record is made from."""
        day = bundle.recipe.spec.bars_per_session
        return bundle.manifest.tail_bars + self._settings.serving.warm_sessions * day

    def _serve(self, bundle: HorizonBundle) -> None:
        tail = self._panel(bundle, self._store.last(bundle.manifest.tail_bars))
        live = start(bundle, tail)
        self._bundle = bundle
        priced = np.flatnonzero(np.isfinite(tail.prices).any(axis=0))
        traded = frozenset(tail.names[k] for k in priced)
        now = pd.Timestamp(self._clock.now())
        wanted = self._wanted(bundle)
        self._served = _Served(bundle, Model.of(bundle), live, now, wanted, traded)
        write_atomically(self._storage / "serving" / ACTIVE, f"{pinned(bundle.folder)}\n")
        self._adv = None

    # bars on record

    def _record(self, panel: Panel) -> None:
        """Put every bar of a panel on record."""
        whole = on_session_grid(panel)
        arrays = {"close": whole.prices, **whole.extras()}
        ticks = nanoseconds(whole.times)
        self._keep_anchor(whole.times[0])
        with self._store.transaction():
            for row, tick in enumerate(ticks):
                values = {name: np.ascontiguousarray(array[row]) for name, array in arrays.items()}
                values["member"] = whole.mask[row].astype(np.uint8)
                self._store.append(int(tick), pack(values, {"names": list(whole.names)}))

    def _keep_anchor(self, first: pd.Timestamp) -> None:
        """Numbers of bars and sessions are counted from the decade before the first bar ever on
        record; accounts and what was learned know them, so they never change."""
        path = self._storage / "serving" / ANCHOR
        if not path.exists():
            write_atomically(path, f"{first.isoformat()}\n")
        anchor = self._anchor()
        manifest = self._bundle.manifest
        begins = bar_grid(manifest.calendar, manifest.interval, anchor, anchor).time(0)
        if first < begins:
            raise RequestError(
                422,
                "invalid",
                f"the history begins at {first}, numbers of bars at {begins}",
                f"leave the earlier bars out, or begin with other storage than {self._storage}",
            )

    def _anchor(self) -> pd.Timestamp:
        path = self._storage / "serving" / ANCHOR
        try:
            return pd.Timestamp(path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError) as e:
            raise RunError(
                f"{path}: cannot be read", "put it back, or move the folder away to start anew"
            ) from e

    def _grid_until(self, time: pd.Timestamp) -> BarGrid:
        grid = self._grid
        if grid is None or time > grid.time(len(grid.closes) - 1):
            manifest = self._bundle.manifest
            grid = bar_grid(manifest.calendar, manifest.interval, self._anchor(), time)
            self._grid = grid
        return grid

    def _panel(self, bundle: HorizonBundle, rows: list[tuple[int, bytes]]) -> Panel:
        """Rows of the record as a panel."""
        read = [unpack(payload) for _, payload in rows]
        known: dict[str, None] = dict.fromkeys(bundle.manifest.names)
        for names in {tuple(facts["names"]) for _, facts in read}:
            known.update(dict.fromkeys(sorted(names)))
        names = tuple(known)
        place = {name: number for number, name in enumerate(names)}
        shape = (len(read), len(names))
        extras = {
            name: np.full(shape, np.nan)
            for name in EXTRAS
            if any(name in arrays for arrays, _ in read)
        }
        prices, mask = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
        order: dict[tuple[str, ...], Any] = {}
        for row, (arrays, facts) in enumerate(read):
            sent = tuple(facts["names"])
            if sent not in order:
                order[sent] = np.array([place[name] for name in sent], dtype=np.int64)
            columns = order[sent]
            prices[row, columns] = arrays["close"]
            mask[row, columns] = arrays["member"].astype(bool)
            for name, array in extras.items():
                if name in arrays:
                    array[row, columns] = arrays[name]
        times = utc_index(np.array([tick for tick, _ in rows], dtype=np.int64))
        mask &= np.isfinite(prices)
        manifest = bundle.manifest
        panel = Panel(times, names, prices, mask, manifest.interval, manifest.calendar, **extras)
        return on_session_grid(panel)

    def replace_history(self, panel: Panel) -> dict[str, Any]:
        """Forget the record and begin anew from a panel.

        Raises
        ------
        RequestError
            When it is no history for the bundle in use; the record stays.
        """
        with self._lock:
            bundle = self._bundle
            try:
                start(bundle, panel)
            except DpaError as e:
                raise RequestError(422, "invalid", e.what, e.cure) from e
            wanted = self._wanted(bundle)
            kept = panel.window(max(0, panel.n_bars - wanted), panel.n_bars)
            with self._store.transaction():  # all of it or nothing
                self._store.clear()
                self._record(kept)
                self._serve(bundle)
            first, last = (time.isoformat() for time in (kept.times[0], kept.times[-1]))
            return {"bars": kept.n_bars, "first": first, "last": last}

    # requests

    def take(self, request: Request) -> Taken:
        """Take a request's bar in and give what is to be forecast from.

        Raises
        ------
        RequestError
            When there is no history yet; when the bar is none of the venue's, older than the
            newest, or the newest with other prices; when a symbol is not on record.
        """
        with self._lock:
            served = self._served
            if served is None:
                raise RequestError(
                    503,
                    "not_ready",
                    "no bars are on record",
                    "send them with POST /v1/history, or start with --data",
                )
            self._check_time(request)
            self._check_symbols(served, request)
            if request.time == served.live.time:
                self._check_same(request)
            else:
                self._advance(served, request)
            return Taken(self._market(served, request), served.model, served.rows)

    def _check_time(self, request: Request) -> None:
        latest = pd.Timestamp(self._clock.now()) + pd.Timedelta(FUTURE_SECONDS, "s")
        if request.time > latest:
            raise RequestError(
                422,
                "invalid",
                f"the bar of {request.time} has not closed yet",
                "send the close of the bar as its time, and set the clocks of both machines",
                "time",
            )

    def _check_symbols(self, served: _Served, request: Request) -> None:
        known = set(served.live.names)
        strange = [k for k, name in enumerate(request.names) if name not in known]
        if strange:
            raise RequestError(
                422,
                "invalid",
                f"symbol {request.names[strange[0]]!r} is not on record",
                "leave it out, or send a history that has it with POST /v1/history",
                f"symbols[{strange[0]}].symbol",
            )

    def _check_same(self, request: Request) -> None:
        """The newest bar again: what is sent of it must be what is on record."""
        if not request.bars:
            return
        arrays, facts = unpack(self._store.last(1)[0][1])
        place = {name: number for number, name in enumerate(facts["names"])}
        columns = [place.get(name, -1) for name in request.names]
        for field_name, values in request.bars.items():
            if field_name not in arrays:
                continue
            was = np.append(arrays[field_name], np.nan)[columns]
            other = np.flatnonzero((values != was) & ~(np.isnan(values) & np.isnan(was)))
            if len(other):
                k = int(other[0])
                raise RequestError(
                    409,
                    "conflict",
                    f"{request.names[k]}: {field_name} {values[k]:g} differs from {was[k]:g}, "
                    f"which the bar of {request.time} is on record with",
                    "send the bar as it was, or without prices",
                    f"symbols[{k}].{field_name}",
                )

    def _advance(self, served: _Served, request: Request) -> None:
        live = served.live
        if request.time < live.time:
            raise RequestError(
                409,
                "stale",
                f"the bar of {request.time} is older than the newest, {live.time}",
                "send later bars",
                "time",
            )
        if not request.bars:
            raise RequestError(
                409,
                "conflict",
                f"the bar of {request.time} is not on record yet",
                "send its prices",
                "symbols[0].close",
            )
        silent = sorted(served.traded - set(request.names))
        if silent:
            raise RequestError(
                409,
                "conflict",
                f"the bar of {request.time} is new, and nothing is said of {silent[0]!r} "
                f"({len(silent)} such)",
                "the first request of a bar has every symbol on record: close null where one did "
                "not trade",
                "symbols",
            )
        needs = [name for name in served.bundle.recipe.extras if name not in request.bars]
        derived = "dollar_volume" in needs and "volume" in request.bars
        if derived:
            needs.remove("dollar_volume")
        if needs:
            raise RequestError(
                422,
                "invalid",
                f"no symbol has {needs[0]}, which the bundle's features need",
                "send it with every bar",
                f"symbols[0].{needs[0]}",
            )
        bars = dict(request.bars)
        if derived:
            bars["dollar_volume"] = bars["close"] * bars["volume"]
        sent = set(served.live.given)
        chosen = [k for k, name in enumerate(request.names) if name in sent]
        names = tuple(request.names[k] for k in chosen)
        rows = {name: values[chosen] for name, values in bars.items()}
        manifest = served.bundle.manifest
        member = request.member[chosen] & np.isfinite(rows["close"])
        try:
            self._numbers(request.time)  # is a bar of the venue
            panel = Panel(
                pd.DatetimeIndex([request.time]),
                names,
                rows["close"][None],
                member[None],
                manifest.interval,
                manifest.calendar,
                **{name: rows[name][None] for name in EXTRAS if name in rows},
            )
            live.check(panel)
        except DataError as e:
            raise RequestError(422, "invalid", e.what, e.cure, "time") from e
        kept = {name: values for name, values in rows.items() if name in ("close", *EXTRAS)}
        kept["member"] = member.astype(np.uint8)
        self._store.append(int(request.time.value), pack(kept, {"names": list(names)}))
        try:
            live.advance(panel)
            served.rows = live.rows()
        except BaseException:
            self._served = None  # half-way: begin again from the record
            self._serve(served.bundle)
            raise
        self._store.prune(KEEP * served.wanted)

    def _market(self, served: _Served, request: Request) -> Market:
        names = served.live.names
        place = {name: number for number, name in enumerate(names)}
        columns = np.array([place[name] for name in request.names], dtype=np.int64)

        def spread(values: Any, empty: float) -> Doubles:
            out = np.full(len(names), empty)
            out[columns] = values
            return out

        adv = spread(request.adv_usd, np.nan)
        if not np.isfinite(adv).all():
            adv = np.where(np.isfinite(adv), adv, self._average_traded(served))
        bar, session = self._numbers(request.time)
        now = request.moment if request.moment is not None else pd.Timestamp(self._clock.now())
        member = np.zeros(len(names), dtype=bool)
        member[columns] = request.member
        return Market(
            request.time,
            now,
            bar,
            session,
            names,
            member,
            np.asarray(served.live.newest.prices[0]),
            spread(request.bid, np.nan),
            spread(request.ask, np.nan),
            spread(request.quote_age_ms, np.nan),
            adv,
            spread(request.shares, 0.0),
            spread(request.lot, 1.0),
            request.nav_usd,
            request.prior_nav_usd,
            request.account,
            request.feed,
        )

    def _numbers(self, time: pd.Timestamp) -> tuple[int, int]:
        """Numbers of a bar and of its session, counted from before the record began."""
        grid = self._grid_until(time)
        bar = int(grid.positions(pd.DatetimeIndex([time]))[0])
        return bar, int(grid.session[bar])

    def _average_traded(self, served: _Served) -> Doubles:
        """Mean daily traded value of the last whole sessions on record, USD; NaN without one."""
        session = self._numbers(served.live.time)[1]
        if self._adv is None or self._adv[0] != session:
            self._adv = session, self._traded(served)
        return self._adv[1]

    def _traded(self, served: _Served) -> Doubles:
        day = served.bundle.recipe.spec.bars_per_session
        panel = self._panel(served.bundle, self._store.last((ADV_SESSIONS + 1) * day))
        out = np.full(len(served.live.names), np.nan)
        value = panel.dollar_volume
        if value is None and panel.volume is not None:
            value = panel.volume * panel.prices
        if value is None:
            return out
        session, _ = session_numbers(panel.times, panel.interval, panel.calendar)
        earlier = np.unique(session[session < session[-1]])
        whole = earlier[1:] if panel.n_bars > day else earlier  # the first may be cut
        sums = [np.nansum(value[session == number], axis=0) for number in whole[-ADV_SESSIONS:]]
        if sums:
            mean = np.mean(sums, axis=0)
            known = {name: k for k, name in enumerate(panel.names)}
            columns = [known[name] for name in served.live.names]
            out = np.where(mean[columns] > 0, mean[columns], np.nan)
        return out

    # bundles

    def load(self, reference: str) -> Candidate:
        """Verify and load another bundle.

        Raises
        ------
        RunError, DataError
            When it does not verify or does not suit the record; the bundle in use stays.
        """
        folder = find_bundle(reference, self._storage)
        bundle = HorizonBundle.load(folder, self._plugins)
        with self._lock:
            current = self._bundle.manifest
            rows = self._store.last(self._wanted(bundle))
        for what in ("interval", "calendar"):
            new, old = getattr(bundle.manifest, what), getattr(current, what)
            if new != old:
                raise RunError(
                    f"{folder}: its {what} is {new}, that of the bars on record {old}",
                    "deploy again with other storage",
                )
        model = Model.of(bundle)
        if rows:
            start(bundle, self._panel(bundle, rows))  # refuses a record too short for it
        self._candidates = {model.fingerprint: (bundle, model)}
        return Candidate(model, tuple(bundle.families))

    def past(self, fingerprint: str) -> tuple[Snapshot, ...]:
        """What a bundle, in use or loaded, says of the bars on record that it has not seen.

        Oldest first, with what the market was then: no quotes and no money.
        """
        with self._lock:
            bundle = self._bundle
            if bundle.manifest.fingerprint != fingerprint:
                bundle = self._candidates[fingerprint][0]
            rows = self._store.last(self._wanted(bundle))
        if not rows:
            return ()
        return self._past(bundle, Model.of(bundle), self._panel(bundle, rows))

    def _past(self, bundle: HorizonBundle, model: Model, panel: Panel) -> tuple[Snapshot, ...]:
        """Forecasts of the bars of a panel that no part of the bundle has seen."""
        if not self._settings.serving.warm_sessions:
            return ()
        seen = pd.Timestamp(bundle.manifest.trained_until)
        said = predict_batch(bundle, panel)
        first = max(
            int(panel.times.searchsorted(seen, side="right")), bundle.manifest.tail_bars - 1
        )
        grid = self._grid_until(panel.times[-1])
        bars = grid.positions(panel.times)
        place = {name: number for number, name in enumerate(panel.names)}
        columns = np.array([place.get(name, -1) for name in said.names])
        nothing = np.full(len(said.names), np.nan)
        flat, ones = np.zeros(len(said.names)), np.ones(len(said.names))
        snapshots = []
        for row in range(first, panel.n_bars):
            time = panel.times[row]
            priced = np.where(columns >= 0, panel.prices[row, columns], np.nan)
            member = np.where(columns >= 0, panel.mask[row, columns], False)
            market = Market(
                time,
                time,
                int(bars[row]),
                int(grid.session[bars[row]]),
                said.names,
                member,
                priced,
                nothing,
                nothing,
                nothing,
                nothing,
                flat,
                ones,
                float("nan"),
                float("nan"),
            )
            forecasts = Forecasts(
                model.fingerprint,
                model.horizons,
                tuple(bundle.families),
                model.models,
                said.returns[row],
                said.sigma[row],
                said.barriers[row] if model.barriers else None,
                model.target,
                model.lag,
            )
            snapshots.append(Snapshot(market, forecasts))
        return tuple(snapshots)

    def activate(self, fingerprint: str) -> str:
        """Use a bundle loaded before from the next request on; its fingerprint."""
        with self._lock:
            served = self._served
            if served is None or served.model.fingerprint != fingerprint:
                if fingerprint not in self._candidates:
                    raise RunError(f"bundle {fingerprint[:12]} is not loaded", "load it first")
                bundle = self._candidates[fingerprint][0]
                self._bundle = bundle
                if self._store.newest() is not None:
                    self._serve(bundle)
            self._candidates = {}
            return fingerprint

    def version(self) -> str:
        """Fingerprint of the bundle in use."""
        with self._lock:
            return self._bundle.manifest.fingerprint

    def describe(self) -> dict[str, Any]:
        """The bundle in use, for people and programs; see :meth:`dpa.serving.types.Desk.bundle`."""
        with self._lock:
            manifest, served = self._bundle.manifest, self._served
            return {
                "version": manifest.short,
                "fingerprint": manifest.fingerprint,
                "folder": pinned(self._bundle.folder),
                "horizons": list(manifest.horizons),
                "families": list(manifest.families),
                "interval": manifest.interval,
                "calendar": manifest.calendar,
                "names": list(manifest.names if served is None else served.live.names),
                "needs": list(self._bundle.recipe.extras),
                "trained_until": manifest.trained_until.isoformat(),
                "serving_since": None if served is None else served.since.isoformat(),
                "newest_bar": None if served is None else served.live.time.isoformat(),
            }
