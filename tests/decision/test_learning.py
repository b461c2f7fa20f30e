"""The whole of `learn` against a slow reading of its definition, and what a state must keep."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import stats

from dpa.config import OnlineConfig, Settings
from dpa.decision.learning import SCHEMA_VERSION, LearningState, from_arrays, learn, to_arrays
from dpa.decision.online import drawn_arm, losses
from dpa.decision.types import Beliefs, Forecasts, Market, Snapshot
from dpa.errors import DataError, RunError
from dpa.horizons.targets import scaled_targets
from dpa.market.interval_specs import Horizon
from tests.decision.conftest import make_forecasts, make_market

HORIZONS = (Horizon(5, 1, "5m"), Horizon(15, 3, "15m"), Horizon(30, 6, "30m"))
FAMILIES = ("cluster", "ridge", "gbdt")
BARS_A_SESSION = 5
SETTINGS = Settings.model_validate(
    {
        "standardise": {"score_sessions": 2, "score_samples": 3},
        "confidence": {"ic_half_life_sessions": 3.0, "ic_prior_samples": 50.0},
        "blend": {"covariance_half_life_sessions": 2.0},
        "online": {"online_half_life_sessions": 4.0},
        "horizons": {"target_clip": 2.0},
    }
)


def snapshot_of(
    bar: int,
    names: tuple[str, ...],
    price: np.ndarray,
    returns: np.ndarray,
    sigma: np.ndarray,
    member: np.ndarray,
    barriers: np.ndarray | None = None,
    lag: int = 1,
    target: str = "excess",
) -> Snapshot:
    market = replace(
        make_market(0, len(names), bar=bar, price=price),
        names=names,
        member=member,
        session=bar // BARS_A_SESSION,
    )
    said = replace(
        make_forecasts(0, len(names), bar=bar),
        horizons=HORIZONS,
        families=FAMILIES,
        models=("m1", "m2", "m3"),
        returns=returns,
        sigma=sigma,
        barriers=barriers,
        lag=lag,
        target=target,
    )
    return Snapshot(market, said)


def random_history(seed: int, n_bars: int = 45) -> list[Snapshot]:
    """Bars that never come, names that come and go, families that are silent, holes everywhere."""
    rng = np.random.default_rng([seed, 77])
    everyone = np.array([f"N{k:02d}" for k in range(12)])
    prices = 50 * np.exp(2e-3 * rng.standard_normal((n_bars, 12)).cumsum(axis=0))
    sigma = rng.uniform(5, 15, 12)
    there = np.ones(12, bool)
    made = []
    for bar in range(n_bars):
        if rng.random() < 0.3:
            place = rng.integers(12)
            there[place] = not there[place] or there.sum() <= 8
        if rng.random() < 0.1:
            continue
        where = rng.permutation(np.flatnonzero(there))
        returns = 0.2 * rng.standard_normal((3, 3, len(where)))
        returns[rng.random(returns.shape) < 0.05] = np.nan
        returns[0, 0, 0] = np.inf
        returns[:, rng.random(3) < 0.1] = np.nan
        price = np.where(rng.random(len(where)) < 0.05, np.nan, prices[bar, where])
        barriers = rng.random((2, len(where))) if rng.random() < 0.8 else None
        if barriers is not None:
            barriers[0, 0] = np.nan
        made.append(
            snapshot_of(
                bar,
                tuple(everyone[where].tolist()),
                price,
                returns,
                np.where(rng.random(len(where)) < 0.05, np.nan, sigma[where]),
                rng.random(len(where)) < 0.9,
                barriers,
                lag=1 + seed % 2,
                target=("excess", "return")[seed // 2 % 2],
            )
        )
    return made


@dataclass
class Contribution:
    session: int
    horizon: int
    family: int
    values: dict[str, Any]


class Slow:
    """Everything recomputed from the whole past at every bar, one number at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.past: list[Snapshot] = []
        self.scores: list[dict[tuple[int, int, str], float]] = []
        self.records: list[Contribution] = []
        self.rows: list[Contribution] = []
        self.losses: dict[int, list[float]] = {h: [0.0] * 3 for h in range(3)}
        self.gaps = dict.fromkeys(range(3), 0.0)
        self.bars = dict.fromkeys(range(3), 0)

    def alive(self, name: str, since: int) -> bool:
        return all(name in one.market.names for one in self.past[since:])

    def value(self, place: int, array: str, name: str, *index: int) -> float:
        one = self.past[place]
        column = one.market.names.index(name)
        owner = one.market if hasattr(one.market, array) else one.forecasts
        return float(getattr(owner, array)[(*index, column)])

    def labels(self, made: int, horizon: int) -> dict[str, float]:
        said, now = self.past[made], self.past[-1]
        bars = HORIZONS[horizon].bars
        entries = [
            place for place, one in enumerate(self.past) if one.market.bar == now.market.bar - bars
        ]
        if not entries:
            return {}
        returns = {}
        for name in said.market.names:
            if self.alive(name, made):
                first = self.value(entries[0], "price", name)
                last = self.value(len(self.past) - 1, "price", name)
                if math.isfinite(first) and math.isfinite(last):
                    returns[name] = 1e4 * (last / first - 1)
        if said.forecasts.target == "excess":
            members = [n for n in returns if self.value(made, "member", n)]
            if len(members) < 3:
                return {}
            mean = math.fsum(returns[n] for n in members) / len(members)
            returns = {n: r - mean for n, r in returns.items()}
        clip, found = self.settings.horizons.target_clip, {}
        for name, value in returns.items():
            sigma = self.value(made, "sigma", name)
            if sigma > 0:
                scaled = value / (sigma * math.sqrt(HORIZONS[horizon].minutes))
                found[name] = min(max(scaled, -clip), clip)
        return found

    def step(self, snapshot: Snapshot) -> dict[str, Any]:
        market, said = snapshot.market, snapshot.forecasts
        if self.past and market.session != self.past[-1].market.session:
            passed = market.session - self.past[-1].market.session
            factor = 0.5 ** (passed / self.settings.online.online_half_life_sessions)
            for h in range(3):
                self.losses[h] = [value * factor for value in self.losses[h]]
                self.gaps[h] *= factor
        self.past.append(snapshot)
        for made in range(len(self.past) - 1):
            for h, horizon in enumerate(HORIZONS):
                lag = self.past[made].forecasts.lag
                if self.past[made].market.bar + lag - 1 + horizon.bars == market.bar:
                    self.mature(made, h)
        scores, counts = self.standardised()
        self.scores.append(scores)
        self.rows += self.score_rows(scores)
        return {
            "scores": scores,
            "n_samples": counts,
            **self.track_record(),
            "covariance": self.covariance(),
            "online": np.array([self.weights(h) for h in range(3)]),
            "online_bars": np.array([self.bars[h] for h in range(3)]),
            "barrier_prior": self.prior(),
            "names": market.names,
            "said": said,
        }

    def mature(self, made: int, h: int) -> None:
        labels = self.labels(made, h)
        if not labels:
            return
        session = self.past[-1].market.session
        profits: list[float] = []
        for m in range(3):
            pairs, held = [], []
            for name, label in labels.items():
                forecast = self.value(made, "returns", name, h, m)
                if math.isfinite(forecast):
                    pairs.append((forecast, label))
                score = self.scores[made].get((h, m, name), math.nan)
                if math.isfinite(score):
                    held.append((score, label))
            values: dict[str, Any] = {
                "error": math.fsum((f - y) ** 2 for f, y in pairs),
                "square": math.fsum(y**2 for _, y in pairs),
                "ic": math.nan,
                "names": len(pairs),
            }
            if (
                len(pairs) >= 5
                and len({f for f, _ in pairs}) > 1
                and len({y for _, y in pairs}) > 1
            ):
                values["ic"] = stats.spearmanr(*zip(*pairs, strict=True)).statistic
            self.records.append(Contribution(session, h, m, values))
            gross = math.fsum(abs(s) for s, _ in held)
            profits.append(math.fsum(s * y for s, y in held) / gross if gross > 0 else math.nan)
        known = [p for p in profits if math.isfinite(p)]
        if known:
            scale = self.settings.online.online_scale
            loss = [0.5 - 0.5 * min(max(p / scale, -1.0), 1.0) for p in profits]
            mean = math.fsum(x for x in loss if math.isfinite(x)) / len(known)
            self.hedge(h, [x if math.isfinite(x) else mean for x in loss])

    def weights(self, h: int) -> list[float]:
        total, gap = self.losses[h], self.gaps[h]
        if gap == 0:
            raw = [1.0 if value == min(total) else 0.0 for value in total]
        else:
            raw = [math.exp(-math.log(3) / gap * (value - min(total))) for value in total]
        return [value / math.fsum(raw) for value in raw]

    def hedge(self, h: int, loss: list[float]) -> None:
        total, gap, weights = self.losses[h], self.gaps[h], self.weights(h)
        after = [t + x for t, x in zip(total, loss, strict=True)]
        if gap == 0:
            mix = min(after) - min(total)
        else:
            eta = math.log(3) / gap
            mix = (
                -math.log(
                    math.fsum(w * math.exp(-eta * x) for w, x in zip(weights, loss, strict=True))
                )
                / eta
            )
        hedged = math.fsum(w * x for w, x in zip(weights, loss, strict=True))
        self.gaps[h] += max(0.0, hedged - mix)
        self.losses[h] = after
        self.bars[h] += 1

    def counted(self, name: str) -> list[int]:
        now, keep = self.past[-1].market.session, self.settings.standardise.score_sessions
        return [
            place
            for place in range(len(self.past) - 1)
            if self.past[place].market.session >= now - keep and self.alive(name, place)
        ]

    def standardised(self) -> tuple[dict[Any, float], dict[Any, int]]:
        scores, counts = {}, {}
        for name in self.past[-1].market.names:
            places = self.counted(name)
            for h in range(3):
                for m in range(3):
                    before = [self.value(p, "returns", name, h, m) for p in places]
                    before = [x for x in before if math.isfinite(x)]
                    counts[h, m, name] = len(before)
                    now = self.value(-1, "returns", name, h, m)
                    if math.isfinite(now) and len(before) >= 3:
                        score = (now - np.mean(before)) / np.std(before, ddof=1)
                        scores[h, m, name] = float(np.clip(score, -3.0, 3.0))
        return scores, counts

    def score_rows(self, scores: dict[Any, float]) -> list[Contribution]:
        session, rows = self.past[-1].market.session, []
        for h in range(3):
            present = {m for m in range(3) if any(k[0] == h and k[1] == m for k in scores)}
            for name in self.past[-1].market.names:
                if present and all((h, m, name) in scores for m in present):
                    row = {m: scores[h, m, name] for m in present}
                    rows.append(Contribution(session, h, -1, row))
        return rows

    def age(self, session: int, half_life: float) -> float:
        return float(0.5 ** ((self.past[-1].market.session - session) / half_life))

    def track_record(self) -> dict[str, np.ndarray]:
        shape = (3, 3)
        ic, samples, stability = np.full(shape, np.nan), np.zeros(shape), np.full(shape, np.nan)
        for h in range(3):
            for m in range(3):
                mine = [r for r in self.records if (r.horizon, r.family) == (h, m)]
                age = [self.age(r.session, 3.0) for r in mine]
                good = [
                    (a * r.values["names"], r.values["ic"], a * (r.values["names"] - 1))
                    for a, r in zip(age, mine, strict=True)
                    if math.isfinite(r.values["ic"])
                ]
                if good:
                    n = math.fsum(g[2] for g in good) / HORIZONS[h].bars
                    mean = math.fsum(w * x for w, x, _ in good) / math.fsum(w for w, _, _ in good)
                    ic[h, m], samples[h, m] = mean * n / (n + 50.0), n
                square = math.fsum(a * r.values["square"] for a, r in zip(age, mine, strict=True))
                error = math.fsum(a * r.values["error"] for a, r in zip(age, mine, strict=True))
                if square > 0:
                    stability[h, m] = 1 / (1 + math.sqrt(error / square))
        return {"ic": ic, "ic_samples": samples, "stability": stability}

    def covariance(self) -> np.ndarray:
        """Ledoit & Wolf's sums written out; compared where all pairs rest on the same rows."""
        out = np.full((3, 3, 3), np.nan)
        for h in range(3):
            mine = [r for r in self.rows if r.horizon == h]
            if not mine:
                out[h] = np.eye(3)
                continue
            if any(len(r.values) < 3 for r in mine):
                continue
            age = np.array([self.age(r.session, 2.0) for r in mine])
            x = np.array([[r.values[m] for m in range(3)] for r in mine])
            n = age.sum()
            raw = (x * age[:, None]).T @ x / n
            level = np.trace(raw) / 3
            noise = sum(
                age[k] * ((np.outer(x[k], x[k]) - raw) ** 2).sum() for k in range(len(x))
            ) / (3 * n**2)
            distance = ((raw - level * np.eye(3)) ** 2).sum() / 3
            share = min(noise, distance) / distance
            out[h] = (1 - share) * raw + share * level * np.eye(3)
        return out

    def prior(self) -> np.ndarray:
        out = np.full(2, np.nan)
        for side in range(2):
            seen = []
            for name in self.past[-1].market.names:
                for place in self.counted(name):
                    if self.past[place].forecasts.barriers is not None:
                        value = self.value(place, "barriers", name, side)
                        seen += [value] if math.isfinite(value) else []
            if seen:
                out[side] = np.mean(seen)
        return out


def start_of(snapshot: Snapshot) -> LearningState:
    said = snapshot.forecasts
    return LearningState.start(snapshot.market.names, said.horizons, said.families, said.models)


def run(history: list[Snapshot], settings: Settings = SETTINGS) -> tuple[LearningState, Beliefs]:
    state = start_of(history[0])
    for snapshot in history:
        state, beliefs = learn(state, snapshot, settings)
    return state, beliefs


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_is_its_definition(seed: int) -> None:
    slow, history = Slow(SETTINGS), random_history(seed)
    state, checked = start_of(history[0]), 0
    for snapshot in history:
        state, found = learn(state, snapshot, SETTINGS)
        wanted = slow.step(snapshot)
        for name in ("ic", "ic_samples", "stability", "online", "online_bars", "barrier_prior"):
            np.testing.assert_allclose(
                getattr(found, name), wanted[name], rtol=1e-12, atol=1e-13, err_msg=name
            )
        known = np.isfinite(wanted["covariance"])
        checked += int(known.all(axis=(1, 2)).sum())
        np.testing.assert_allclose(
            found.covariance[known], wanted["covariance"][known], rtol=1e-12, atol=1e-13
        )
        for (h, m, name), count in wanted["n_samples"].items():
            place = snapshot.market.names.index(name)
            assert found.n_samples[h, m, place] == count
            np.testing.assert_allclose(
                found.scores[h, m, place],
                wanted["scores"].get((h, m, name), np.nan),
                rtol=1e-12,
                atol=1e-13,
            )
    assert checked > 3
    assert np.isfinite(found.ic).all()
    assert (found.online_bars > 5).all()


def permuted(snapshot: Snapshot, order: np.ndarray) -> Snapshot:
    market, said = snapshot.market, snapshot.forecasts
    columns = ("member", "price", "bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot")
    return Snapshot(
        replace(
            market,
            names=tuple(market.names[k] for k in order),
            **{name: getattr(market, name)[order] for name in columns},
        ),
        replace(
            said,
            returns=said.returns[:, :, order],
            sigma=said.sigma[order],
            barriers=None if said.barriers is None else said.barriers[:, order],
        ),
    )


@given(st.integers(0, 1000))
@hypothesis_settings(max_examples=10, deadline=None)
def test_permuting_symbols_permutes_to_the_bit(seed: int) -> None:
    """Every snapshot in an order of its own."""
    rng = np.random.default_rng(seed)
    history = random_history(seed, 30)
    one = two = start_of(history[0])
    for snapshot in history:
        order = rng.permutation(len(snapshot.market.names))
        one, plain = learn(one, snapshot, SETTINGS)
        two, moved = learn(two, permuted(snapshot, order), SETTINGS)
        np.testing.assert_array_equal(plain.scores[:, :, order], moved.scores)
        np.testing.assert_array_equal(plain.n_samples[:, :, order], moved.n_samples)
        for name in ("ic", "ic_samples", "stability", "covariance", "online", "barrier_prior"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(moved, name))
    assert one.digest == two.digest


def test_memory_layout_does_not_matter() -> None:
    """Column-major arrays, and views of larger ones, give the same bits."""
    history = random_history(6)
    others = []
    for one in history:
        wide = np.repeat(one.market.price, 2)[::2]
        said = replace(one.forecasts, returns=np.asfortranarray(one.forecasts.returns))
        others.append(Snapshot(replace(one.market, price=wide), said))
    assert_same(run(history), run(others))


def planted_history(bars: int, lag: int = 1, n_names: int = 12) -> list[Snapshot]:
    """The first family forecasts exactly what comes at each horizon, the others noise."""
    rng = np.random.default_rng(5)
    prices = 50 * np.exp(2e-3 * rng.standard_normal((bars + 20, n_names)).cumsum(axis=0))
    sigma = np.full(prices.shape, 10.0)
    truth = scaled_targets(prices, sigma, HORIZONS, lag, np.ones(prices.shape, bool))
    names = tuple(f"N{k:02d}" for k in range(n_names))
    return [
        snapshot_of(
            bar,
            names,
            prices[bar],
            np.stack([truth[bar].T, *rng.standard_normal((2, 3, n_names))], axis=1),
            sigma[bar],
            np.ones(n_names, bool),
            lag=lag,
        )
        for bar in range(bars)
    ]


@pytest.mark.parametrize("lag", [1, 3])
def test_labels_mature_at_their_last_bar_and_not_before(lag: int) -> None:
    settings = SETTINGS.model_copy(
        update={"confidence": SETTINGS.confidence.model_copy(update={"ic_prior_samples": 0.0})}
    )
    history = planted_history(12, lag)
    state = start_of(history[0])
    for bar, snapshot in enumerate(history):
        state, beliefs = learn(state, snapshot, settings)
        for place, horizon in enumerate(HORIZONS):
            if bar < horizon.bars + lag - 1:
                assert np.isnan(beliefs.ic[place]).all()
                assert np.isnan(beliefs.stability[place]).all()
            else:
                assert beliefs.ic[place, 0] == pytest.approx(1.0, abs=1e-12)
                assert (np.abs(beliefs.ic[place, 1:]) < 1).all()


def test_what_comes_later_changes_nothing() -> None:
    """The future is replaced by another; what was believed until then has the same bits."""
    history = random_history(0)
    other = [
        replace(one, market=replace(one.market, price=one.market.price * 1.1 + bar))
        for bar, one in enumerate(history)
    ]
    cut = 25
    mixed = history[:cut] + other[cut:]
    one = two = start_of(history[0])
    for bar, (first, second) in enumerate(zip(history, mixed, strict=True)):
        one, plain = learn(one, first, SETTINGS)
        two, changed = learn(two, second, SETTINGS)
        if bar < cut:
            assert_same(plain, changed)
            assert one.digest == two.digest
    assert one.digest != two.digest


def test_scores_use_past_forecasts_only() -> None:
    """Another forecast at a bar changes its own score, and not its count or the moments before."""
    history = random_history(1)
    state, _ = run(history[:-1])
    last = history[-1]
    said = replace(last.forecasts, returns=last.forecasts.returns + 0.01)
    _, one = learn(state, last, SETTINGS)
    _, two = learn(state, Snapshot(last.market, said), SETTINGS)
    moved = (one.scores != two.scores) & (np.abs(one.scores) < 3) & (np.abs(two.scores) < 3)
    assert moved.any()
    np.testing.assert_array_equal(one.n_samples, two.n_samples)


def assert_same(first: Any, second: Any) -> None:
    """Equal to the bit, field by field."""
    if is_dataclass(first):
        for part in fields(first):
            assert_same(getattr(first, part.name), getattr(second, part.name))
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.tobytes() == second.tobytes()
    elif isinstance(first, tuple) and first and not isinstance(first[0], str):
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_same(one, two)
    else:
        assert first == second


def frozen(value: Any) -> None:
    """Make every array inside read-only."""
    if is_dataclass(value):
        for part in fields(value):
            frozen(getattr(value, part.name))
    elif isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, tuple):
        for one in value:
            frozen(one)


def test_nothing_is_changed_in_place() -> None:
    history = random_history(2)
    state = start_of(history[0])
    for snapshot in history:
        frozen(state)
        frozen(snapshot)
        state, _ = learn(state, snapshot, SETTINGS)
    frozen(state)
    again, _ = run(history)
    assert_same(state, again)


def overwritten(value: Any) -> None:
    """Fill every array inside with something else."""
    if is_dataclass(value):
        for part in fields(value):
            overwritten(getattr(value, part.name))
    elif isinstance(value, np.ndarray) and value.dtype != object and value.flags.writeable:
        value.fill(True if value.dtype == bool else 77)


def test_what_is_remembered_is_not_the_callers_memory() -> None:
    history, same = (
        [permuted(one, np.argsort(one.market.names)) for one in random_history(4)] for _ in range(2)
    )  # in alphabetical order no column needs to be moved
    state = start_of(history[0])
    for snapshot in history:
        state, _ = learn(state, snapshot, SETTINGS)
        overwritten(snapshot)
    assert_same(state, run(same)[0])


@pytest.mark.parametrize("mode", ["adahedge", "exp3ix"])
@pytest.mark.parametrize("bars", [0, 1, 30])
def test_round_trip_is_exact(tmp_path: Path, mode: str, bars: int) -> None:
    settings = SETTINGS.model_copy(
        update={"online": SETTINGS.online.model_copy(update={"online_mode": mode})}
    )
    history = random_history(3)
    state = start_of(history[0])
    for snapshot in history[:bars]:
        state, _ = learn(state, snapshot, settings)
    arrays, facts = to_arrays(state)
    save_file(arrays, tmp_path / "state.safetensors")
    read = from_arrays(load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(facts)))
    assert_same(read, state)
    one, first = learn(state, history[bars], settings)
    two, second = learn(read, history[bars], settings)
    assert_same(first, second)
    assert_same(one, two)


def test_other_schema_versions_are_refused() -> None:
    arrays, facts = to_arrays(run(random_history(0)[:5])[0])
    for version in (SCHEMA_VERSION + 1, 0, None, "1"):
        with pytest.raises(RunError, match="schema version") as e:
            from_arrays(arrays, {**facts, "schema_version": version})
        assert e.value.cure


def test_damaged_states_are_refused() -> None:
    arrays, facts = to_arrays(run(random_history(0)[:20])[0])
    for name in arrays:
        with pytest.raises(RunError, match=name):
            from_arrays({key: a for key, a in arrays.items() if key != name}, facts)
        with pytest.raises(RunError, match=name):
            from_arrays({**arrays, name: arrays[name][..., None]}, facts)
        with pytest.raises(RunError, match=name):
            from_arrays({**arrays, name: arrays[name].astype(np.float32)}, facts)
    for key in facts:
        with pytest.raises(RunError):
            from_arrays(arrays, {k: v for k, v in facts.items() if k != key})
    for key, value in {
        "bar": "x",
        "names": list(reversed(facts["names"])),
        "models": ["m1"],
        "plays": [],
        "seen": [[0, 1, "excess"]],
        "horizons": [[5]],
        "forecasts_closed": [1],
    }.items():
        with pytest.raises(RunError):
            from_arrays(arrays, {**facts, key: value})


def test_bars_come_once_and_in_order() -> None:
    history = random_history(0)
    state, _ = run(history[:10])
    for snapshot in (history[9], history[3]):
        with pytest.raises(DataError, match="not later"):
            learn(state, snapshot, SETTINGS)
    late = replace(history[10], market=replace(history[10].market, session=0))
    with pytest.raises(DataError, match="session"):
        learn(state, late, SETTINGS)


def test_equal_histories_have_equal_digests() -> None:
    history = random_history(0)
    one, two = run(history)[0].digest, run(history)[0].digest
    assert one == two
    assert len(one) == 64
    last = history[-1]
    market, said = last.market, last.forecasts
    price, returns, sigma = market.price.copy(), said.returns.copy(), said.sigma.copy()
    price[0], returns[0, 0, 0], sigma[0] = 1.0, 0.5, 3.0
    changed = [
        Snapshot(replace(market, price=price), said),
        Snapshot(replace(market, member=~market.member), said),
        Snapshot(replace(market, bar=market.bar + 1), said),
        Snapshot(market, replace(said, returns=returns)),
        Snapshot(market, replace(said, sigma=sigma)),
        Snapshot(market, replace(said, lag=said.lag + 1)),
        Snapshot(market, replace(said, models=("m1", "m2", "m4"))),
        Snapshot(market, replace(said, barriers=np.full((2, len(market.names)), 0.5))),
    ]
    digests = {run([*history[:-1], snapshot])[0].digest for snapshot in changed}
    assert len(digests | {one}) == len(changed) + 1
    other = SETTINGS.model_copy(
        update={"standardise": SETTINGS.standardise.model_copy(update={"score_samples": 4})}
    )
    assert run(history, other)[0].digest != one


def test_money_and_moment_teach_nothing() -> None:
    history = random_history(0)
    richer = [
        replace(
            one,
            market=replace(
                one.market,
                nav_usd=math.nan,
                moment=one.market.moment + pd.Timedelta(seconds=9),
                bid=one.market.bid * 2,
                account="other",
            ),
        )
        for one in history
    ]
    assert_same(run(history), run(richer))


def test_another_model_starts_empty_and_the_others_go_on() -> None:
    history = random_history(4)
    state, _ = run(history)
    newest = history[-1]
    market: Market = replace(newest.market, bar=newest.market.bar + 1)
    said: Forecasts = replace(newest.forecasts, models=("m1", "new", "m3"))
    _, same = learn(state, replace(newest, market=market), SETTINGS)
    _, swapped = learn(state, Snapshot(market, said), SETTINGS)
    assert np.isnan(swapped.ic[:, 1]).all()
    assert np.isnan(swapped.scores[:, 1]).all()
    assert (swapped.n_samples[:, 1] == 0).all()
    np.testing.assert_array_equal(swapped.ic[:, [0, 2]], same.ic[:, [0, 2]])
    np.testing.assert_array_equal(swapped.scores[:, [0, 2]], same.scores[:, [0, 2]])
    assert np.isnan(swapped.barrier_prior).all()
    assert (np.abs(swapped.online.sum(axis=1) - 1) < 1e-12).all()


def test_alignment_there_and_back() -> None:
    history = random_history(5)
    state, _ = run(history)
    names, horizons = state.names, state.horizons
    families, models = state.families, state.models
    wider = state.aligned((*names, "ZZZ"), horizons, families, models)
    assert_same(wider.aligned(names, horizons, families, models), state)
    turned = state.aligned(names, horizons[::-1], families[::-1], models[::-1])
    assert_same(turned.aligned(names[::-1], horizons, families, models), state)
    assert state.aligned(names[::-1], horizons, families, models) is state
    longer = (*horizons, Horizon(60, 12, "60m"))
    more = state.aligned(names, longer, families, models)
    assert np.isnan(more.record.ic(1.0)[3]).all()
    assert_same(more.aligned(names, horizons, families, models), state)


def test_gone_and_back_is_new() -> None:
    """A symbol that leaves the universe is forgotten; one that stays is not."""
    history = [s for s in planted_history(10) if s.market.bar < 10]
    state, _ = run(history[:8])
    without = permuted(history[8], np.arange(1, 12))
    state, _ = learn(state, without, SETTINGS)
    _, beliefs = learn(state, history[9], SETTINGS)
    assert (beliefs.n_samples[:, :, 0] == 0).all()
    assert (beliefs.n_samples[:, :, 1:] > 0).all()


def test_bandit_is_told_of_its_plays_when_they_mature() -> None:
    """Feedback is late: the estimate divides by the chance at the time of play (PITFALLS M2)."""
    settings = SETTINGS.model_copy(update={"online": OnlineConfig(online_mode="exp3ix")})
    history = planted_history(30, lag=2)
    state, told = start_of(history[0]), 0
    pending: dict[tuple[int, int], tuple[float, int, np.ndarray]] = {}
    for bar, snapshot in enumerate(history):
        before = state.online.estimates
        if state.session >= 0 and snapshot.market.session != state.session:
            before = before * 0.5 ** (1 / settings.online.online_half_life_sessions)
        state, beliefs = learn(state, snapshot, settings)
        for place, horizon in enumerate(HORIZONS):
            wanted = np.zeros(3)
            made = bar - horizon.bars - 1
            if (made, place) in pending:
                chance, arm, scores = pending[made, place]
                entry, end = history[made + 1].market.price, snapshot.market.price
                returns = 1e4 * (end / entry - 1)
                scaled = (returns - returns.mean()) / (10.0 * np.sqrt(horizon.minutes))
                loss = losses(scores, np.clip(scaled, -2.0, 2.0), settings.online.online_scale)
                if np.isfinite(loss[arm]):
                    wanted[arm] = loss[arm] / (chance + settings.online.exploration)
                    told += 1
            found = state.online.estimates[place] - before[place]
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
            arm = drawn_arm(beliefs.online[place], 0, bar, horizon.minutes)
            pending[bar, place] = (beliefs.online[place, arm], arm, beliefs.scores[place])
    assert told > 30


def test_confidence_is_not_left_at_its_start() -> None:
    """Track records move with matured labels (PITFALLS F4)."""
    _, beliefs = run(planted_history(12))
    assert (beliefs.ic[:, 0] > 0.05).all()
    assert (beliefs.stability[:, 0] > 0.9).all()
    assert (beliefs.stability[:, 1] < 0.5).all()
