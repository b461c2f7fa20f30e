"""Does the learning loop close? Planted streams of forecasts, through the code that decides.

    python tests/benchmarks/bench_learning_loop.py

First table: four families forecast 40 names at two horizons. One is right (its forecasts and what
comes of them correlate 0.1), the others say noise; half way the right one turns wrong (-0.1).
Second and third: the online learners alone on the profits of four arms, beside equal weights and
the bounds that theory gives for their regret.
"""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import argparse  # noqa: E402
import math  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from dpa.config import OnlineConfig, Settings  # noqa: E402
from dpa.decision.blending import blend  # noqa: E402
from dpa.decision.learning import LearningState, learn  # noqa: E402
from dpa.decision.online import (  # noqa: E402
    adahedge_weights,
    exp3_weights,
    loss_estimate,
    mixability_gap,
)
from dpa.decision.types import Blend, Forecasts, Market, Snapshot  # noqa: E402
from dpa.market.interval_specs import Horizon  # noqa: E402

BARS_PER_SESSION = 78
HORIZONS = (Horizon(5, 1, "5m"), Horizon(30, 6, "30m"))
FAMILIES = ("right", "noise 1", "noise 2", "noise 3")
N_NAMES = 40
SKILL = 0.1
SIGMA = 10.0  # bps per sqrt(session minute)
START = pd.Timestamp("2024-07-01 14:30", tz="UTC")
ADAHEDGE = Settings()
EXP3 = Settings(online=OnlineConfig(online_mode="exp3ix"))
EQUAL = 1.0 / len(FAMILIES)

STEPS = 2000
MEANS = np.array([3.0, 0.0, -1.0, -2.0])  # bps a step; equal weights earn nothing
NOISES = (5.0, 20.0, 50.0)  # bps
SCALE = 100.0  # bps of profit at which a loss is 0 or 1
DELTA = 0.05  # of the bound of Exp3-IX


def planted_stream(seed: int, n_bars: int) -> list[Snapshot]:
    """Forecasts of known skill, positive in the first half and negative in the second."""
    rng = np.random.default_rng([seed, 11])
    longest = max(h.bars for h in HORIZONS)
    noise = rng.standard_normal((n_bars + longest, N_NAMES)).cumsum(axis=0)
    log_price = SIGMA * 1e-4 * math.sqrt(5.0) * noise
    price = 50.0 * np.exp(log_price)
    returns = rng.standard_normal((n_bars, len(HORIZONS), len(FAMILIES), N_NAMES))
    for place, horizon in enumerate(HORIZONS):
        ahead = noise[horizon.bars :][:n_bars] - noise[:n_bars]
        skill = np.where(np.arange(n_bars) < n_bars // 2, SKILL, -SKILL)[:, None]
        blurred = math.sqrt(1.0 - SKILL**2) * returns[:, place, 0]
        returns[:, place, 0] = skill * ahead / math.sqrt(horizon.bars) + blurred
    return [_snapshot(bar, price[bar], SKILL * returns[bar]) for bar in range(n_bars)]


def _snapshot(bar: int, price: np.ndarray, returns: np.ndarray) -> Snapshot:
    time = START + pd.Timedelta(minutes=5 * bar)
    every = np.ones(N_NAMES)
    market = Market(
        time=time,
        moment=time,
        bar=bar,
        session=bar // BARS_PER_SESSION,
        names=tuple(f"S{k:02d}" for k in range(N_NAMES)),
        member=every > 0,
        price=price,
        bid=price * (1 - 1e-4),
        ask=price * (1 + 1e-4),
        quote_age_ms=50 * every,
        adv_usd=1e9 * every,
        shares=0 * every,
        lot=every,
        nav_usd=1e6,
        prior_nav_usd=1e6,
    )
    said = Forecasts(
        bundle="planted",
        horizons=HORIZONS,
        families=FAMILIES,
        models=FAMILIES,
        returns=returns,
        sigma=SIGMA * every,
        barriers=None,
        target="excess",
        reasons=("",) * N_NAMES,
    )
    return Snapshot(market, said)


@dataclass(frozen=True)
class Followed:
    """What was believed of the planted family; arrays of shape (n_bars, n_horizons).

    Parameters
    ----------
    ic : float64 ndarray
        NaN before any label has matured.
    parity, adahedge, exp3 : float64 ndarrays
        Weights after risk parity, and of the two learners alone.
    weight : float64 ndarray
        In the blend, with AdaHedge's mixed in.
    weight_exp3 : float64 ndarray
        The same with Exp3-IX's.
    share : float64 ndarray
        Of all ``|weight score confidence|``, summed over names; 0 while nothing is believed.
    """

    ic: np.ndarray
    parity: np.ndarray
    adahedge: np.ndarray
    exp3: np.ndarray
    weight: np.ndarray
    weight_exp3: np.ndarray
    share: np.ndarray


def follow(seed: int, n_bars: int) -> Followed:
    """One stream through `learn` and `blend`; both learners learn from the same plays."""
    rows = []
    state: LearningState | None = None
    for snapshot in planted_stream(seed, n_bars):
        if state is None:
            said = snapshot.forecasts
            state = LearningState.start(snapshot.market.names, HORIZONS, FAMILIES, said.models)
        state, beliefs = learn(state, snapshot, EXP3)
        hedged = state.online.weights(ADAHEDGE.online)
        blended = blend(snapshot, replace(beliefs, online=hedged), ADAHEDGE)
        bandit = blend(snapshot, beliefs, EXP3)
        rows.append(
            (
                beliefs.ic[:, 0],
                blended.parity[:, 0],
                hedged[:, 0],
                beliefs.online[:, 0],
                blended.weights[:, 0],
                bandit.weights[:, 0],
                _share(blended, beliefs.scores),
            )
        )
    return Followed(*(np.array(column) for column in zip(*rows, strict=True)))


def _share(blended: Blend, scores: np.ndarray) -> np.ndarray:
    parts = np.abs(blended.weights[:, :, None] * np.nan_to_num(scores) * blended.confidence)
    total = parts.sum(axis=(1, 2))
    return np.divide(parts[:, 0].sum(axis=1), total, out=np.zeros_like(total), where=total > 0)


def first_bar(holds: np.ndarray) -> float:
    """Position of the first true; infinite where there is none."""
    return float(np.argmax(holds)) if holds.any() else math.inf


def show_loop(n_seeds: int, sessions: int) -> None:
    """Table one."""
    n_bars = 2 * sessions * BARS_PER_SESSION
    half = n_bars // 2
    runs = [follow(seed, n_bars) for seed in range(n_seeds)]
    print(f"{n_seeds} seeds, {sessions} sessions right and {sessions} wrong, {N_NAMES} names")
    for place, horizon in enumerate(HORIZONS):
        print(
            f"\n{horizon.label}: a label takes {horizon.bars} bars; medians (90 % of seeds within)"
        )
        known = [first_bar(np.isfinite(run.ic[:, place])) for run in runs]
        _line("bars to the first IC", known)
        for name in ("ic", "parity", "adahedge", "exp3", "weight", "weight_exp3", "share"):
            series = np.array([getattr(run, name)[:, place] for run in runs])
            level = 0.0 if name == "ic" else EQUAL
            rises = [first_bar(one[:half] > level) for one in series]
            falls = [first_bar(one[half:] < level) for one in series]
            _line(f"bars until {name} > {level:g}", rises)
            before, after = np.median(series[:, half - 1]), np.median(series[:, -1])
            print(f"    {name} at the end of right {before:.3f}, of wrong {after:.3f}")
            _line(f"bars after the turn until {name} < {level:g}", falls)


def _line(what: str, values: list[float]) -> None:
    print(
        f"  {what:<48} {np.median(values):7.0f}  ({np.quantile(values, 0.9, method='higher'):.0f})"
    )


@dataclass(frozen=True)
class Outcome:
    """What a learner made of streams of profits, one a seed.

    Parameters
    ----------
    profit : float64 ndarray of shape (n_seeds, n_steps)
        bps a step, expected over the arm played.
    regret : float64 ndarray of shape (n_seeds,)
        Cumulative loss less that of the best arm.
    bound : float64 ndarray of shape (n_seeds,)
        What theory allows; NaN where it says nothing.
    """

    profit: np.ndarray
    regret: np.ndarray
    bound: np.ndarray


def to_losses(profits: np.ndarray) -> np.ndarray:
    """As in dpa.decision.online, in [0, 1]."""
    return 0.5 - 0.5 * np.clip(profits / SCALE, -1.0, 1.0)


def adahedge(profits: np.ndarray, delay: int = 0, fade: float = 1.0) -> Outcome:
    """AdaHedge; losses come `delay` steps late and fade by `fade` after every session.

    The bound is Theorem 8 of de Rooij et al. (2014) with S = 1, for losses that are not late and
    never forgotten.
    """
    losses = to_losses(profits)
    seeds, steps, arms = losses.shape
    total, gap, played = np.zeros((seeds, arms)), np.zeros(seeds), np.empty(losses.shape)
    for step in range(steps):
        played[:, step] = adahedge_weights(total, gap)
        if step >= delay:
            gap = gap + mixability_gap(total, gap, losses[:, step - delay])
            total = total + losses[:, step - delay]
        if fade < 1.0 and step % BARS_PER_SESSION == BARS_PER_SESSION - 1:
            total, gap = total * fade, gap * fade
    best = losses.sum(axis=1).min(axis=1)
    least, most = losses.min(axis=2).sum(axis=1), losses.max(axis=2).sum(axis=1)
    spread = (best - least) * (most - best) / (most - least)
    bound = 2 * np.sqrt(spread * math.log(arms)) + 16 / 3 * math.log(arms) + 2
    if delay or fade < 1.0:
        bound = np.full(seeds, math.nan)
    return Outcome((played * profits).sum(axis=2), (played * losses).sum(axis=(1, 2)) - best, bound)


def exp3ix(profits: np.ndarray, rate: float, exploration: float, delay: int = 0) -> Outcome:
    """Exp3-IX; the bound is Neu's (2015), which holds with probability 95 %.

    From the proof of Theorem 1, for any eta <= 2 gamma: ``ln K / eta + ln(2 K / delta) / (2 gamma)
    + (eta / 2 + gamma) sum of all losses + ln(2 / delta)``.
    """
    losses = to_losses(profits)
    seeds, steps, arms = losses.shape
    chance = np.random.default_rng(12).random((steps, seeds, 1))
    every, estimates = np.arange(seeds), np.zeros((seeds, arms))
    chances, played = np.empty(losses.shape), np.empty((seeds, steps), int)
    for step in range(steps):
        chances[:, step] = exp3_weights(estimates, rate)
        below = np.cumsum(chances[:, step], axis=1) <= chance[step]
        played[:, step] = np.minimum(below.sum(axis=1), arms - 1)
        if step >= delay:
            past, arm = step - delay, played[:, step - delay]
            estimates[every, arm] += loss_estimate(
                losses[every, past, arm], chances[every, past, arm], exploration
            )
    suffered = np.take_along_axis(losses, played[:, :, None], axis=2).sum(axis=(1, 2))
    bound = (
        math.log(arms) / rate
        + math.log(2 * arms / DELTA) / (2 * exploration)
        + (rate / 2 + exploration) * losses.sum(axis=(1, 2))
        + math.log(2 / DELTA)
    )
    if delay:
        bound = np.full(seeds, math.nan)
    best = losses.sum(axis=1).min(axis=1)
    return Outcome((chances * profits).sum(axis=2), suffered - best, bound)


def tuned(profits: np.ndarray) -> float:
    """eta = 2 gamma of Theorem 1 of Neu (2015)."""
    _, steps, arms = profits.shape
    return math.sqrt(2 * math.log(arms) / (arms * steps))


def equal_weights(profits: np.ndarray) -> Outcome:
    """Each arm alike, always."""
    total = to_losses(profits).sum(axis=1)
    regret = total.mean(axis=1) - total.min(axis=1)
    return Outcome(profits.mean(axis=2), regret, np.full(len(profits), math.nan))


def profit_streams(n_seeds: int, noise: float) -> np.ndarray:
    """bps of four arms at each step, shape (n_seeds, n_steps, n_arms)."""
    rngs = [np.random.default_rng([seed, 13]) for seed in range(n_seeds)]
    return MEANS + noise * np.stack([rng.standard_normal((STEPS, len(MEANS))) for rng in rngs])


LEARNERS: dict[str, Callable[[np.ndarray], Outcome]] = {
    "AdaHedge": adahedge,
    "AdaHedge, 78 steps late": lambda profits: adahedge(profits, delay=78),
    "Exp3-IX, eta 0.07, gamma 0.05": lambda profits: exp3ix(profits, 0.07, 0.05),
    "Exp3-IX, the same, 78 steps late": lambda profits: exp3ix(profits, 0.07, 0.05, delay=78),
    "Exp3-IX, tuned for T": lambda profits: exp3ix(profits, tuned(profits), tuned(profits) / 2),
    "equal weights": equal_weights,
}


def show_profit(n_seeds: int) -> None:
    """Table two."""
    print(
        f"\n{n_seeds} seeds, {STEPS} steps, arms earn {MEANS.tolist()} bps a step, loss scale "
        f"{SCALE:g} bps, nothing forgotten; profit is bps a step (s.e.), regret units of loss; the "
        "best arm alone earns 3"
    )
    for noise in NOISES:
        title = f"noise {noise:g} bps"
        print(f"\n  {title:<34} profit          mean regret  largest  mean bound  beyond it")
        streams = profit_streams(n_seeds, noise)
        for name, learner in LEARNERS.items():
            found = learner(streams)
            profit = found.profit.mean(axis=1)
            error = profit.std(ddof=1) / math.sqrt(n_seeds)
            beyond = int((found.regret > found.bound).sum())
            print(
                f"  {name:<34} {profit.mean():5.2f} ({error:.2f})  {found.regret.mean():12.1f} "
                f"{found.regret.max():8.1f} {found.bound.mean():11.1f} {beyond:8d}"
            )


def show_turn(n_seeds: int, noise: float = 20.0) -> None:
    """Table three."""
    print(
        f"\nThe best arm turns half way, from 3 to -3 bps; noise {noise:g} bps; profit, bps a "
        "step, before and after the turn"
    )
    streams = profit_streams(n_seeds, noise)
    streams[:, STEPS // 2 :, 0] -= 2 * MEANS[0]
    found = {"AdaHedge, never forgets": adahedge(streams)}
    for half_life in (20.0, 5.0, 1.0):
        name = f"AdaHedge, half-life {half_life:g} sessions"
        found[name] = adahedge(streams, fade=0.5 ** (1.0 / half_life))
    found["Exp3-IX, never forgets"] = exp3ix(streams, 0.07, 0.05)
    found["equal weights"] = equal_weights(streams)
    for name, outcome in found.items():
        before = outcome.profit[:, : STEPS // 2].mean()
        after = outcome.profit[:, STEPS // 2 :].mean()
        print(f"  {name:<34} {before:6.2f} {after:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=6, help="before the turn, and after")
    options = parser.parse_args()
    started = time.perf_counter()
    show_loop(options.seeds, options.sessions)
    show_profit(options.seeds)
    show_turn(options.seeds)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
