"""The graph in one process against the pure pipeline, and through restarts, swaps and failures."""

import asyncio
import json
import shutil
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest

from dpa.clock import FixedClock
from dpa.decision.decision import Decision
from dpa.decision.pipeline import decide, start_state
from dpa.decision.types import Action, Reason, RiskLevel
from dpa.errors import RunError
from dpa.horizons.bundle import HorizonBundle
from dpa.horizons.inference import start
from dpa.horizons.promotion import promote_bundle
from dpa.serving.graph import FAMILY, Graph, LocalLinks
from dpa.serving.stages import BlenderStage, FamilyStage, SizerStage
from dpa.serving.types import Request, RequestError
from dpa.stores.places import Storage
from dpa.stores.store import Store, StoreAway
from tests.horizons.small_run import CLOCK
from tests.serving.served import (
    BEGUN,
    Bundles,
    make_bundles,
    make_request,
    open_graph,
    served_settings,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Bundles:
    return make_bundles(tmp_path_factory.mktemp("served"))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the bit, NaN equal to itself."""
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    return bool(one == other or (one != one and other != other))


def assert_same(one: Decision, other: Decision) -> None:
    parts = ("id", "snapshot", "beliefs", "blend", "arbitration", "gates", "sizes", "risk")
    assert [name for name in parts if not same(getattr(one, name), getattr(other, name))] == []


def follow(graph: Graph, panel, rows, **changes) -> list[Decision]:
    """Decide bar by bar, positions following the targets."""

    async def run() -> list[Decision]:
        await graph.begin()
        shares, decisions = np.zeros(panel.n_assets), []
        for row in rows:
            request = make_request(panel, row, shares=shares, **changes)
            decisions.append(await graph.decide(request))
            shares = decisions[-1].sizes.shares
        return decisions

    return asyncio.run(run())


ROWS = range(BEGUN, BEGUN + 12)


def test_the_graph_decides_what_the_pure_pipeline_decides(bundles, tmp_path):
    settings = served_settings(serving={"warm_sessions": 0})
    decisions = follow(open_graph(bundles, tmp_path, settings), bundles.panel, ROWS)
    bundle = HorizonBundle.load(bundles.first)
    live = start(bundle, bundles.panel.window(BEGUN - bundle.manifest.tail_bars, BEGUN))
    state = None
    for row, decision in zip(ROWS, decisions, strict=True):
        said = live.update(bundles.panel.window(row, row + 1))
        forecasts = decision.snapshot.forecasts
        assert np.array_equal(said.returns, forecasts.returns, equal_nan=True)
        assert np.array_equal(said.barriers, forecasts.barriers, equal_nan=True)
        state = start_state(decision.snapshot) if state is None else state
        pure = decide(decision.snapshot, state, settings)
        assert_same(replace(pure, state=None), decision)
        state = pure.state


def test_it_trades_both_ways(bundles, tmp_path):
    decisions = follow(open_graph(bundles, tmp_path, served_settings()), bundles.panel, ROWS)
    actions = {Action(a) for decision in decisions for a in decision.sizes.action}
    weights = np.array([decision.sizes.weight for decision in decisions])
    assert Action.ENTER in actions
    assert weights.max() > 0 > weights.min()


def test_the_record_of_unseen_bars_is_made_before_the_first_decision(bundles, tmp_path):
    decision = follow(open_graph(bundles, tmp_path, served_settings()), bundles.panel, ROWS[:1])[0]
    assert np.isfinite(decision.beliefs.ic).all()
    # two sessions of labels of a bar, one short: the first bar's forecast comes first
    seen = decision.beliefs.ic_samples[0]
    assert np.all((seen > 7 * 140) & (seen <= 7 * 156))


def test_the_record_knows_no_future(bundles, tmp_path):
    """What a bundle is said to have forecast does not change when later bars are cut off."""
    settings = served_settings()
    past = {}
    for begun in (BEGUN, BEGUN - 20):
        graph = open_graph(bundles, tmp_path / str(begun), settings, begun=begun)
        market = graph._links._stages["market"]
        past[begun] = {s.market.bar: s for s in market.past(market.version())}
    shared = sorted(past[BEGUN].keys() & past[BEGUN - 20].keys())
    assert len(shared) > 100
    assert len(past[BEGUN]) == len(past[BEGUN - 20]) + 20
    trained = HorizonBundle.load(bundles.first).manifest.trained_until
    for bar in shared:
        whole, cut = past[BEGUN][bar], past[BEGUN - 20][bar]
        assert same(whole, cut)
        assert whole.market.time > trained


def test_the_same_bar_again_is_the_same_decision(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path, served_settings())
    first = follow(graph, bundles.panel, ROWS[:3])
    again = asyncio.run(
        graph.decide(make_request(bundles.panel, ROWS[2], shares=first[1].sizes.shares))
    )
    assert_same(again, first[2])
    without_prices = make_request(bundles.panel, ROWS[2], shares=first[1].sizes.shares, bars={})
    assert_same(asyncio.run(graph.decide(without_prices)), first[2])


def test_another_account_learns_nothing_twice(bundles, tmp_path):
    panel = bundles.panel
    alone = follow(open_graph(bundles, tmp_path / "a", served_settings()), panel, ROWS)
    graph = open_graph(bundles, tmp_path / "b", served_settings())

    async def both() -> list[Decision]:
        await graph.begin()
        shares, found = np.zeros(panel.n_assets), []
        for row in ROWS:
            await graph.decide(make_request(panel, row, account="other", nav_usd=5e5))
            found.append(await graph.decide(make_request(panel, row, shares=shares)))
            shares = found[-1].sizes.shares
        return found

    for one, other in zip(alone, asyncio.run(both()), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_restart_changes_nothing(bundles, tmp_path, stop):
    panel, settings = bundles.panel, served_settings()
    whole = follow(open_graph(bundles, tmp_path / "a", settings), panel, ROWS)
    before = follow(open_graph(bundles, tmp_path / "b", settings), panel, ROWS[:stop])
    shutil.copytree(tmp_path / "b", tmp_path / "c")  # as a killed process leaves it
    graph = open_graph(bundles, tmp_path / "c", settings)

    async def rest() -> list[Decision]:
        await graph.begin()
        shares, found = before[-1].sizes.shares, []
        for row in ROWS[stop:]:
            found.append(await graph.decide(make_request(panel, row, shares=shares)))
            shares = found[-1].sizes.shares
        return found

    for one, other in zip(whole[stop:], asyncio.run(rest()), strict=True):
        assert_same(one, other)


def chosen(request: Request, order: np.ndarray) -> Request:
    """The request for some symbols, in another order."""
    arrays = ("member", "bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot")
    return replace(
        request,
        names=tuple(request.names[k] for k in order),
        bars={name: values[order] for name, values in request.bars.items()},
        **{name: getattr(request, name)[order] for name in arrays},
    )


def test_symbols_in_any_order(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path, served_settings())
    whole = follow(graph, bundles.panel, ROWS[:1])[0]
    order = np.array([5, 2, 7, 0, 1, 6, 4, 3])
    request = chosen(make_request(bundles.panel, ROWS[0]), order)
    found = asyncio.run(graph.decide(request))
    assert found.snapshot.market.names == request.names
    assert found.id == whole.id
    assert_same(found, whole.only(request.names))


def test_some_of_the_symbols(bundles, tmp_path):
    """An account that trades three of the names, once the bar is on record."""
    graph = open_graph(bundles, tmp_path, served_settings())
    whole = follow(graph, bundles.panel, ROWS[:1])[0]
    request = chosen(make_request(bundles.panel, ROWS[0], account="three"), np.array([5, 2, 7]))
    found = asyncio.run(graph.decide(request))
    assert found.snapshot.market.names == request.names
    forecasts = whole.only(request.names).snapshot.forecasts
    assert np.array_equal(found.snapshot.forecasts.returns, forecasts.returns, equal_nan=True)
    assert same(found.beliefs.ic, whole.beliefs.ic)


class FailingLinks(LocalLinks):
    """Families that fail or hang when they are told to."""

    broken: frozenset[str] = frozenset()
    hanging: frozenset[str] = frozenset()

    async def call(self, stage: str, method: str, *arguments: Any) -> Any:
        if method == "predict" and stage.removeprefix(FAMILY) in self.broken:
            raise ValueError("a broken family")
        if method == "predict" and stage.removeprefix(FAMILY) in self.hanging:
            await asyncio.sleep(3600)
        return await super().call(stage, method, *arguments)


@pytest.mark.parametrize(("kind", "words"), [("broken", "failed"), ("hanging", "late")])
def test_a_family_that_fails_or_is_late_is_left_out(bundles, tmp_path, kind, words):
    settings = served_settings(serving={"family_ms": 5000.0})
    graph = open_graph(bundles, tmp_path, settings, FailingLinks)
    follow(graph, bundles.panel, ROWS[:2])
    slow = served_settings(serving={"family_ms": 300.0})
    graph._settings = slow if kind == "hanging" else settings
    setattr(graph._links, kind, frozenset({"gbdt"}))
    decision = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[2])))
    said = decision.snapshot.forecasts
    assert list(said.left_out) == ["gbdt"]
    assert said.left_out["gbdt"].startswith(words)
    assert np.isnan(said.returns[:, 1]).all()
    assert np.isfinite(decision.blend.alpha).any()
    assert (decision.blend.weights[:, 1] == 0).all()
    assert (np.isclose(decision.blend.weights[:, 0], 1) | (decision.blend.merit[:, 0] <= 0)).all()


def test_without_a_family_nothing_new_is_traded(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path, served_settings(), FailingLinks)
    before = follow(graph, bundles.panel, ROWS[:6])[-1]
    graph._links.broken = frozenset({"ridge", "gbdt"})
    held = before.sizes.shares
    decision = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[6], shares=held)))
    assert np.isnan(decision.blend.alpha).all()
    assert (decision.sizes.shares == held).all()
    assert (decision.sizes.reason == Reason.NO_FAMILY).all()


@pytest.mark.parametrize("family", ["ridge", "gbdt"])
def test_rows_divided_among_threads_have_the_same_bits(bundles, tmp_path, family):
    bundle = HorizonBundle.load(bundles.first)
    n_features = len(bundle.schema.features)
    features = np.random.default_rng(0).normal(size=(501, n_features)).astype(np.float32)
    manifest = bundle.manifest
    stage = FamilyStage(family, (), tmp_path, threads=3)
    found = stage.predict(manifest.fingerprint, str(bundles.first), features)
    whole = bundle.families[family].predict(features)
    assert np.array_equal(found.returns, whole.returns)
    assert same(found.barriers, whole.barriers)
    few = stage.predict(manifest.fingerprint, str(bundles.first), features[:7])
    assert np.array_equal(few.returns, whole.returns[:7])


class TestSwap:
    def test_a_promoted_bundle_is_served_from_the_next_bar_on(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        old = follow(graph, bundles.panel, ROWS[:2])[-1]
        promote_bundle(bundles.second, tmp_path, CLOCK, "hand")
        assert asyncio.run(graph.follow())
        new = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[2])))
        second = HorizonBundle.load(bundles.second).manifest.fingerprint
        assert old.snapshot.forecasts.bundle != new.snapshot.forecasts.bundle == second
        assert asyncio.run(graph.bundle())["fingerprint"] == second
        assert np.isfinite(new.beliefs.ic).all()  # its record was made before
        assert not asyncio.run(graph.follow())

    def test_the_same_bar_under_another_bundle(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        follow(graph, bundles.panel, ROWS[:2])
        promote_bundle(bundles.second, tmp_path, CLOCK, "hand")
        asyncio.run(graph.follow())
        again = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[1])))
        assert np.isfinite(again.beliefs.ic).all()
        later = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[2])))
        assert np.isfinite(later.beliefs.ic).all()
        assert (later.beliefs.ic_samples > again.beliefs.ic_samples).any()

    def test_a_restart_serves_the_new_one(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path / "a", served_settings())
        follow(graph, bundles.panel, ROWS[:2])
        promote_bundle(bundles.second, tmp_path / "a", CLOCK, "hand")
        asyncio.run(graph.follow())
        whole = follow(graph, bundles.panel, ROWS[2:5])
        # up to there again, then a copy as a killed process leaves it
        graph = open_graph(bundles, tmp_path / "b", served_settings())
        follow(graph, bundles.panel, ROWS[:2])
        promote_bundle(bundles.second, tmp_path / "b", CLOCK, "hand")
        asyncio.run(graph.follow())
        before = follow(graph, bundles.panel, ROWS[2:4])[-1]
        shutil.copytree(tmp_path / "b", tmp_path / "c")
        graph = open_graph(bundles, tmp_path / "c", served_settings())
        asyncio.run(graph.begin())
        request = make_request(bundles.panel, ROWS[4], shares=before.sizes.shares)
        assert_same(asyncio.run(graph.decide(request)), whole[2])

    def test_a_damaged_bundle_is_refused_and_the_old_one_serves(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        follow(graph, bundles.panel, ROWS[:1])
        copy = tmp_path / "copy"
        shutil.copytree(bundles.second, copy)
        promote_bundle(copy, tmp_path, CLOCK, "hand")
        target = copy / "stacker.safetensors"
        target.write_bytes(target.read_bytes()[:-1] + b"x")
        assert not asyncio.run(graph.follow())
        described = asyncio.run(graph.bundle())
        assert "was altered" in described["refused"]["reason"]
        assert described["version"] == HorizonBundle.load(bundles.first).manifest.short
        assert asyncio.run(graph.decide(make_request(bundles.panel, ROWS[1]))).id
        promote_bundle(bundles.second, tmp_path, CLOCK, "hand")
        assert asyncio.run(graph.follow())
        assert asyncio.run(graph.bundle())["refused"] is None


class TestStore:
    """Bundles that lie in a store, on a real S3 server."""

    def test_it_is_served_followed_and_outlives_the_store(
        self, bundles, tmp_path, bucket, monkeypatch
    ):
        settings, panel, store = served_settings(), bundles.panel, Storage.of(bucket.uri)
        plain = follow(open_graph(bundles, tmp_path / "plain", settings), panel, ROWS[:2])
        promote_bundle(bundles.first, store, CLOCK, "hand")
        place = tmp_path / "storage"
        graph = open_graph(bundles, place, settings, reference=bucket.uri)
        for found, wanted in zip(follow(graph, panel, ROWS[:2]), plain, strict=True):
            assert_same(found, wanted)
        assert not asyncio.run(graph.follow())
        promote_bundle(bundles.second, store, CLOCK, "hand")
        assert asyncio.run(graph.follow())
        second = HorizonBundle.load(bundles.second).manifest.fingerprint
        monkeypatch.setattr(Store, "get", store_is_away)
        assert not asyncio.run(graph.follow())
        described = asyncio.run(graph.bundle())
        assert "gone" in described["refused"]["reason"]
        assert described["fingerprint"] == second
        shutil.copytree(place, tmp_path / "restarted")
        again = open_graph(bundles, tmp_path / "restarted", settings, reference=bucket.uri)
        assert asyncio.run(again.bundle())["fingerprint"] == second

    def test_a_family_on_another_node_fetches_its_own(self, bundles, tmp_path, bucket, monkeypatch):
        promote_bundle(bundles.first, Storage.of(bucket.uri), CLOCK, "hand")
        graph = open_graph(bundles, tmp_path / "a", served_settings(), reference=bucket.uri)
        described = asyncio.run(graph.bundle())
        monkeypatch.setenv("DPA_CACHE", str(tmp_path / "another"))
        stage = FamilyStage("ridge", (), tmp_path / "b")
        fingerprint, folder = described["fingerprint"], described["folder"]
        assert stage.prepare(fingerprint, folder) == fingerprint
        assert folder.startswith("s3://")

    def test_what_is_cut_short_there_is_refused_and_the_old_one_serves(
        self, bundles, tmp_path, bucket
    ):
        store = Storage.of(bucket.uri)
        promote_bundle(bundles.first, store, CLOCK, "hand")
        graph = open_graph(bundles, tmp_path, served_settings(), reference=bucket.uri)
        follow(graph, bundles.panel, ROWS[:1])
        promote_bundle(bundles.second, store, CLOCK, "hand")
        for key in bucket.store.sizes("bundles"):
            if key.endswith("stacker.safetensors"):
                bucket.store.put(key, b"")
        assert not asyncio.run(graph.follow())
        described = asyncio.run(graph.bundle())
        assert "was altered or cut short" in described["refused"]["reason"]
        assert described["version"] == HorizonBundle.load(bundles.first).manifest.short


def store_is_away(store: Store, key: str) -> bytes:
    raise StoreAway("gone")


def test_a_held_symbol_that_is_not_sent_is_not_taken_for_sold(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path, served_settings())
    decision = follow(graph, bundles.panel, ROWS[:6])[-1]
    held = np.flatnonzero(decision.sizes.shares)
    assert len(held)
    request = make_request(bundles.panel, ROWS[6], shares=decision.sizes.shares)
    asyncio.run(graph.decide(replace(request, account="another", shares=np.zeros(8))))
    others = chosen(request, np.setdiff1d(np.arange(8), held[:1]))
    with pytest.raises(RequestError, match="nothing is said of it") as e:
        asyncio.run(graph.decide(others))
    assert (e.value.status, e.value.field) == (422, "symbols")
    assert asyncio.run(graph.decide(request)).id


class TestTheSameBarAgain:
    """Only the very same request is answered from the same past."""

    @pytest.fixture
    def graph(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        follow(graph, bundles.panel, ROWS[:2])
        return graph

    def ask(self, graph, bundles, **changes):
        return asyncio.run(graph.decide(make_request(bundles.panel, ROWS[2], **changes)))

    @pytest.mark.parametrize(("lost", "regained"), [(0.85e6, 0.95e6), (0.975e6, 0.999e6)])
    def test_no_loss_is_forgiven(self, graph, bundles, lost, regained):
        assert self.ask(graph, bundles, nav_usd=lost).risk.level == RiskLevel.FLATTEN
        assert self.ask(graph, bundles, nav_usd=regained).risk.level == RiskLevel.FLATTEN
        again = make_request(bundles.panel, ROWS[3], nav_usd=regained)
        assert asyncio.run(graph.decide(again)).risk.level == RiskLevel.FLATTEN

    def test_no_order_is_forgotten(self, bundles, tmp_path):
        settings = served_settings(risk={"max_orders_per_minute": 2})
        graph = open_graph(bundles, tmp_path, settings)
        follow(graph, bundles.panel, ROWS[:2], account="other")
        added = 0
        for second in range(4):
            moment = bundles.panel.times[ROWS[2]] + pd.Timedelta(second, "s")
            decision = self.ask(graph, bundles, moment=moment)
            added += int((decision.sizes.action == Action.ENTER).sum())
        assert added == 2

    def test_membership_is_the_requests_own(self, graph, bundles):
        free = self.ask(graph, bundles)
        assert (free.sizes.action == Action.ENTER).any()
        none = np.zeros(8, dtype=bool)
        restricted = self.ask(graph, bundles, account="restricted", member=none)
        assert (restricted.sizes.shares == 0).all()
        assert (restricted.sizes.reason == Reason.NOT_A_MEMBER).all()

    def test_a_new_bar_has_every_symbol(self, graph, bundles):
        request = chosen(make_request(bundles.panel, ROWS[2]), np.array([0]))
        with pytest.raises(RequestError, match="nothing is said of 'N1'") as e:
            asyncio.run(graph.predict(request))
        assert e.value.status == 409
        assert self.ask(graph, bundles).id

    def test_a_missing_print_closes_nothing(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        held = follow(graph, bundles.panel, ROWS[:6])[-1].sizes.shares
        thin = int(np.flatnonzero(held)[0])
        request = make_request(bundles.panel, ROWS[6], shares=held)
        bars = {name: values.copy() for name, values in request.bars.items()}
        for values in bars.values():
            values[thin] = np.nan
        decision = asyncio.run(graph.decide(replace(request, bars=bars)))
        assert decision.sizes.shares[thin] == held[thin]
        assert decision.sizes.reason[thin] == Reason.NO_FORECAST


class TestHalfWay:
    """What fails while a bar is taken in leaves no bar half taken."""

    def test_a_full_disk(self, bundles, tmp_path, monkeypatch):
        panel, settings = bundles.panel, served_settings()
        whole = follow(open_graph(bundles, tmp_path / "a", settings), panel, ROWS[:4])
        graph = open_graph(bundles, tmp_path / "b", settings)
        before = follow(graph, panel, ROWS[:2])[-1]
        market = graph._links._stages["market"]
        request = make_request(panel, ROWS[2], shares=before.sizes.shares)
        with monkeypatch.context() as patch:
            patch.setattr(market._store, "append", _raise(RunError("the disk is full")))
            with pytest.raises(RunError, match="full"):
                asyncio.run(graph.decide(request))
        assert_same(asyncio.run(graph.decide(request)), whole[2])

    def test_features_that_fail(self, bundles, tmp_path, monkeypatch):
        panel, settings = bundles.panel, served_settings()
        whole = follow(open_graph(bundles, tmp_path / "a", settings), panel, ROWS[:4])
        graph = open_graph(bundles, tmp_path / "b", settings)
        before = follow(graph, panel, ROWS[:2])[-1]
        market = graph._links._stages["market"]
        request = make_request(panel, ROWS[2], shares=before.sizes.shares)
        with monkeypatch.context() as patch:
            patch.setattr(market._served.live, "rows", _raise(ValueError("a feature")))
            with pytest.raises(ValueError, match="a feature"):
                asyncio.run(graph.decide(request))
        found = asyncio.run(graph.decide(replace(request, bars={})))
        assert_same(found, whole[2])

    def test_a_history_that_cannot_be_written(self, bundles, tmp_path, monkeypatch):
        panel = bundles.panel
        graph = open_graph(bundles, tmp_path, served_settings())
        follow(graph, panel, ROWS[:2])
        market = graph._links._stages["market"]
        with monkeypatch.context() as patch:
            patch.setattr(market._store, "append", _raise(RunError("the disk is full")))
            with pytest.raises(RunError, match="full"):
                asyncio.run(graph.history(panel.window(0, BEGUN - 10)))
        assert asyncio.run(graph.decide(make_request(panel, ROWS[2]))).id

    def test_a_watcher_with_a_full_disk_goes_on(self, bundles, tmp_path, monkeypatch):
        graph = open_graph(bundles, tmp_path, served_settings())
        decision = follow(graph, bundles.panel, ROWS[:1])[0]
        with monkeypatch.context() as patch:
            patch.setattr(graph._store, "put", _raise(RunError("the disk is full")))
            with pytest.raises(RunError):
                graph.save()
        graph.save()
        assert orjson.loads(graph._store.get("latest"))["decision"]["id"] == decision.id


def _raise(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_history_of_another_decade_is_refused_and_numbers_stay(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path, served_settings())
    before = follow(graph, bundles.panel, ROWS[:1])[0].snapshot.market
    asyncio.run(graph.history(bundles.panel.window(78, BEGUN - 1)))
    after = asyncio.run(graph.decide(make_request(bundles.panel, BEGUN - 1))).snapshot.market
    assert (after.bar, after.session) == (before.bar - 1, before.session - 1)
    market = graph._links._stages["market"]
    with pytest.raises(RequestError, match="numbers of bars at"):
        market._keep_anchor(pd.Timestamp("1999-01-04 15:00", tz="UTC"))


class TestRefusals:
    @pytest.fixture
    def graph(self, bundles, tmp_path):
        graph = open_graph(bundles, tmp_path, served_settings())
        follow(graph, bundles.panel, ROWS[:2])
        return graph

    @pytest.mark.parametrize(
        ("row", "changes", "status", "words"),
        [
            (
                ROWS[3] + 78,
                {"moment": None, "time": pd.Timestamp("2026-01-05 15:00", tz="UTC")},
                422,
                "not closed yet",
            ),
            (ROWS[0], {}, 409, "older than the newest"),
            (ROWS[3], {"bars": {}}, 409, "not on record yet"),
            (ROWS[3], {"bars": {"close": np.ones(8)}}, 422, "features need"),
        ],
    )
    def test_bars(self, graph, bundles, row, changes, status, words):
        with pytest.raises(RequestError, match=words) as e:
            asyncio.run(graph.decide(make_request(bundles.panel, row, **changes)))
        assert e.value.status == status
        assert asyncio.run(graph.decide(make_request(bundles.panel, ROWS[2]))).id

    def test_a_bar_that_is_no_bar(self, graph, bundles):
        request = make_request(bundles.panel, ROWS[2])
        odd = replace(request, time=request.time + pd.Timedelta(1, "min"), moment=None)
        with pytest.raises(RequestError) as e:
            asyncio.run(graph.decide(odd))
        assert (e.value.status, e.value.field) == (422, "time")

    def test_other_prices_for_the_same_bar(self, graph, bundles):
        request = make_request(bundles.panel, ROWS[1])
        bars = {**request.bars, "high": request.bars["high"] * 1.01}
        with pytest.raises(RequestError, match=r"high .* differs") as e:
            asyncio.run(graph.decide(replace(request, bars=bars)))
        assert (e.value.status, e.value.field) == (409, "symbols[0].high")

    def test_a_symbol_not_on_record(self, graph, bundles):
        request = make_request(bundles.panel, ROWS[2])
        names = (*request.names[:3], "WHO", *request.names[4:])
        with pytest.raises(RequestError, match="'WHO' is not on record") as e:
            asyncio.run(graph.decide(replace(request, names=names)))
        assert e.value.field == "symbols[3].symbol"


def test_a_halted_account_is_halted_after_a_restart_until_a_person_resumes(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path / "a", served_settings())
    decision = follow(graph, bundles.panel, ROWS[:6])[-1]
    asyncio.run(graph.risk("default", "halt", "ann", "odd fills"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    graph = open_graph(bundles, tmp_path / "b", served_settings())
    asyncio.run(graph.begin())
    held = decision.sizes.shares
    halted = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[6], shares=held)))
    assert (halted.sizes.shares == held).all()
    assert (halted.sizes.reason == Reason.RISK_HALTED).any()
    assert "ann" in halted.risk.why
    asyncio.run(graph.risk("default", "resume", "ann", "checked"))
    again = asyncio.run(graph.decide(make_request(bundles.panel, ROWS[7], shares=held)))
    assert (again.sizes.reason != Reason.RISK_HALTED).all()


def test_an_account_that_cannot_be_read_is_halted(bundles, tmp_path):
    settings = served_settings()
    stage = SizerStage(settings, tmp_path)
    stage._store.put("account:default", b"{not json")
    assert stage._account("default").after.level.name == "HALTED"


def test_history_replaced(bundles, tmp_path):
    panel = bundles.panel
    graph = open_graph(bundles, tmp_path, served_settings())
    follow(graph, panel, ROWS[:3])
    answer = asyncio.run(graph.history(panel.window(0, BEGUN - 10)))
    assert answer["last"] == panel.times[BEGUN - 11].isoformat()
    assert asyncio.run(graph.decide(make_request(panel, BEGUN - 10))).id
    with pytest.raises(RequestError, match="too short"):
        asyncio.run(graph.history(panel.window(0, 20)))


def test_the_newest_decision_is_kept(bundles, tmp_path):
    graph = open_graph(bundles, tmp_path / "a", served_settings())
    decision = follow(graph, bundles.panel, ROWS[:1])[0]
    assert asyncio.run(graph.latest("default"))["id"] == decision.id
    assert asyncio.run(graph.latest("nobody")) is None
    graph.save()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    stored = asyncio.run(open_graph(bundles, tmp_path / "b", served_settings()).latest(None))
    assert stored["id"] == decision.id
    json.dumps(stored)


def test_not_ready_without_bars(bundles, tmp_path):
    from dpa.serving.market_stage import MarketStage

    promote_bundle(bundles.first, tmp_path, CLOCK, "hand")
    clock = FixedClock(bundles.panel.times[0].to_pydatetime())
    stage = MarketStage(served_settings(), tmp_path, "promoted", (), clock)
    with pytest.raises(RequestError, match="no bars are on record"):
        stage.take(make_request(bundles.panel, BEGUN))
    with pytest.raises(RunError):
        MarketStage(served_settings(), tmp_path / "other", "promoted", (), clock)


def test_what_was_learned_survives_any_kill_of_the_blender(bundles, tmp_path):
    """Restored from a checkpoint and the rows after it, to the bit."""
    settings = served_settings()
    graph = open_graph(bundles, tmp_path, settings)
    follow(graph, bundles.panel, ROWS)
    blender = graph._links._stages["blender"]
    shutil.copytree(tmp_path / "serving", tmp_path / "copy" / "serving")
    restored = BlenderStage(settings, tmp_path / "copy")
    assert restored._after.digest == blender._after.digest
    assert restored._before.digest == blender._before.digest
    assert same(restored._after, blender._after)


def test_threads_do_not_mix(bundles, tmp_path):
    """Many at once, of two accounts: each answer is the one it gets alone."""
    panel = bundles.panel
    graph = open_graph(bundles, tmp_path, served_settings())
    follow(graph, panel, ROWS[:2])

    async def many() -> list[Decision]:
        requests = [
            make_request(panel, ROWS[2], account=f"a{k % 2}", nav_usd=1e6 * (1 + k % 2))
            for k in range(12)
        ]
        return await asyncio.gather(*(graph.decide(request) for request in requests))

    found = asyncio.run(many())
    assert len({decision.id for decision in found[::2]}) == 1
    assert len({decision.id for decision in found[1::2]}) == 1
    assert found[0].id != found[1].id
