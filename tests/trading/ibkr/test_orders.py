"""Orders on a real socket: what is sent, what is heard, and what never ends an order."""

from decimal import Decimal

import pytest

from dpa.errors import HaltError, TransientError
from dpa.trading.broker import Notice, OrderSaid
from dpa.trading.types import Commission, Execution, OrderState, Side, Style
from tests.trading.ibkr.rig import VERSIONS, codes, rig, run

WORKING, CANCELLED, FILLED, REJECTED, UNKNOWN = (
    OrderState.WORKING,
    OrderState.CANCELLED,
    OrderState.FILLED,
    OrderState.REJECTED,
    OrderState.UNKNOWN,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_order_is_placed_changed_filled_and_cancelled_on_every_server_version(
    version: int,
) -> None:
    async def scenario() -> None:
        async with rig(version) as r:
            assert r.broker.client.server_version == version
            resting = await r.place(away=True)
            assert r.states(resting) == [WORKING]
            assert resting.intent.limit is not None
            higher = resting.intent.limit + Decimal("0.05")
            await r.broker.modify(resting, higher)
            await r.settle()
            (at_venue,) = r.truth(resting)
            assert at_venue.limit == higher
            assert (at_venue.tif, at_venue.account) == ("DAY", r.broker.account)
            assert at_venue.fields["outsideRth"] == "0"
            await r.broker.cancel(resting)
            await r.settle()
            assert r.states(resting) == [WORKING, CANCELLED]
            taken = await r.place(shares=100)
            assert r.states(taken)[-1] is FILLED
            (fill,) = r.heard(Execution)
            assert (fill.ref, fill.shares, fill.account) == (taken.ref, 100, r.broker.account)
            assert fill.time == r.clock.now().replace(microsecond=0)
            await r.advance()
            (fee,) = r.heard(Commission)
            assert fee.exec_id == fill.exec_id
            assert fee.amount > 0
            assert r.held() == 100

    run(scenario)


@pytest.mark.parametrize(
    ("style", "kind"), [(Style.MARKET, "MKT"), (Style.ADAPTIVE, "LMT"), (Style.CLOSE, "MOC")]
)
def test_styles_are_plain_order_types(style: Style, kind: str) -> None:
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(style=style, away=True)
            (at_venue,) = r.truth(order)
            assert at_venue.order_type == kind
            assert (at_venue.limit is None) == (kind != "LMT")

    run(scenario)


@pytest.mark.parametrize("code", [10349, 161, 10148, 399])
def test_an_error_code_does_not_end_an_order_that_works(code: int) -> None:  # fault 3
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(away=True)
            r.fault(do="false_cancel", code=code, message="so it says")
            await r.settle()
            assert code in codes(r.events)
            assert not any(word.state.is_final for word in r.said(order))
            assert len(r.truth(order)) == 1
            snapshot = await r.broker.snapshot()
            assert [word.ref for word in snapshot.open_orders] == [order.ref]
            assert snapshot.open_orders[0].state is WORKING

    run(scenario)


def test_a_fill_before_the_cancels_answer_is_heard() -> None:  # fault 4
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="slow_cancel", cancel_seconds=30)
            order = await r.place(away=True)
            await r.broker.cancel(order)
            await r.settle()
            far = r.order().limit
            assert far is not None
            await r.broker.modify(order, far)
            await r.settle()
            for _ in range(20):
                await r.advance()
                if r.truth(order)[0].done:
                    break
            assert r.held() == r.filled()

    run(scenario)


def test_partial_fills_then_a_cancel_add_up() -> None:  # fault 5
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="sizes", size=100)
            order = await r.place(shares=1000)
            await r.advance(2)
            await r.broker.cancel(order)
            await r.settle()
            await r.advance()
            assert r.states(order)[-1] is CANCELLED
            fills = r.fills().values()
            shares = sum(f.shares for f in fills)
            assert 0 < shares < 1000
            assert shares == r.held() == r.said(order)[-1].filled
            value = sum((f.shares * f.price for f in fills), Decimal(0))
            assert abs(value / shares - r.truth(order)[0].average_price) < Decimal("1e-9")

    run(scenario)


@pytest.mark.parametrize("mischief", ["duplicate", "reorder"])
def test_repeated_and_reordered_words_leave_the_same_fills(mischief: str) -> None:  # fault 6
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do=mischief)
            r.fault(do="sizes", size=100)
            order = await r.place(shares=300)
            await r.advance(4)
            assert r.filled() == r.held() > 0
            heard = r.heard(Execution)
            assert {f.ref for f in heard} == {order.ref}
            if mischief == "duplicate":
                assert len(heard) > len({f.exec_id for f in heard})

    run(scenario)


def test_a_word_of_an_order_never_heard_of_is_kept_until_its_order_comes() -> None:  # fault 6
    async def scenario() -> None:
        async with rig() as r:
            word = (777, r.broker.client.client_id, 9, "Submitted", 10.0, 90.0, "")
            r.broker.order_status(*word)
            (said,) = [w for w in r.heard(OrderSaid) if w.order_id == 777]
            assert (said.ref, said.filled, said.state) == ("", 10, WORKING)

    run(scenario)


def test_a_corrected_fill_comes_with_the_same_stem_and_a_higher_revision() -> None:  # fault 7
    async def scenario() -> None:
        async with rig() as r:
            await r.place(shares=100)
            (first,) = r.heard(Execution)
            r.fault(do="correct", price_change="0.5")
            await r.settle()
            second = r.heard(Execution)[-1]
            assert second.stem == first.stem
            assert second.revision == first.revision + 1
            assert second.price == first.price + Decimal("0.5")
            r.fault(do="bust")
            await r.settle()
            assert r.filled() == r.held() == 0
            snapshot = await r.broker.snapshot()
            assert len(snapshot.executions) == 3

    run(scenario)


@pytest.mark.parametrize("how", ["late", "never", "early"])
def test_a_position_moves_with_the_fill_whenever_its_fee_comes(how: str) -> None:  # fault 8
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="commission", how=how, late_seconds=3600)
            await r.place(shares=100)
            assert r.filled() == r.held() == 100
            kinds = [type(e) for e in r.events if isinstance(e, Execution | Commission)]
            expected = {"early": [Commission, Execution]}.get(how, [Execution])
            assert kinds[:2] == expected

    run(scenario)


@pytest.mark.parametrize("code", [201, 203, 460, 110, 10289])
def test_a_refused_order_ends_with_its_reason(code: int) -> None:  # fault 9
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="reject", code=code, message="not this one")
            order = await r.place(shares=100)
            last = r.said(order)[-1]
            assert (last.state, last.code, last.message) == (REJECTED, code, "not this one")
            assert r.held() == 0

    run(scenario)


@pytest.mark.parametrize("code", [201, 110])
def test_a_refused_change_leaves_the_order_working(code: int) -> None:
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(away=True)
            r.fault(do="false_cancel", code=code, message="no such change")
            await r.settle()
            assert r.said(order)[-1].state is UNKNOWN
            snapshot = await r.broker.snapshot()
            assert snapshot.open_orders[0].state is WORKING
            await r.broker.cancel(order)
            await r.settle()
            assert r.said(order)[-1].state is CANCELLED

    run(scenario)


def test_an_order_that_never_arrived_is_in_no_list() -> None:  # fault 2
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="lose", what="order")
            order = await r.place(away=True)
            assert r.said(order) == []
            snapshot = await r.broker.snapshot()
            assert snapshot.complete
            refs = {w.ref for w in snapshot.open_orders + snapshot.completed_orders}
            assert order.ref not in refs | {e.ref for e in snapshot.executions}
            again = await r.place(away=True)
            assert again.order_id > order.order_id

    run(scenario)


def test_an_order_nobody_was_told_of_is_found_by_asking() -> None:  # fault 2
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="hide")
            order = await r.place(shares=100)
            assert r.said(order) == []
            snapshot = await r.broker.snapshot()
            (done,) = [w for w in snapshot.completed_orders if w.ref == order.ref]
            assert (done.state, done.filled) == (FILLED, 100)
            assert [e.ref for e in snapshot.executions] == [order.ref]

    run(scenario)


def test_a_number_that_was_used_is_refused_and_the_order_with_it_lives() -> None:  # fault 18
    async def scenario() -> None:
        async with rig() as r:
            first = await r.place(away=True)
            await r.broker.cancel(first)
            await r.settle()
            second = await r.place(away=True, number=first.order_id)
            assert not r.truth(second)
            assert {103, 104} & set(codes(r.events))
            third = await r.place(away=True)
            assert third.order_id > first.order_id
            assert r.states(third) == [WORKING]

    run(scenario)


def test_orders_made_by_hand_and_their_positions_are_seen() -> None:  # fault 16
    async def scenario() -> None:
        async with rig() as r:
            name = r.symbol
            r.fault(do="manual", symbol=name, side="buy", shares=50)
            r.fault(
                do="manual",
                symbol=name,
                side="buy",
                shares=10,
                limit="1.00",
                client_id=3,
                order_id=5,
            )
            await r.settle()
            snapshot = await r.broker.snapshot()
            assert snapshot.complete
            assert [(p.symbol, p.shares) for p in snapshot.positions] == [(name, 50)]
            (working,) = snapshot.open_orders
            assert (working.ref, working.client_id, working.order_id) == ("", 3, 5)
            assert working.perm_id > 0
            assert [e.shares for e in snapshot.executions] == [50]
            assert snapshot.executions[0].perm_id > 0
            await r.broker.cancel_all()
            await r.settle()
            assert (await r.broker.snapshot()).open_orders == ()

    run(scenario)


def test_shares_and_prices_go_out_as_they_are() -> None:  # fault 25
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(shares=7, away=True)
            (at_venue,) = r.truth(order)
            assert (at_venue.quantity, at_venue.limit) == (7, order.limit)
            off_tick = await r.place(limit="100.005")
            assert r.said(off_tick)[-1].state is REJECTED
            assert r.said(off_tick)[-1].code == 110
            with pytest.raises(TransientError, match="limit"):
                await r.broker.place(r.order(limit="NaN"))

    run(scenario)


def test_a_short_sale_that_waits_for_shares_is_held_and_can_be_cancelled() -> None:  # fault 26
    async def scenario() -> None:
        async with rig() as r:
            r.fault(do="locate", symbol=r.symbol, shares=0)
            order = await r.place(side=Side.SELL)
            last = r.said(order)[-1]
            assert (last.state, last.why_held) == (WORKING, "locate")
            assert 404 in codes(r.events)
            await r.broker.cancel(order)
            await r.settle()
            assert r.said(order)[-1].state is CANCELLED

    run(scenario)


def test_margins_are_asked_for_and_a_refused_question_is_no_crash() -> None:  # fault 27
    async def scenario() -> None:
        async with rig() as r:
            margin = await r.broker.what_if(r.order(shares=100))
            assert margin.allowed
            assert margin.initial > 0
            r.fault(do="margin", factor=1000)
            assert not (await r.broker.what_if(r.order(shares=1000))).allowed
            r.fault(do="reject", code=201, message="no", what_if=True)
            with pytest.raises(TransientError, match="201"):
                await r.broker.what_if(r.order(shares=100))
            assert not list(r.venue.book.all)
            assert not r.heard(OrderSaid)

    run(scenario)


def test_a_liquidation_by_the_broker_is_marked_as_one() -> None:  # fault 31
    async def scenario() -> None:
        async with rig() as r:
            await r.place(shares=100)
            await r.broker.snapshot()
            r.fault(do="liquidate", symbol=r.symbol)
            await r.until(lambda: r.filled() == 0)
            assert any(f.liquidation for f in r.heard(Execution))
            snapshot = await r.broker.snapshot()
            last = snapshot.executions[-1]
            assert (last.liquidation, last.side, last.shares, last.ref) == (
                True,
                Side.SELL,
                100,
                "",
            )
            assert r.held() == 0

    run(scenario)


def test_an_order_of_another_account_is_refused_before_the_socket() -> None:
    async def scenario() -> None:
        async with rig() as r:
            order = r.order()
            object.__setattr__(order.intent, "account", "DU7654321")
            with pytest.raises(HaltError, match="DU7654321"):
                await r.broker.place(order)
            unknown = r.order()
            object.__setattr__(unknown.intent, "symbol", "NOPE")
            with pytest.raises(TransientError, match="nothing was sent"):
                await r.broker.place(unknown)
            assert not list(r.venue.book.all)

    run(scenario)


def test_a_listener_that_fails_stops_trading_with_words() -> None:  # fault 32
    async def scenario() -> None:
        async with rig() as r:
            order = await r.place(away=True)

            def broken(event: object) -> None:
                raise ValueError("a bug")

            r.broker.listen(broken)
            r.fault(do="say", code=2100, message="hello")
            await r.settle()
            assert not r.broker.connected
            assert any("a bug" in n.message for n in r.heard(Notice))
            with pytest.raises(HaltError, match="a bug"):
                await r.broker.place(r.order())
            await r.broker.cancel(order)
            await r.settle()
            assert r.truth(order)[0].status == "Cancelled"

    run(scenario)
