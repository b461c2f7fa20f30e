"""The stages behind the market stage, as plain objects: in one process or each in its own.

The two that remember (blender, sizer) keep what they knew before their newest bar beside what they
know after it. So the same bar may come again, after a lost answer or for another account, and is
answered from the same past; and nothing is learned twice.
"""

import contextlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd

from dpa.config import Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.blending import blend
from dpa.decision.gates import gate
from dpa.decision.learning import LearningState, from_arrays, learn, to_arrays
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


class FamilyStage:
    """One family of models; the bundles it has been asked for last are kept loaded.

    Parameters
    ----------
    name : str
    plugins : tuple of str
    storage : Path
        Where the bundle in use is named, so that a family started anew has it loaded.
    """

    def __init__(self, name: str, plugins: tuple[str, ...], storage: Path) -> None:
        self.name, self._plugins = name, plugins
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
        return self._family(fingerprint, folder).predict(features)

    def _family(self, fingerprint: str, folder: str) -> "Family":
        from dpa.horizons.bundle import HorizonBundle

        with self._lock:
            if fingerprint not in self._loaded:
                family = HorizonBundle.load_family(Path(folder), self.name, self._plugins)
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
        self._prepared: tuple[str, LearningState, LearningState] | None = None
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
        if past:
            before = after = _start(past[0])
            for snapshot in past:
                before = after
                after, _ = learn(before, snapshot, self._settings)
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
            When the bar is older than the newest.
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
            begun = self._after if bar > newest else self._before
            if self._prepared is not None and self._prepared[0] == bundle:
                _, before, after = self._prepared
                begun = after if after.bar < bar else before
            return begun if begun is not None else _start(snapshot), False
        if bar == newest:
            return cast(LearningState, self._before), True
        return (self._after if self._after is not None else _start(snapshot)), False

    def _remember(self, snapshot: Snapshot, before: LearningState, after: LearningState) -> None:
        switched = snapshot.forecasts.bundle != self._bundle
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
        self._accounts: dict[str, tuple[int, RiskState, RiskState]] = {}
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
        with self._lock:
            newest, before, after = self._account(market.account)
            if market.bar < newest:
                raise RequestError(
                    409,
                    "stale",
                    f"bar {market.bar} is older than {newest}, the newest of account "
                    f"{market.account}",
                    "send later bars",
                )
            begun = before if market.bar == newest else after
            unknown = sorted(set(begun.held) - set(sent))
            if unknown:
                raise RequestError(
                    422,
                    "invalid",
                    f"account {market.account} was to hold {unknown[0]!r} after its last "
                    f"decision, and nothing is said of it ({len(unknown)} such)",
                    "send every symbol that may be held, with shares 0 where none are",
                    "symbols",
                )
            assessed = assess(begun, market, self._settings)
            sizes, risk = limit(market, arbitration, gates, wanted, assessed, self._settings)
            self._keep(market.account, market.bar, begun, risk)
        return Sized(sizes, risk, begun.digest)

    def _account(self, name: str) -> tuple[int, RiskState, RiskState]:
        if name not in self._accounts:
            stored = self._store.get(ACCOUNT + name)
            if stored is None:
                begun = RiskState.start(name)
                self._accounts[name] = -1, begun, begun
            else:
                self._accounts[name] = _read_account(name, stored)
        return self._accounts[name]

    def _keep(self, name: str, bar: int, before: RiskState, after: RiskState) -> None:
        content = {"bar": bar, "before": before.to_dict(), "after": after.to_dict()}
        self._store.put(ACCOUNT + name, json.dumps(content).encode())
        self._accounts[name] = bar, before, after

    def set_level(self, name: str, action: str, by: str, why: str) -> dict[str, Any]:
        """Halt or resume an account by hand; its state after that."""
        with self._lock:
            bar, before, after = self._account(name)
            if action == "halt":
                before, after = halt(before, f"{by}: {why}"), halt(after, f"{by}: {why}")
            elif action == "resume":
                before, after = resume(before, by, why), resume(after, by, why)
            else:
                raise RequestError(404, "not_found", f"action {action!r}", "halt or resume")
            self._keep(name, bar, before, after)
            return after.to_dict()

    def forget_bars(self) -> None:
        """Take bars of any number again, after the bars on record were replaced.

        Limits and levels stay as they are.
        """
        with self._lock:
            for name, (_, _, after) in list(self._accounts.items()):
                self._keep(name, -1, after, after)

    def accounts(self) -> Mapping[str, dict[str, Any]]:
        """State of every account there is."""
        with self._lock:
            return {name: after.to_dict() for name, (_, _, after) in self._accounts.items()}


def _read_account(name: str, stored: bytes) -> tuple[int, RiskState, RiskState]:
    """An account's state; one that cannot be read is halted."""
    try:
        content = json.loads(stored)
        bar = int(content["bar"])
        before, after = content["before"], content["after"]
    except (ValueError, KeyError, TypeError):
        lost = halt(RiskState.start(name), "its state on disk cannot be read")
        return -1, lost, lost
    return bar, RiskState.from_dict(before, name), RiskState.from_dict(after, name)


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
