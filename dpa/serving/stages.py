"""The stages behind the market stage, as plain objects: in one process or each in its own.

The two that remember (blender, sizer) keep what they knew before their newest bar beside what they
know after it. So the same bar may come again, after a lost answer or for another account, and is
answered from the same past; and nothing is learned twice.
"""

import contextlib
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd

from dpa.config import Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.blending import blend
from dpa.decision.gates import gate
from dpa.decision.learning import LearningState, from_arrays, learn, to_arrays
from dpa.decision.pipeline import inputs_digest
from dpa.decision.risk import RiskState, assess, halt, limit, resume
from dpa.decision.sizing import size
from dpa.decision.types import (
    Arbitration,
    Beliefs,
    Blend,
    Codes,
    Doubles,
    Forecasts,
    Gates,
    Market,
    Sizes,
    Snapshot,
)
from dpa.errors import RunError
from dpa.horizons.types import Forecast, Singles
from dpa.market.interval_specs import Horizon
from dpa.serving.store import RowStore, pack, unpack
from dpa.serving.types import RequestError

if TYPE_CHECKING:  # torch and the like stay out of stages that hold no model
    from dpa.horizons.families.protocol import Family

MARKET, BLENDER, ARBITER, GATE, SIZER = "market", "blender", "arbiter", "gate", "sizer"
FAMILY = "family:"
NOT_PREPARED = "not_ready"
LEAST_ROWS = 100  # of a thread
CHECKPOINT, ACCOUNT, KEPT_BUNDLES = "checkpoint", "account:", 2


@dataclass(frozen=True, eq=False)
class Blended:
    """What the blender says.

    Parameters
    ----------
    beliefs : Beliefs
    blend : Blend
    digest : str
        Of what was learned before this bar.
    """

    beliefs: Beliefs
    blend: Blend
    digest: str


@dataclass(frozen=True, eq=False)
class Sized:
    """What the sizer says.

    Parameters
    ----------
    sizes : Sizes
    risk : RiskState
        After the decision.
    digest : str
        Of the account's state before it.
    """

    sizes: Sizes
    risk: RiskState
    digest: str


@dataclass(frozen=True, eq=False)
class _Asked:
    """Rows a family was asked about, and what it says of them as soon as it does."""

    fingerprint: str
    features: Singles
    answer: Future[Forecast]

    def is_for(self, fingerprint: str, features: Singles) -> bool:
        """Whether these are the rows, to the bit."""
        return fingerprint == self.fingerprint and np.array_equal(
            features.view(np.uint32), self.features.view(np.uint32)
        )


class FamilyStage:
    """One family of models; the bundles it has been asked for last are kept loaded.

    Rows that come again, for another account, are not forecast again.

    Parameters
    ----------
    name : str
    plugins : tuple of str
    storage : Path
        Where the bundle in use is named, so that a family started anew has it loaded.
    threads : int
        Among which the rows of a large universe are divided.
    """

    def __init__(
        self, name: str, plugins: tuple[str, ...], storage: Path, threads: int = 1
    ) -> None:
        self.name, self._plugins, self._threads = name, plugins, threads
        self._storage = storage
        self._pool = ThreadPoolExecutor(threads)
        self._lock = threading.Lock()
        self._loaded: dict[str, Family] = {}
        self._newest: _Asked | None = None
        from dpa.horizons.bundle import read_bundle_manifest
        from dpa.serving.market_stage import read_active

        active = read_active(storage)
        if active is not None:
            with contextlib.suppress(RunError):  # it will be asked for by name
                self._family(read_bundle_manifest(active).fingerprint, str(active))

    def prepare(self, fingerprint: str, folder: str) -> str:
        """Load the family of a bundle; errors as :meth:`HorizonBundle.load_family`."""
        self._family(fingerprint, folder)
        return fingerprint

    def predict(self, fingerprint: str, folder: str, features: Singles) -> Forecast:
        """Forecast rows (n_rows, n_features) with the bundle named."""
        family = self._family(fingerprint, folder)
        with self._lock:
            asked = self._newest
            again = asked is not None and asked.is_for(fingerprint, features)
            if asked is None or not again:
                asked = self._newest = _Asked(fingerprint, features, Future())
        if not again:
            try:
                asked.answer.set_result(self._forecast(family, features))
            except BaseException as e:
                with self._lock:
                    self._newest = None
                asked.answer.set_exception(e)
        return asked.answer.result()

    def _forecast(self, family: "Family", features: Singles) -> Forecast:
        """Rows in parts, each in a thread: a row's forecast depends on that row alone."""
        parts = np.array_split(features, self._threads)
        if len(parts) == 1 or len(parts[-1]) < LEAST_ROWS:
            return family.predict(features)
        found = list(self._pool.map(family.predict, parts))
        heads = [part.barriers for part in found if part.barriers is not None]
        return Forecast(
            np.concatenate([part.returns for part in found]),
            np.concatenate(heads) if len(heads) == len(found) else None,
        )

    def _family(self, fingerprint: str, folder: str) -> "Family":
        from dpa.horizons.bundle import HorizonBundle
        from dpa.horizons.promotion import find_bundle
        from dpa.stores.store import is_uri

        with self._lock:
            if fingerprint not in self._loaded:
                here = find_bundle(folder, self._storage) if is_uri(folder) else Path(folder)
                family = HorizonBundle.load_family(here, self.name, self._plugins)
                for old in list(self._loaded)[: 1 - KEPT_BUNDLES]:
                    del self._loaded[old]
                self._loaded[fingerprint] = family
            return self._loaded[fingerprint]


class BlenderStage:
    """Standardise, believe, blend; keeps what was learned.

    Every bar's forecasts are put on record before the answer leaves, and the state now and then,
    so that a killed blender knows afterwards what it knew, to the bit.

    Parameters
    ----------
    settings : Settings
    storage : Path
        The record is kept in ``<storage>/serving/learning.sqlite``.
    """

    def __init__(self, settings: Settings, storage: Path) -> None:
        self._settings = settings
        self._store = RowStore(storage / "serving" / "learning.sqlite", durable=False)
        self._lock = threading.Lock()
        self._bundle, self._before, self._after = self._restore()
        self._prepared: tuple[str, LearningState | None, LearningState | None] | None = None
        self._since_checkpoint = 0

    def _restore(self) -> tuple[str, LearningState | None, LearningState | None]:
        stored = self._store.get(CHECKPOINT)
        if stored is None:
            return "", None, None
        arrays, facts = unpack(stored)
        state = from_arrays(arrays, facts["state"])
        bundle, before = str(facts["bundle"]), state
        for _, payload in self._store.after(state.bar):
            before = state
            state, _ = learn(state, read_observation(payload), self._settings)
        return bundle, before, state

    def bundle(self) -> str:
        """Fingerprint of the bundle whose record is kept; empty before the first."""
        with self._lock:
            return self._bundle

    def prepare(self, fingerprint: str, past: tuple[Snapshot, ...]) -> str:
        """Make the record of a bundle from its forecasts of bars that it has not seen."""
        before = after = _start(past[0]) if past else None
        for snapshot in past:
            before = after
            after, _ = learn(cast(LearningState, before), snapshot, self._settings)
        with self._lock:
            self._prepared = fingerprint, before, after
        return fingerprint

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._store.clear()
            self._bundle, self._before, self._after, self._prepared = "", None, None, None

    def blend(self, snapshot: Snapshot) -> Blended:
        """Learn from a bar and blend; the same bar again learns nothing.

        Raises
        ------
        RequestError
            When the bar is older than the newest, or its bundle is neither in use nor prepared.
        """
        with self._lock:
            before, again = self._state_before(snapshot)
            after, beliefs = learn(before, snapshot, self._settings)
            if not again:
                self._remember(snapshot, before, after)
        return Blended(beliefs, blend(snapshot, beliefs, self._settings), before.digest)

    def _state_before(self, snapshot: Snapshot) -> tuple[LearningState, bool]:
        """What was known before a bar, and whether the bar was learned from already."""
        bar, bundle = snapshot.market.bar, snapshot.forecasts.bundle
        newest = -1 if self._after is None else self._after.bar
        if self._after is not None and bar < newest:
            raise RequestError(
                409, "stale", f"bar {bar} is older than the newest, {newest}", "send later bars"
            )
        if bundle != self._bundle:
            if self._prepared is None or self._prepared[0] != bundle:
                raise RequestError(
                    503,
                    NOT_PREPARED,
                    f"bundle {bundle[:12]} has no record here",
                    "try again in a moment",
                )
            _, before, after = self._prepared
            if before is None or after is None:  # nothing on record that it has not seen
                before, after = self._before, self._after
            begun = after if after is not None and after.bar < bar else before
            return begun if begun is not None else _start(snapshot), False
        if bar == newest:
            return cast(LearningState, self._before), True
        return (self._after if self._after is not None else _start(snapshot)), False

    def _remember(self, snapshot: Snapshot, before: LearningState, after: LearningState) -> None:
        switched = snapshot.forecasts.bundle != self._bundle
        if switched:
            self._prepared = None
        self._bundle, self._before, self._after = snapshot.forecasts.bundle, before, after
        self._since_checkpoint += 1
        due = self._since_checkpoint >= self._settings.serving.checkpoint_bars
        with self._store.transaction():
            if switched:  # the record of another bundle's forecasts does not lead here
                self._store.clear()
                self._put_checkpoint(before)
            self._store.append(snapshot.market.bar, pack_observation(snapshot))
            if due and not switched:
                self._put_checkpoint(before)
        if due:
            self._since_checkpoint = 0
            self._store.prune(2 * self._settings.serving.checkpoint_bars)

    def _put_checkpoint(self, state: LearningState) -> None:
        arrays, facts = to_arrays(state)
        self._store.put(CHECKPOINT, pack(arrays, {"state": facts, "bundle": self._bundle}))


def _start(snapshot: Snapshot) -> LearningState:
    said = snapshot.forecasts
    return LearningState.start(snapshot.market.names, said.horizons, said.families, said.models)


def pack_observation(snapshot: Snapshot) -> bytes:
    """What :func:`~dpa.decision.learning.learn` reads of a snapshot."""
    market, said = snapshot.market, snapshot.forecasts
    arrays = {
        "member": market.member.astype(np.uint8),
        "price": market.price,
        "returns": said.returns,
        "sigma": said.sigma,
    }
    if said.barriers is not None:
        arrays["barriers"] = said.barriers
    facts = {
        "time": int(market.time.value),
        "bar": market.bar,
        "session": market.session,
        "names": list(market.names),
        "bundle": said.bundle,
        "horizons": [[h.minutes, h.bars, h.label] for h in said.horizons],
        "families": list(said.families),
        "models": list(said.models),
        "target": said.target,
        "lag": said.lag,
    }
    return pack({name: np.ascontiguousarray(a) for name, a in arrays.items()}, facts)


def read_observation(payload: bytes) -> Snapshot:
    """The snapshot :func:`pack_observation` wrote; quotes and money are not in it."""
    arrays, facts = unpack(payload)
    names = tuple(facts["names"])
    nothing = np.full(len(names), np.nan)
    time = pd.Timestamp(facts["time"], unit="ns", tz="UTC")
    market = Market(
        time,
        time,
        facts["bar"],
        facts["session"],
        names,
        arrays["member"].astype(bool),
        arrays["price"],
        nothing,
        nothing,
        nothing,
        nothing,
        np.zeros(len(names)),
        np.ones(len(names)),
        float("nan"),
        float("nan"),
    )
    target: Literal["excess", "return"] = facts["target"]
    forecasts = Forecasts(
        facts["bundle"],
        tuple(Horizon(minutes, bars, label) for minutes, bars, label in facts["horizons"]),
        tuple(facts["families"]),
        tuple(facts["models"]),
        arrays["returns"],
        arrays["sigma"],
        arrays.get("barriers"),
        target,
        facts["lag"],
    )
    return Snapshot(market, forecasts)


class ArbiterStage:
    """Costs, and which horizon is traded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def arbitrate(
        self,
        market: Market,
        horizons: tuple[Horizon, ...],
        sigma: Doubles,
        alpha: Doubles,
        reason: Codes,
    ) -> Arbitration:
        """As :func:`dpa.decision.arbitration.arbitrate`."""
        return arbitrate(market, horizons, sigma, alpha, reason, self._settings)


class GateStage:
    """What may be done with each symbol."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def gate(
        self,
        market: Market,
        barriers: Doubles | None,
        prior: Doubles,
        alpha: Doubles,
        arbitration: Arbitration,
    ) -> Gates:
        """As :func:`dpa.decision.gates.gate`."""
        return gate(market, barriers, prior, alpha, arbitration, self._settings)


class SizerStage:
    """Sizes and limits; keeps the state of every account, on disk before the answer leaves.

    Parameters
    ----------
    settings : Settings
    storage : Path
        The accounts are kept in ``<storage>/serving/risk.sqlite``.
    """

    def __init__(self, settings: Settings, storage: Path) -> None:
        self._settings = settings
        self._store = RowStore(storage / "serving" / "risk.sqlite", durable=True)
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        for name in self._store.names(ACCOUNT):
            self._account(name.removeprefix(ACCOUNT))

    def size(
        self,
        market: Market,
        horizons: tuple[Horizon, ...],
        sigma: Doubles,
        alpha: Doubles,
        arbitration: Arbitration,
        gates: Gates,
        sent: tuple[str, ...],
    ) -> Sized:
        """Sizes within the limits.

        Parameters
        ----------
        market, horizons, sigma, alpha, arbitration, gates
            As in :func:`dpa.decision.sizing.size`.
        sent : tuple of str
            Symbols that the request had; `market` holds no shares of the others.

        Raises
        ------
        RequestError
            When the bar is older than the account's newest, or a symbol that the account held
            after its last decision was not sent: nobody knows how much of it is left.
        """
        wanted = size(market, horizons, sigma, alpha, arbitration, gates, self._settings)
        asked = inputs_digest(market, alpha, arbitration, gates, tuple(sorted(sent)))
        with self._lock:
            known = self._account(market.account)
            if market.bar < known.bar:
                raise RequestError(
                    409,
                    "stale",
                    f"bar {market.bar} is older than {known.bar}, the newest of account "
                    f"{market.account}",
                    "send later bars",
                )
            again = market.bar == known.bar and asked == known.asked
            begun = known.before if again else known.after
            _check_sent(begun, market, sent)
            assessed = assess(begun, market, self._settings)
            sizes, risk = limit(market, arbitration, gates, wanted, assessed, self._settings)
            self._keep(_Account(market.bar, begun, risk, asked))
        return Sized(sizes, risk, begun.digest)

    def _account(self, name: str) -> "_Account":
        if name not in self._accounts:
            stored = self._store.get(ACCOUNT + name)
            if stored is None:
                begun = RiskState.start(name)
                self._accounts[name] = _Account(-1, begun, begun, "")
            else:
                self._accounts[name] = _Account.read(name, stored)
        return self._accounts[name]

    def _keep(self, account: "_Account") -> None:
        name = account.after.account
        self._store.put(ACCOUNT + name, account.stored())
        self._accounts[name] = account

    def set_level(self, name: str, action: str, by: str, why: str) -> dict[str, Any]:
        """Halt or resume an account by hand; its state after that."""
        if action not in ("halt", "resume"):
            raise RequestError(404, "not_found", f"action {action!r}", "halt or resume")

        def changed(state: RiskState) -> RiskState:
            return halt(state, f"{by}: {why}") if action == "halt" else resume(state, by, why)

        with self._lock:
            known = self._account(name)
            before, after = changed(known.before), changed(known.after)
            self._keep(replace(known, before=before, after=after))
            return after.to_dict()

    def forget_bars(self) -> None:
        """Take bars of any number again, after the bars on record were replaced.

        Limits and levels stay as they are.
        """
        with self._lock:
            for known in list(self._accounts.values()):
                self._keep(_Account(-1, known.after, known.after, ""))

    def accounts(self) -> Mapping[str, dict[str, Any]]:
        """State of every account there is."""
        with self._lock:
            return {name: known.after.to_dict() for name, known in self._accounts.items()}


@dataclass(frozen=True)
class _Account:
    """An account before and after its newest decision.

    Parameters
    ----------
    bar : int
        Of the decision; -1: none.
    before, after : RiskState
    asked : str
        Digest of what the decision was made from: only the very same is answered from `before`
        again. Anything else of the same bar, such as another NAV, goes on from `after`, so that
        no loss is forgiven and no order forgotten.
    """

    bar: int
    before: RiskState
    after: RiskState
    asked: str

    def stored(self) -> bytes:
        """For :meth:`read`."""
        states = {"before": self.before.to_dict(), "after": self.after.to_dict()}
        return json.dumps({"bar": self.bar, "asked": self.asked, **states}).encode()

    @classmethod
    def read(cls, name: str, stored: bytes) -> "_Account":
        """An account's state; one that cannot be read is halted."""
        try:
            content = json.loads(stored)
            bar, asked = int(content["bar"]), str(content["asked"])
            before, after = content["before"], content["after"]
        except (ValueError, KeyError, TypeError):
            lost = halt(RiskState.start(name), "its state on disk cannot be read")
            return cls(-1, lost, lost, "")
        return cls(bar, RiskState.from_dict(before, name), RiskState.from_dict(after, name), asked)


def _check_sent(state: RiskState, market: Market, sent: tuple[str, ...]) -> None:
    """What was to be held must be sent: left out, it would count as sold."""
    unknown = sorted((set(state.held) & set(market.names)) - set(sent))
    if unknown:
        raise RequestError(
            422,
            "invalid",
            f"account {market.account} was to hold {unknown[0]!r} after its last decision, and "
            f"nothing is said of it ({len(unknown)} such)",
            "send every symbol that may be held, with shares 0 where none are",
            "symbols",
        )


def check_family_names(names: tuple[str, ...], deployed: tuple[str, ...]) -> None:
    """A bundle can only be served by families that are deployed.

    Raises
    ------
    RunError
        Naming the first that is not.
    """
    missing = [name for name in names if name not in deployed]
    if missing:
        raise RunError(
            f"family {missing[0]!r} is not deployed",
            "deploy again with this bundle: 'serve deploy' or a new start",
        )
