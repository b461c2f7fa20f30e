"""What is learned from forecasts and what came of them, as one value that is handed on.

At every bar: labels that end at it mature and update track records and online weights; the
forecasts of the bar are scored against earlier ones; they are remembered. Nothing that comes
after the bar is ever read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpa.config import Settings
from dpa.decision.alignment import Alignment, alphabetical, positions
from dpa.decision.confidence import TrackRecord
from dpa.decision.covariance import ScoreMoments
from dpa.decision.labels import NO_ARM, LabelQueue, Play, Seen
from dpa.decision.online import OnlineRecord, drawn_arm
from dpa.decision.standardise import PastForecasts, Summary, standardise
from dpa.decision.types import Beliefs, Doubles, Integers, Snapshot
from dpa.errors import DataError, RunError
from dpa.market.interval_specs import Horizon

SCHEMA_VERSION = 1
N_BARRIERS = 2
LEARNS_FROM = {
    "standardise": True,
    "confidence": {"ic_half_life_sessions", "ic_prior_samples"},
    "blend": {"covariance_half_life_sessions"},
    "online": True,
    "horizons": {"target_clip"},
}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class LearningState:
    """Everything learned so far; never changed, only replaced. Its arrays are read-only.

    Parameters
    ----------
    names : tuple of str, length n_symbols
        In alphabetical order, so that sums over symbols have the same bits in any order of a
        snapshot.
    horizons : tuple of Horizon, length n_horizons
    families, models : tuples of str, length n_families
        Names, and fingerprints of the models that were learned about.
    bar, session : int
        Newest learned; -1: none.
    digest : str
        Hash of all that was learned from, in order: equal histories, equal digest.
    forecasts : PastForecasts
        Of shape (n_horizons, n_families, n_symbols).
    barriers : PastForecasts
        Past probabilities of peak and valley, of shape (2, n_symbols).
    queue : LabelQueue
    record : TrackRecord
    scores : ScoreMoments
    online : OnlineRecord
    """

    names: tuple[str, ...]
    horizons: tuple[Horizon, ...]
    families: tuple[str, ...]
    models: tuple[str, ...]
    bar: int
    session: int
    digest: str
    forecasts: PastForecasts
    barriers: PastForecasts
    queue: LabelQueue
    record: TrackRecord
    scores: ScoreMoments
    online: OnlineRecord

    @classmethod
    def start(
        cls,
        names: tuple[str, ...],
        horizons: tuple[Horizon, ...],
        families: tuple[str, ...],
        models: tuple[str, ...],
    ) -> "LearningState":
        """Nothing learned."""
        n_horizons, n_families = len(horizons), len(families)
        return cls(
            alphabetical(names)[0],
            horizons,
            families,
            models,
            -1,
            -1,
            "",
            PastForecasts.start((n_horizons, n_families, len(names))),
            PastForecasts.start((N_BARRIERS, len(names))),
            LabelQueue.start(n_horizons),
            TrackRecord.start(n_horizons, n_families),
            ScoreMoments.start(n_horizons, n_families),
            OnlineRecord.start(n_horizons, n_families),
        )

    def aligned(
        self,
        names: tuple[str, ...],
        horizons: tuple[Horizon, ...],
        families: tuple[str, ...],
        models: tuple[str, ...],
    ) -> "LearningState":
        """The same for another universe, horizons and families.

        What is not known yet starts empty: new symbols and horizons, and families that are new or
        whose model is another. What is no longer there is forgotten. Probabilities of barriers
        are forgotten with any change of a model.
        """
        wanted = (alphabetical(names)[0], horizons, families, models)
        if wanted == (self.names, self.horizons, self.families, self.models):
            return self
        models_before = list(zip(self.families, self.models, strict=True))
        models_now = list(zip(families, models, strict=True))
        to = Alignment(
            positions(horizons, self.horizons),
            positions(models_now, models_before),
            positions(wanted[0], self.names),
        )
        barriers = self.barriers.aligned(to, "-n")
        if set(models_now) != set(models_before):
            barriers = PastForecasts.start((N_BARRIERS, len(names)))
        return LearningState(
            *wanted,
            self.bar,
            self.session,
            self.digest,
            self.forecasts.aligned(to, "hfn"),
            barriers,
            self.queue.aligned(to),
            self.record.aligned(to),
            self.scores.aligned(to),
            self.online.aligned(to),
        )


def learn(
    state: LearningState, snapshot: Snapshot, settings: Settings
) -> tuple[LearningState, Beliefs]:
    """Learn what a bar tells of earlier forecasts, and say what to make of its own.

    Parameters
    ----------
    state : LearningState
        Of earlier bars; of another universe or bundle it is aligned first.
    snapshot : Snapshot
        Its moment, quotes and account do not count.
    settings : Settings
        The sections standardise, confidence, blend and online, and ``horizons.target_clip``.

    Returns
    -------
    state : LearningState
        With this bar.
    beliefs : Beliefs
        In the order of the snapshot's symbols.

    Raises
    ------
    DataError
        When the bar is not later than the state's newest, or its session is earlier.
    """
    market, said = snapshot.market, snapshot.forecasts
    _check_later(state, market.bar, market.session)
    digest = _digest(state.digest, snapshot, settings)
    state = state.aligned(market.names, said.horizons, said.families, said.models)
    _, order, back = alphabetical(market.names)
    state = _moved_to(state, market.session, settings)
    price = _columns(market.price, order)
    forecasts = _finite(_columns(said.returns, order))

    matured = state.queue.mature(market.bar, price, said.horizons, settings.horizons.target_clip)
    record = state.record.with_matured(matured)
    online = state.online.with_matured(matured, settings.online)

    scores, n_samples = standardise(state.forecasts.whole, forecasts, settings.standardise)
    moments = state.scores.with_scores(scores)
    weights = online.weights(settings.online)
    beliefs = Beliefs(
        scores=_columns(scores, back),
        n_samples=_columns(n_samples, back),
        ic=record.ic(settings.confidence.ic_prior_samples),
        ic_samples=record.independent,
        stability=record.stability,
        covariance=moments.covariance(),
        online=weights,
        online_bars=online.bars,
        barrier_prior=_pooled_mean(state.barriers.whole),
    )

    seen = Seen(
        market.bar,
        said.lag,
        said.target,
        price.copy(),  # kept for bars: the caller may use the memory of its arrays again
        _columns(said.sigma, order).copy(),
        _columns(market.member, order).copy(),
    )
    barriers = state.barriers
    if said.barriers is not None:
        barriers = barriers.with_forecasts(_finite(_columns(said.barriers, order)))
    learned = replace(
        state,
        bar=market.bar,
        session=market.session,
        digest=digest,
        forecasts=state.forecasts.with_forecasts(forecasts),
        barriers=barriers,
        queue=state.queue.remember(
            seen, _plays(seen, said.horizons, forecasts, scores, weights, settings)
        ),
        record=record,
        scores=moments,
        online=online,
    )
    return learned, beliefs


def _check_later(state: LearningState, bar: int, session: int) -> None:
    if bar <= state.bar:
        raise DataError(
            f"bar {bar} is not later than bar {state.bar}, the newest learned",
            "give each bar once, in order",
        )
    if session < state.session:
        raise DataError(
            f"session {session} of bar {bar} is before session {state.session}, the newest learned",
            "number sessions in order of time",
        )


def _columns(array: NDArray[Any], order: Integers | slice) -> NDArray[Any]:
    """Columns in another order, in row-major memory: sums depend on it in their last bits."""
    return np.ascontiguousarray(array[..., order])


def _finite(values: Doubles) -> Doubles:
    return np.where(np.isfinite(values), values, np.nan)


def _moved_to(state: LearningState, session: int, settings: Settings) -> LearningState:
    """The state at the start of `session`: old sessions dropped, sums faded."""
    if session == state.session or state.session < 0:
        return state
    passed, keep = session - state.session, settings.standardise.score_sessions

    def factor(half_life: float | None) -> float:
        return 1.0 if half_life is None else float(0.5 ** (passed / half_life))

    return replace(
        state,
        forecasts=state.forecasts.moved_to(session, state.session, keep),
        barriers=state.barriers.moved_to(session, state.session, keep),
        record=state.record.faded(factor(settings.confidence.ic_half_life_sessions)),
        scores=state.scores.faded(factor(settings.blend.covariance_half_life_sessions)),
        online=state.online.faded(factor(settings.online.online_half_life_sessions)),
    )


def _plays(
    seen: Seen,
    horizons: tuple[Horizon, ...],
    forecasts: Doubles,
    scores: Doubles,
    weights: Doubles,
    settings: Settings,
) -> tuple[Play, ...]:
    bandit = settings.online.online_mode == "exp3ix"
    seed = settings.online.online_seed
    return tuple(
        Play(
            seen.bar,
            seen.bar + seen.lag - 1 + horizon.bars,
            forecasts[place],
            scores[place],
            weights[place] if bandit else np.zeros(len(weights[place])),
            drawn_arm(weights[place], seed, seen.bar, horizon.minutes) if bandit else NO_ARM,
        )
        for place, horizon in enumerate(horizons)
    )


def _pooled_mean(past: Summary) -> Doubles:
    """Mean over all bars and symbols, shape (2,); NaN where there is nothing."""
    count = past.count.sum(axis=1)
    total = (past.count * past.mean).sum(axis=1)
    return np.asarray(total / np.where(count > 0, count, np.nan))


@lru_cache(maxsize=8)
def _names_text(names: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _digest(before: str, snapshot: Snapshot, settings: Settings) -> str:
    """Hash of the digest before and of what is learned from, the same in any order of symbols."""
    market, said = snapshot.market, snapshot.forecasts
    names, order, _ = alphabetical(market.names)
    facts = (
        before,
        settings.model_dump_json(include=LEARNS_FROM),  # type: ignore[arg-type]
        _names_text(names),
        market.bar,
        market.session,
        said.lag,
        said.target,
        [(h.minutes, h.bars, h.label) for h in said.horizons],
        said.families,
        said.models,
        said.barriers is not None,
    )
    digest = hashlib.sha256(json.dumps(facts).encode())
    arrays: list[NDArray[Any]] = [market.price, said.sigma, market.member, said.returns]
    for array in arrays if said.barriers is None else [*arrays, said.barriers]:
        digest.update(_columns(array, order).data)
    return digest.hexdigest()


def to_arrays(state: LearningState) -> tuple[Arrays, dict[str, Any]]:
    """The state as arrays, for safetensors, and facts, for JSON; nothing is lost."""
    arrays: Arrays = {}
    for name in ("forecasts", "barriers"):
        past: PastForecasts = getattr(state, name)
        arrays[f"{name}.current"] = _stacked(past.current)
        arrays[f"{name}.past"] = _stacked(past.past)
        shape = (len(past.closed), *arrays[f"{name}.past"].shape)
        arrays[f"{name}.closed"] = np.array(
            [_stacked(summary) for _, summary in past.closed], dtype=np.float64
        ).reshape(shape)
    for name in ("record", "scores", "online"):
        part = getattr(state, name)
        for field in fields(part):
            arrays[f"{name}.{field.name}"] = getattr(part, field.name).copy()
    n_families, n_symbols = len(state.families), len(state.names)
    seen = state.queue.seen
    for name, kind in (("price", np.float64), ("sigma", np.float64), ("member", np.bool_)):
        column = [getattr(one, name) for one in seen]
        arrays[f"seen.{name}"] = np.array(column, dtype=kind).reshape(len(seen), n_symbols)
    for place, plays in enumerate(state.queue.plays):
        shapes = {"forecasts": (n_families, n_symbols), "scores": (n_families, n_symbols)}
        for name, shape in {**shapes, "chances": (n_families,)}.items():
            column = [getattr(one, name) for one in plays]
            arrays[f"plays.{place}.{name}"] = np.array(column, dtype=np.float64).reshape(
                len(plays), *shape
            )
    return arrays, _facts(state)


def _stacked(summary: Summary) -> Doubles:
    return np.stack([summary.count, summary.mean, summary.spread])


def _facts(state: LearningState) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "names": list(state.names),
        "horizons": [[h.minutes, h.bars, h.label] for h in state.horizons],
        "families": list(state.families),
        "models": list(state.models),
        "bar": state.bar,
        "session": state.session,
        "digest": state.digest,
        "forecasts_closed": [number for number, _ in state.forecasts.closed],
        "barriers_closed": [number for number, _ in state.barriers.closed],
        "seen": [[one.bar, one.lag, one.target] for one in state.queue.seen],
        "plays": [[[one.bar, one.end, one.arm] for one in some] for some in state.queue.plays],
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> LearningState:
    """The state that :func:`to_arrays` described, to the bit.

    Raises
    ------
    RunError
        For another schema version, or when something is missing or does not fit together.
    """
    version = facts.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(
            f"learned state: schema version {version!r}, this code reads {SCHEMA_VERSION}",
            "use the version of dpa that wrote it, or start anew without it",
        )
    try:
        return _Reader(arrays, facts).state()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise _damaged(f"cannot be read ({type(e).__name__}: {e})") from e


def _damaged(what: str) -> RunError:
    return RunError(f"learned state: {what}", "it is damaged: copy it again, or start anew")


class _Reader:
    """Parts of a stored state, checked against its facts."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
        self.arrays, self.facts = arrays, facts
        self.horizons = tuple(Horizon(int(m), int(b), str(x)) for m, b, x in facts["horizons"])
        self.names, self.families, self.models = (
            tuple(str(one) for one in facts[key]) for key in ("names", "families", "models")
        )
        if len(self.models) != len(self.families) or len(facts["plays"]) != len(self.horizons):
            raise _damaged("its facts do not fit together")
        if self.names != alphabetical(self.names)[0] or len(set(self.names)) < len(self.names):
            raise _damaged("its names are not in order")

    def array(self, name: str, *shape: int, kind: type = np.float64) -> NDArray[Any]:
        if name not in self.arrays:
            raise _damaged(f"array {name} is missing")
        found = np.array(self.arrays[name])
        if found.shape != shape or found.dtype != kind:
            raise _damaged(
                f"array {name} is {found.dtype} of shape {found.shape}, "
                f"not {np.dtype(kind)} of shape {shape}"
            )
        return found

    def past(self, name: str, *shape: int) -> PastForecasts:
        numbers = [int(one) for one in self.facts[f"{name}_closed"]]
        closed = self.array(f"{name}.closed", len(numbers), 3, *shape)
        return PastForecasts(
            Summary(*self.array(f"{name}.current", 3, *shape)),
            tuple((number, Summary(*one)) for number, one in zip(numbers, closed, strict=True)),
            Summary(*self.array(f"{name}.past", 3, *shape)),
        )

    def queue(self) -> LabelQueue:
        facts, n_symbols = self.facts["seen"], len(self.names)
        price = self.array("seen.price", len(facts), n_symbols)
        sigma = self.array("seen.sigma", len(facts), n_symbols)
        member = self.array("seen.member", len(facts), n_symbols, kind=np.bool_)
        if any(target not in ("excess", "return") for _, _, target in facts):
            raise _damaged("a target is neither excess nor return")
        seen = tuple(
            Seen(int(bar), int(lag), target, *columns)
            for (bar, lag, target), *columns in zip(facts, price, sigma, member, strict=True)
        )
        return LabelQueue(seen, tuple(self.plays(place) for place in range(len(self.horizons))))

    def plays(self, place: int) -> tuple[Play, ...]:
        facts, n_families = self.facts["plays"][place], len(self.families)
        shape = (len(facts), n_families, len(self.names))
        forecasts = self.array(f"plays.{place}.forecasts", *shape)
        scores = self.array(f"plays.{place}.scores", *shape)
        chances = self.array(f"plays.{place}.chances", len(facts), n_families)
        if any(not NO_ARM <= arm < n_families for _, _, arm in facts):
            raise _damaged("an arm is no family")
        return tuple(
            Play(int(bar), int(end), said, score, chance, int(arm))
            for (bar, end, arm), said, score, chance in zip(
                facts, forecasts, scores, chances, strict=True
            )
        )

    def state(self) -> LearningState:
        n_horizons, n_families = len(self.horizons), len(self.families)
        pair = (n_horizons, n_families)
        return LearningState(
            self.names,
            self.horizons,
            self.families,
            self.models,
            int(self.facts["bar"]),
            int(self.facts["session"]),
            str(self.facts["digest"]),
            self.past("forecasts", *pair, len(self.names)),
            self.past("barriers", N_BARRIERS, len(self.names)),
            self.queue(),
            TrackRecord(*(self.array(f"record.{f.name}", *pair) for f in fields(TrackRecord))),
            ScoreMoments(
                *(self.array(f"scores.{f.name}", *pair, n_families) for f in fields(ScoreMoments))
            ),
            OnlineRecord(
                self.array("online.losses", *pair),
                self.array("online.gap", n_horizons),
                self.array("online.estimates", *pair),
                self.array("online.bars", n_horizons, kind=np.int64),
            ),
        )
