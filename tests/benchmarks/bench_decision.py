"""What the pure decision pipeline costs a symbol, stage by stage, with learning switched on.

    python tests/benchmarks/bench_decision.py

Everything runs on one thread; times are of the processor. Forecasts come from a bundle of four
families over an invented market; ten sessions are learned from before anything is timed.
"""

from serving_runs import BEGUN, DAY, NAV_USD, Universe, add_options, as_settings  # noqa: I001
from serving_runs import describe, machine, make_universe, served_settings

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from bench_inference import TRAINED_SESSIONS

from dpa.config import Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.blending import blend
from dpa.decision.decision import State
from dpa.decision.gates import gate
from dpa.decision.learning import learn
from dpa.decision.pipeline import decide, decision_id, start_state
from dpa.decision.risk import assess, limit
from dpa.decision.sizing import size
from dpa.decision.types import Forecasts, Market, Snapshot
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.inference import BatchForecast, predict_batch
from dpa.serving.market_stage import Model
from dpa.serving.replay import NaiveAccount

TARGET_US = 20.0


def snapshots(universe: Universe, n_bars: int) -> Iterator[tuple[int, Callable[[Any], Snapshot]]]:
    """Rows of the market, and what makes the snapshot of a row from the account then."""
    bundle = HorizonBundle.load(universe.bundles[0])
    model = Model.of(bundle)
    first = TRAINED_SESSIONS * DAY
    low, high = first - bundle.manifest.tail_bars, BEGUN + n_bars
    said = predict_batch(bundle, universe.panel.window(low, high))
    assert said.names == universe.panel.names
    for row in range(first, high):
        yield (
            row,
            lambda account, row=row: Snapshot(
                market_of(universe, row, account), forecasts_of(said, model, row - low)
            ),
        )


def market_of(universe: Universe, row: int, account: NaiveAccount) -> Market:
    """What the account sees after a bar."""
    request = universe.bars.request(row, account)
    same = ("member", "bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot", "nav_usd",
            "prior_nav_usd", "account", "feed", "time", "moment", "names")  # fmt: skip
    return Market(
        bar=row,
        session=int(universe.bars.session[row]),
        price=np.ascontiguousarray(request.bars["close"]),
        **{name: getattr(request, name) for name in same},
    )


def forecasts_of(said: BatchForecast, model: Model, row: int) -> Forecasts:
    """What the bundle says after a bar."""
    returns, barriers, sigma = (
        np.ascontiguousarray(getattr(said, name)[row]) for name in ("returns", "barriers", "sigma")
    )
    return Forecasts(
        model.fingerprint,
        model.horizons,
        model.combiner.families,
        model.models,
        returns,
        sigma,
        barriers if model.barriers else None,
        model.target,
        model.lag,
    )


class Stages:
    """The stages of :func:`dpa.decision.pipeline.decide` one by one, with the time of each."""

    def __init__(self) -> None:
        self.spent: dict[str, list[int]] = {}

    def timed(self, name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        began = time.process_time_ns()
        out = stage(*arguments)
        self.spent.setdefault(name, []).append(time.process_time_ns() - began)
        return out

    def decide(self, snapshot: Snapshot, state: State, settings: Settings) -> str:
        """As ``decide``; the name of the decision."""
        market, said, timed = snapshot.market, snapshot.forecasts, self.timed
        _, beliefs = timed("learn", learn, state.learning, snapshot, settings)
        blended = timed("blend", blend, snapshot, beliefs, settings)
        about = market, said.horizons, said.sigma, blended.alpha
        chosen = timed("arbitrate", arbitrate, *about, blended.reason, settings)
        prior = beliefs.barrier_prior
        gates = timed("gate", gate, market, said.barriers, prior, blended.alpha, chosen, settings)
        sizes = timed("size", size, *about, chosen, gates, settings)
        assessed = timed("assess", assess, state.risk, market, settings)
        timed("limit", limit, market, chosen, gates, sizes, assessed, settings)
        digests = state.learning.digest, state.risk.digest
        return str(timed("name (SHA-256)", decision_id, snapshot, *digests, settings))


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Every array in nested dataclasses."""
    if isinstance(value, np.ndarray):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from arrays_in(getattr(value, part.name))
    elif isinstance(value, tuple):
        for each in value:
            yield from arrays_in(each)
    elif isinstance(value, Mapping):
        yield from arrays_in(tuple(value.values()))


def floor(decision: Any) -> tuple[float, float, int]:
    """Microseconds of one pass over the snapshot and the decision, and over the learned state
    too; bytes of all."""
    small = [a for part in ("snapshot", "beliefs", "blend", "arbitration", "gates", "sizes")
             for a in arrays_in(getattr(decision, part))]  # fmt: skip
    state = [*arrays_in(decision.state)]

    def once(found: list[np.ndarray]) -> float:
        out = [np.empty_like(a) for a in found]
        times = []
        for _ in range(50):
            began = time.process_time_ns()
            for source, target in zip(found, out, strict=True):
                np.copyto(target, source)
            times.append(time.process_time_ns() - began)
        return float(np.median(times)) / 1e3

    return once(small), once([*small, *state]), sum(a.nbytes for a in [*small, *state])


def cut(snapshot: Snapshot, n: int) -> Snapshot:
    """The first `n` symbols."""

    def first(part: Any) -> Any:
        return replace(part, **{f.name: getattr(part, f.name)[..., :n] for f in fields(part)
                                if isinstance(getattr(part, f.name), np.ndarray)})  # fmt: skip

    market = replace(first(snapshot.market), names=snapshot.market.names[:n])
    return Snapshot(market, first(snapshot.forecasts))


def symbol_by_symbol(found: list[Snapshot], settings: Settings, timed: int) -> float:
    """Microseconds of a decision on one symbol alone, median of the last `timed` bars."""
    state, spent = start_state(cut(found[0], 1)), []
    for snapshot in found:
        alone = cut(snapshot, 1)
        began = time.process_time_ns()
        state = decide(alone, state, settings).state  # type: ignore[assignment]
        spent.append(time.process_time_ns() - began)
    return float(np.median(spent[-timed:])) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--bars", type=int, default=300, help="timed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    universe = make_universe(given)
    settings = as_settings(served_settings(universe))
    n = universe.panel.n_assets
    account = NaiveAccount("default", n, NAV_USD, 1.0)
    stages, whole, kept, state, decision = Stages(), [], [], None, None
    actions = 0
    for row, snapshot_for in snapshots(universe, given.bars):
        account.close_bar(int(universe.bars.session[row]), universe.panel.prices[row])
        snapshot = snapshot_for(account)
        state = start_state(snapshot) if state is None else state
        began = time.process_time_ns()
        decision = decide(snapshot, state, settings)
        spent = time.process_time_ns() - began
        kept.append(snapshot)
        if row >= BEGUN:
            whole.append(spent)
            assert stages.decide(snapshot, state, settings) == decision.id
            actions += int((decision.sizes.shares != account.shares).sum())
        state = decision.state
        account.want(decision.sizes.shares)
    print(f"## The pure pipeline\n\n{describe(universe)}; {machine()}\n")
    print(
        f"{len(whole)} bars timed after {BEGUN // DAY - TRAINED_SESSIONS} sessions learned; "
        f"{actions / len(whole):.1f} trades a bar\n"
    )
    cpu = np.array(whole) / 1e3 / n
    print("| CPU, microseconds a symbol | median | p99 |\n|---|---|---|")
    print(
        f"| the whole decision | {np.median(cpu):.2f} (target {TARGET_US:g}) "
        f"| {np.percentile(cpu, 99):.2f} |"
    )
    for name, each in stages.spent.items():
        values = np.array(each) / 1e3 / n
        print(f"| {name} | {np.median(values):.2f} | {np.percentile(values, 99):.2f} |")
    touched, everything, n_bytes = floor(decision)
    print(f"| floor: one copy of the snapshot and the decision | {touched / n:.2f} | |")
    print(f"| floor: and of the learned state, {n_bytes / 1e6:.1f} MB | {everything / n:.2f} | |")
    print(f"| symbol by symbol | {symbol_by_symbol(kept, settings, given.bars):.0f} | |")


if __name__ == "__main__":
    main()
