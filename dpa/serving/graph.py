"""The graph: predictors -> blender -> arbiter -> gate -> sizer, wherever the stages live.

The same object serves every topology. It reaches stages through `Links`: calls in this process, or
handles of deployments. Stages exchange arrays of the whole universe, never one symbol at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from dpa.clock import Clock
from dpa.config import Settings
from dpa.decision.decision import Decision
from dpa.decision.pipeline import decision_id
from dpa.decision.types import Action, Reason, Snapshot
from dpa.errors import DpaError
from dpa.horizons.bundle import read_bundle_manifest
from dpa.horizons.inference import BundleForecast
from dpa.horizons.kept_bundles import pinned
from dpa.horizons.promotion import find_bundle
from dpa.horizons.types import Forecast
from dpa.market.panel import Panel
from dpa.serving.market_stage import Candidate, MarketStage, Taken
from dpa.serving.meters import Meters
from dpa.serving.stages import (
    ARBITER,
    BLENDER,
    FAMILY,
    GATE,
    MARKET,
    NOT_PREPARED,
    SIZER,
    ArbiterStage,
    Blended,
    BlenderStage,
    FamilyStage,
    GateStage,
    Sized,
    SizerStage,
    check_family_names,
)
from dpa.serving.store import RowStore
from dpa.serving.types import Prediction, Request, RequestError
from dpa.serving.wire import to_json
from dpa.telemetry.ids import about

READY_SECONDS = 1.0  # a stage may take to say that it is there
AGAIN_SECONDS = 30.0  # until a refused bundle is tried again
log = logging.getLogger("dpa.serving")
Answer = TypeVar("Answer")


class Links(Protocol):
    """How stages are reached."""

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families that are deployed."""
        ...

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        """Call a method of a stage; what it raises is raised here."""
        ...


class LocalLinks:
    """Stages in this process, each call in a thread of its own.

    Parameters
    ----------
    stages : mapping of str to stage
        ``market``, ``blender``, ``arbiter``, ``gate``, ``sizer`` and ``family:<name>``.
    """

    def __init__(self, stages: Mapping[str, Any]) -> None:
        self._stages = dict(stages)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families that are there."""
        names = (name for name in self._stages if name.startswith(FAMILY))
        return tuple(name.removeprefix(FAMILY) for name in names)

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        """Call a method of a stage in a thread."""
        return await asyncio.to_thread(getattr(self._stages[stage], method), *arguments)


def local_stages(
    settings: Settings, storage: Path, plugins: tuple[str, ...], market: MarketStage
) -> dict[str, Any]:
    """All stages for :class:`LocalLinks`."""
    families, threads = market.describe()["families"], settings.serving.family_threads
    return {
        MARKET: market,
        BLENDER: BlenderStage(settings, storage),
        ARBITER: ArbiterStage(settings),
        GATE: GateStage(settings),
        SIZER: SizerStage(settings, storage),
        **{FAMILY + name: FamilyStage(name, plugins, storage, threads) for name in families},
    }


def _log(decision: Decision) -> None:
    """A line about a decision, with its ids and the moment it was asked for."""
    market, said = decision.snapshot.market, decision.snapshot.forecasts
    traded = int((decision.sizes.shares != market.shares).sum())
    log.info(
        "decided: %d of %d symbols traded, risk %s, bundle %s",
        traded,
        len(market.names),
        decision.risk.level.name,
        said.bundle[:12],
        extra={
            "account": market.account,
            "bar": market.time,
            "decision_id": decision.id,
            "at": market.moment,
        },
    )


class Graph:
    """The desk that HTTP talks to; see :class:`~dpa.serving.types.Desk`.

    Parameters
    ----------
    links : Links
    settings : Settings
    storage : Path
        Storage of runs, where the promoted bundle is looked up.
    reference : str
        Bundle to serve: ``promoted`` (followed when another is promoted), a folder or a run.
    meters : Meters
    clock : Clock
        Times the stages.
    """

    def __init__(
        self,
        links: Links,
        settings: Settings,
        storage: Path,
        reference: str,
        meters: Meters,
        clock: Clock,
    ) -> None:
        self._links, self._settings, self._storage, self._clock = links, settings, storage, clock
        self._meters, self.reference = meters, reference
        self._store = RowStore(storage / "serving" / "decisions.sqlite", durable=False)
        self._latest: dict[str, Decision] = {}
        self._unsaved: set[str] = set()
        self._newest_account: str | None = None
        self._refused: dict[str, str] | None = None
        self._again_at = 0.0
        self._begun = False
        self._swapping = asyncio.Lock()

    # life

    async def begin(self) -> None:
        """Make the record of the bundle in use, where there is none yet."""
        async with self._swapping:
            if self._begun:
                return
            described = await self._call(MARKET, "describe")
            version, folder = described["fingerprint"], described["folder"]
            for name in described["families"]:
                await self._call(FAMILY + name, "prepare", version, folder)
            if await self._call(BLENDER, "bundle") != version:
                await self._call(
                    BLENDER, "prepare", version, await self._call(MARKET, "past", version)
                )
            self._begun = True

    async def watch(self) -> None:
        """Follow the reference for ever: swap bundles, save the newest decisions."""
        while True:
            try:
                await self.begin()
                await self.follow()
                await asyncio.to_thread(self.save)
                await self._tell_bundle()
            except (DpaError, OSError) as e:
                log.warning("watching %s: %s", self.reference, e)
            except Exception:  # the loop outlives whatever a dead stage raises
                log.exception("watching %s", self.reference)
            await asyncio.sleep(self._settings.serving.watch_seconds)

    async def _tell_bundle(self) -> None:
        described = await self._links.call(MARKET, "describe")
        until = datetime.fromisoformat(described["trained_until"])
        self._meters.bundle(described["version"], until, self._refused is not None)

    async def follow(self) -> bool:
        """Swap to the bundle the reference names now; whether it was another.

        One that does not verify is refused: the old one stays, and :meth:`bundle` says why.
        """
        async with self._swapping:
            try:
                found = await asyncio.to_thread(find_bundle, self.reference, self._storage)
                wanted, folder = read_bundle_manifest(found).fingerprint, pinned(found)
            except DpaError as e:
                self._refuse("", str(e))
                return False
            if wanted == await self._call(MARKET, "version"):
                self._refused = None
                return False
            known = self._refused
            waits = self._clock.elapsed() < self._again_at
            if waits and known is not None and known["bundle"] == folder:
                return False
            try:
                candidate: Candidate = await self._call(MARKET, "load", folder)
                check_family_names(candidate.families, self._links.families)
                await self._prepare(candidate)
            except DpaError as e:
                self._refuse(folder, str(e))
                return False
            await self._call(MARKET, "activate", candidate.model.fingerprint)
            self._refused = None
            log.info("serving bundle %s", candidate.model.fingerprint[:12])
            return True

    async def _prepare(self, candidate: Candidate) -> None:
        model = candidate.model
        for name in candidate.families:
            await self._call(FAMILY + name, "prepare", model.fingerprint, model.folder)
        past = await self._call(MARKET, "past", model.fingerprint)
        await self._call(BLENDER, "prepare", model.fingerprint, past)

    def _refuse(self, folder: str, why: str) -> None:
        known = self._refused
        if known is None or known["reason"] != why:
            log.error("bundle %s refused: %s", folder or self.reference, why)
        self._refused = {"reference": self.reference, "bundle": folder, "reason": why}
        self._again_at = self._clock.elapsed() + AGAIN_SECONDS

    def save(self) -> None:
        """Put the newest decision of every account on disk."""
        for account in list(self._unsaved):
            decision = self._latest[account]
            payload = to_json({"of": account, "decision": decision.to_dict()})
            with self._store.transaction():
                self._store.put(f"latest:{account}", payload)
                if account == self._newest_account:
                    self._store.put("latest", payload)
            if self._latest[account] is decision:
                self._unsaved.discard(account)

    # requests

    async def decide(self, request: Request) -> Decision:
        """See :meth:`dpa.serving.types.Desk.decide`."""
        return await self._timed("decide", self._decide(request))

    async def _decide(self, request: Request) -> Decision:
        await self._check_begun()
        snapshot, _ = await self._forecast(request)
        market, said = snapshot.market, snapshot.forecasts
        blended = await self._blend(snapshot)
        alpha = blended.blend.alpha
        about = (market, said.horizons, said.sigma, alpha)
        arbitration = await self._call(ARBITER, "arbitrate", *about, blended.blend.reason)
        prior = blended.beliefs.barrier_prior
        gates = await self._call(GATE, "gate", market, said.barriers, prior, alpha, arbitration)
        sized: Sized = await self._call(SIZER, "size", *about, arbitration, gates, request.names)
        decision: Decision = Decision(
            decision_id(snapshot, blended.digest, sized.digest, self._settings),
            snapshot,
            blended.beliefs,
            blended.blend,
            arbitration,
            gates,
            sized.sizes,
            sized.risk,
            settings=self._settings,
        ).only(request.names)
        self._latest[market.account] = decision
        self._newest_account = market.account
        self._unsaved.add(market.account)
        self._count(decision)
        _log(decision)
        return decision

    async def _blend(self, snapshot: Snapshot) -> Blended:
        try:
            blended: Blended = await self._call(BLENDER, "blend", snapshot)
        except RequestError as e:
            if e.code == NOT_PREPARED:  # a blender that died between a swap and its first bar
                self._begun = False
            raise
        return blended

    async def predict(self, request: Request) -> Prediction:
        """See :meth:`dpa.serving.types.Desk.predict`."""
        snapshot, said = await self._forecast(request)
        place = {name: number for number, name in enumerate(said.names)}
        columns = [place[name] for name in request.names]
        forecasts = snapshot.forecasts
        chosen = replace(
            forecasts,
            returns=forecasts.returns[..., columns],
            sigma=forecasts.sigma[columns],
            barriers=None if forecasts.barriers is None else forecasts.barriers[:, columns],
            reasons=tuple(forecasts.reasons[k] for k in columns),
        )
        return Prediction(
            said.time,
            request.names,
            chosen,
            said.stacked[:, columns],
            said.confidence[:, columns],
        )

    async def _forecast(self, request: Request) -> tuple[Snapshot, BundleForecast]:
        with about(account=request.account, bar=request.time):
            return await self._forecast_one(request)

    async def _forecast_one(self, request: Request) -> tuple[Snapshot, BundleForecast]:
        taken: Taken = await self._call(MARKET, "take", request)
        model = taken.model
        families = model.combiner.families
        found = await asyncio.gather(*(self._family(name, taken) for name in families))
        answers = {n: f for n, f in zip(families, found, strict=True) if isinstance(f, Forecast)}
        left_out = {n: f for n, f in zip(families, found, strict=True) if isinstance(f, str)}
        said = model.combiner.combine(taken.rows, answers)
        return Snapshot(taken.market, model.forecasts(said, left_out)), said

    async def _family(self, name: str, taken: Taken) -> Forecast | str:
        """What a family says, or why it is left out."""
        allowed = self._settings.serving.family_ms
        model = taken.model
        try:
            answer: Forecast = await asyncio.wait_for(
                self._timed(
                    FAMILY + name,
                    self._links.call(
                        FAMILY + name,
                        "predict",
                        model.fingerprint,
                        model.folder,
                        taken.rows.features,
                    ),
                ),
                allowed / 1e3,
            )
        except TimeoutError:
            self._meters.family(name, ok=False, why="late")
            return f"late: no answer within {allowed:g} ms"
        except Exception as e:  # whatever a family raises, the others go on without it
            log.warning("family %s failed: %s", name, e)
            self._meters.family(name, ok=False, why="failed")
            return f"failed: {type(e).__name__}"
        self._meters.family(name, ok=True)
        return answer

    async def latest(self, account: str | None) -> dict[str, Any] | None:
        """See :meth:`dpa.serving.types.Desk.latest`."""
        wanted = self._newest_account if account is None else account
        if wanted in self._latest:
            return self._latest[wanted].to_dict()
        name = "latest" if account is None else f"latest:{account}"
        stored = await asyncio.to_thread(self._store.get, name)
        return None if stored is None else dict(orjson.loads(stored)["decision"])

    async def latest_id(self, account: str | None) -> str | None:
        """See :meth:`dpa.serving.types.Desk.latest_id`."""
        wanted = self._newest_account if account is None else account
        if wanted in self._latest:
            return self._latest[wanted].id
        found = await self.latest(account)
        return None if found is None else str(found["id"])

    async def bundle(self) -> dict[str, Any]:
        """See :meth:`dpa.serving.types.Desk.bundle`."""
        described, accounts = await asyncio.gather(
            self._call(MARKET, "describe"), self._call(SIZER, "accounts")
        )
        more = {"reference": self.reference, "refused": self._refused, "accounts": accounts}
        return {**described, **more}

    async def ready(self) -> dict[str, Any]:
        """See :meth:`dpa.serving.types.Desk.ready`."""
        asked = {MARKET: "describe", BLENDER: "bundle", SIZER: "accounts"}
        said = await asyncio.gather(*(self._ask(*question) for question in asked.items()))
        stages = dict(zip(asked, said, strict=True))
        if not self._begun and stages[BLENDER] == "ok":
            stages[BLENDER] = "makes the record of the bundle"
        return {"ready": all(word == "ok" for word in stages.values()), "stages": stages}

    async def _ask(self, stage: str, method: str) -> str:
        """Whether a stage answers, in words."""
        try:
            found = await asyncio.wait_for(self._links.call(stage, method), READY_SECONDS)
        except TimeoutError:
            return f"no answer within {READY_SECONDS:g} s"
        except Exception as e:  # a stage that is away, for whatever reason, is not ready
            return f"does not answer ({type(e).__name__})"
        if stage == MARKET and found["newest_bar"] is None:
            return "no bars on record"
        return "ok"

    async def history(self, panel: Panel) -> dict[str, Any]:
        """See :meth:`dpa.serving.types.Desk.history`."""
        async with self._swapping:
            answer: dict[str, Any] = await self._call(MARKET, "replace_history", panel)
            await self._call(BLENDER, "reset")
            await self._call(SIZER, "forget_bars")
            self._begun = False
        await self.begin()
        return answer

    async def risk(self, account: str, action: str, by: str, why: str) -> dict[str, Any]:
        """See :meth:`dpa.serving.types.Desk.risk`."""
        answer: dict[str, Any] = await self._call(SIZER, "set_level", account, action, by, why)
        return answer

    # plumbing

    async def _check_begun(self) -> None:
        if not self._begun:
            raise RequestError(
                503, "not_ready", "the record of the bundle is being made", "try again in a moment"
            )

    async def _call(self, stage: str, method: str, *arguments: Any) -> Any:
        return await self._timed(stage, self._links.call(stage, method, *arguments))

    async def _timed(self, stage: str, answer: Awaitable[Answer]) -> Answer:
        begun = self._clock.elapsed()
        found = await answer
        self._meters.stage(stage, self._clock.elapsed() - begun)
        return found

    def _count(self, decision: Decision) -> None:
        sizes = decision.sizes
        self._meters.decided(
            {r.name.lower(): int((sizes.reason == r).sum()) for r in Reason},
            {a.name.lower(): int((sizes.action == a).sum()) for a in Action},
            decision.risk.level.name.lower(),
        )
