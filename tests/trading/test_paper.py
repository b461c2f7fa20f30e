"""Paper money behaves like money: it crosses spreads, pays fees, and outlives the trader."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as rules
from hypothesis import strategies as st

from dpa.config import Settings
from dpa.errors import HaltError, TransientError
from dpa.market.costs import CostModel
from dpa.trading.broker import BrokerEvent, Notice, OrderSaid
from dpa.trading.clocks import VirtualClock
from dpa.trading.paper import Liquidity, PaperBroker
from dpa.trading.types import (
    Commission,
    Execution,
    Intent,
    Order,
    OrderState,
    Purpose,
    Quote,
    Style,
)
from tests.trading.dealing import (
    CLOSES,
    INSTRUMENTS,
    NOON,
    instrument,
    intent,
    paper,
    quote,
    run,
)

S = OrderState


class Desk:
    """A paper broker and what it told."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.clock = VirtualClock(NOON)
        self.folder, self.more = folder, more
        self.told: list[BrokerEvent] = []
        self.open()

    def open(self) -> PaperBroker:
        self.broker = paper(self.folder, self.clock, **self.more)
        self.broker.listen(self.told.append)
        run(self.broker.connect())
        return self.broker

    def quote(self, *seen: Quote) -> None:
        for one in seen or (quote("AAPL", self.clock.now()),):
            self.broker.on_quotes({one.symbol: one}, self.clock.now())

    def place(self, asked: Intent, limit: str | None = None) -> Order:
        number = self.broker.next_order_id
        order = Order(asked, 1, number, limit=None if limit is None else Decimal(limit))
        run(self.broker.place(order))
        return order

    def wait(self, seconds: float) -> None:
        self.clock.move_to(self.clock.now() + timedelta(seconds=seconds))

    @property
    def fills(self) -> list[tuple[Decimal, Decimal]]:
        """Shares and prices."""
        return [(e.shares, e.price) for e in self.told if isinstance(e, Execution)]

    @property
    def states(self) -> list[OrderState]:
        return [e.state for e in self.told if isinstance(e, OrderSaid)]

    @property
    def codes(self) -> list[int]:
        return [e.code for e in self.told if isinstance(e, Notice)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


BUY, SELL = intent(shares=100), intent(shares=-100, decision="d2")
LIMIT = replace(BUY, style=Style.LIMIT)


def test_a_market_order_crosses_the_spread_and_pays_the_commission(desk: Desk) -> None:
    desk.quote()
    desk.place(BUY)
    assert desk.fills == [(100, Decimal("100.10"))]
    (fee,) = [e for e in desk.told if isinstance(e, Commission)]
    assert fee.amount == Decimal("1.0010")  # 1 bp of 10010 USD
    assert desk.states == [S.WORKING, S.FILLED]
    assert desk.broker.book.cash == Decimal(1_000_000) - Decimal("10010") - Decimal("1.001")
    desk.place(SELL)
    assert desk.fills[-1] == (100, Decimal("99.90"))
    assert desk.broker.book.holdings == {}


def test_impact_is_that_of_the_shared_cost_model(tmp_path: Path) -> None:
    desk = Desk(tmp_path, liquidity={"AAPL": Liquidity(sigma_day=0.02, adv_usd=1e6)})
    desk.quote()
    desk.place(BUY)
    (_, price), *_ = desk.fills
    costs = CostModel(Settings().costs)
    nav = costs.config.nav_usd
    value = 100 * 100.10
    paid = costs.impact(value / nav, 0.02, 1e6) * nav
    assert float(price) == pytest.approx(100.10 + paid / 100, abs=1e-4)
    assert float(price) == pytest.approx(100.10 * (1 + 0.02 * (value / 1e6) ** 0.5), abs=1e-4)


def test_no_more_is_filled_than_the_quote_shows_and_each_quote_gives_once(desk: Desk) -> None:
    small = quote("AAPL", NOON, ask_size=30)
    desk.quote(small)
    desk.place(BUY)
    desk.quote(small)
    assert desk.fills == [(30, Decimal("100.10"))]
    desk.wait(1)
    desk.quote(quote("AAPL", desk.clock.now(), ask_size=30))
    desk.wait(1)
    desk.quote(quote("AAPL", desk.clock.now(), ask_size=500))
    assert [shares for shares, _ in desk.fills] == [30, 30, 40]
    assert desk.states[-1] is S.FILLED


def test_two_orders_share_what_a_quote_shows(desk: Desk) -> None:
    desk.quote(quote("AAPL", NOON, ask_size=150))
    desk.place(BUY)
    desk.place(replace(BUY, id="dpa-" + "0" * 24))
    assert [shares for shares, _ in desk.fills] == [100, 50]


def test_a_size_that_was_not_told_limits_nothing(desk: Desk) -> None:
    desk.quote(quote("AAPL", NOON, ask_size=0))
    desk.place(BUY)
    assert desk.fills == [(100, Decimal("100.10"))]


@pytest.mark.parametrize(
    ("limit", "expected"), [("100.05", None), ("100.10", "100.10"), ("101", "100.10")]
)
def test_a_limit_is_filled_where_it_reaches_the_far_side(
    desk: Desk, limit: str, expected: str | None
) -> None:
    desk.quote()
    desk.place(LIMIT, limit)
    assert [price for _, price in desk.fills] == ([Decimal(expected)] if expected else [])


def test_a_limit_that_waits_is_filled_at_itself(desk: Desk) -> None:
    desk.quote()
    desk.place(LIMIT, "100.00")
    desk.wait(1)
    desk.quote(quote("AAPL", desk.clock.now(), "99.80", "99.95"))
    assert desk.fills == [(100, Decimal("100.00"))]


LIQUIDITY = Liquidity(sigma_day=0.02, adv_usd=1e7)


def modelled(shares: int, price: str, liquidity: Liquidity = LIQUIDITY) -> float:
    """Impact and commission of an order by the shared cost model, USD."""
    costs = CostModel(Settings().costs)
    nav = costs.config.nav_usd
    value = shares * float(price)
    impact = costs.impact(value / nav, liquidity.sigma_day, liquidity.adv_usd) * nav
    return float(impact + costs.commission(value))


@pytest.mark.parametrize("limit", ["100.11", "100.10"])
def test_what_the_limit_keeps_out_of_the_price_is_charged_all_the_same(
    tmp_path: Path, limit: str
) -> None:
    desk = Desk(tmp_path, liquidity={"AAPL": LIQUIDITY})
    desk.quote(quote("AAPL", NOON, ask_size=0))
    order = desk.place(replace(LIMIT, shares=5000), "100.05")
    assert desk.fills == []
    run(desk.broker.modify(order, Decimal(limit)))
    assert desk.fills == [(5000, Decimal(limit))]
    spent = Decimal(1_000_000) - desk.broker.book.cash
    assert float(spent) == pytest.approx(5000 * 100.10 + modelled(5000, "100.10"), abs=0.01)


def test_an_order_costs_the_same_at_the_market_and_stepped_to_the_far_side(tmp_path: Path) -> None:
    spent = []
    for name, limit in (("market", None), ("adaptive", "100.10")):
        desk = Desk(tmp_path / name, liquidity={"AAPL": LIQUIDITY})
        desk.quote(quote("AAPL", NOON, ask_size=0))
        desk.place(replace(LIMIT if limit else BUY, shares=5000), limit)
        spent.append(float(1_000_000 - desk.broker.book.cash))
    assert spent[0] == pytest.approx(spent[1], abs=1.0)


@pytest.mark.parametrize("limit", [None, "100.10", "101"])
def test_many_fills_of_an_order_cost_what_one_does(tmp_path: Path, limit: str | None) -> None:
    desk = Desk(tmp_path, liquidity={"AAPL": LIQUIDITY})
    desk.quote(quote("AAPL", NOON, ask_size=700))
    desk.place(replace(LIMIT if limit else BUY, shares=5000), limit)
    for _ in range(8):
        desk.wait(1)
        desk.quote(quote("AAPL", desk.clock.now(), ask_size=700))
    assert sum(shares for shares, _ in desk.fills) == 5000
    assert len(desk.fills) == 8
    waited = 0 if limit != "101" else 4300 * 0.90  # at its own limit, having waited for size
    spent = float(1_000_000 - desk.broker.book.cash) - waited
    assert spent == pytest.approx(5000 * 100.10 + modelled(5000, "100.10"), abs=1.0)


def test_a_limit_that_rests_saves_the_spread_and_pays_the_impact(tmp_path: Path) -> None:
    desk = Desk(tmp_path, liquidity={"AAPL": LIQUIDITY})
    desk.quote()
    desk.place(LIMIT, "100.00")
    desk.wait(1)
    desk.quote(quote("AAPL", desk.clock.now(), "99.80", "99.95"))
    assert desk.fills == [(100, Decimal("100.00"))]
    (fee,) = [e for e in desk.told if isinstance(e, Commission)]
    assert float(fee.amount) == pytest.approx(modelled(100, "100.00"), rel=1e-3)


def test_a_new_limit_can_fill_at_once(desk: Desk) -> None:
    desk.quote()
    order = desk.place(LIMIT, "100.00")
    run(desk.broker.modify(order, Decimal("100.10")))
    assert desk.fills == [(100, Decimal("100.10"))]


@pytest.mark.parametrize("bad", [{"halted": True}, {"delayed": True}])
def test_nothing_is_filled_on_an_unsound_quote(desk: Desk, bad: dict[str, bool]) -> None:
    desk.quote(quote("AAPL", NOON, **bad))
    desk.place(BUY)
    assert desk.fills == []
    assert desk.states == [S.WORKING]


@pytest.mark.parametrize(
    ("asked", "limit", "code"),
    [
        (intent("NONE", 100), None, 200),
        (LIMIT, "100.005", 110),
        (LIMIT, None, 201),
        (intent(shares=1_000_000), None, 201),
    ],
)
def test_what_is_refused_and_with_which_code(
    desk: Desk, asked: Intent, limit: str | None, code: int
) -> None:
    desk.quote()
    desk.place(asked, limit)
    assert desk.codes == [code]
    assert desk.states == [S.REJECTED]
    assert desk.fills == []


def test_an_order_number_is_used_once(desk: Desk) -> None:
    desk.quote()
    order = desk.place(LIMIT, "99")
    run(desk.broker.place(replace(order, intent=SELL)))
    assert desk.codes == [103]
    assert len(desk.broker.book.orders) == 1


def test_nothing_is_taken_that_may_be_sent_no_more(desk: Desk) -> None:
    desk.quote()
    order = desk.place(LIMIT, "99")
    with pytest.raises(TransientError, match="nothing was sent"):
        run(desk.broker.place(replace(order, order_id=2), lambda: False))
    with pytest.raises(TransientError, match="nothing was sent"):
        run(desk.broker.modify(order, Decimal("98"), lambda: False))
    (kept,) = desk.broker.book.orders
    assert kept.limit == Decimal("99")


def test_a_short_without_shares_to_borrow_is_held_and_not_refused(desk: Desk) -> None:
    desk.quote(quote("AAPL", NOON, shortable=False))
    order = desk.place(SELL)
    (said,) = [e for e in desk.told if isinstance(e, OrderSaid)]
    assert (said.state, said.why_held) == (S.WORKING, "locate")
    desk.wait(1)
    desk.quote(quote("AAPL", desk.clock.now(), shortable=True))
    assert desk.fills == [(100, Decimal("99.90"))]
    run(desk.broker.cancel(order))
    assert desk.codes == [161]


def test_cancels_end_orders_and_unknown_ones_are_told(desk: Desk) -> None:
    desk.quote()
    order = desk.place(LIMIT, "99")
    run(desk.broker.cancel(order))
    assert desk.states == [S.WORKING, S.CANCELLED]
    run(desk.broker.cancel(replace(order, order_id=99)))
    assert desk.codes == [10147]
    desk.place(LIMIT, "99")
    desk.place(LIMIT, "98")
    run(desk.broker.cancel_all())
    assert desk.broker.book.working == ()


def test_day_orders_end_with_the_session_and_closing_orders_fill_in_its_auction(
    desk: Desk,
) -> None:
    desk.quote()
    desk.place(LIMIT, "99")
    desk.place(replace(SELL, style=Style.CLOSE))
    desk.clock.move_to(CLOSES)
    desk.quote(quote("AAPL", CLOSES, last=Decimal("100.03")))
    assert desk.states[-2:] == [S.CANCELLED, S.FILLED]
    assert desk.fills == [(100, Decimal("100.03"))]


def test_a_closing_order_whose_auction_nobody_saw_is_not_filled_next_morning(desk: Desk) -> None:
    desk.quote()
    desk.place(replace(SELL, style=Style.CLOSE))
    desk.clock.move_to(CLOSES + timedelta(hours=18))
    desk.quote(quote("AAPL", desk.clock.now(), last=Decimal("80")))
    assert desk.fills == []
    assert desk.states[-1] is S.CANCELLED


def test_what_an_order_costs_to_take_does_not_depend_on_squares_of_what_is_held(
    tmp_path: Path,
) -> None:
    names = [f"S{n:03d}" for n in range(120)]
    desk = Desk(tmp_path, instruments={n: instrument(n) for n in names}, cash=Decimal(10**9))
    marks: list[str] = []
    mark = desk.broker._mark
    desk.broker._mark = lambda symbol: marks.append(symbol) or mark(symbol)  # type: ignore
    desk.broker.on_quotes({n: quote(n, NOON) for n in names}, NOON)
    for name in names:
        desk.place(intent(name, 10))
    assert len(desk.broker.book.holdings) == len(names)
    assert len(marks) <= len(names) * (len(names) + 3)
    read = type(desk.broker.book).holdings
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        counting = property(lambda book: asked.append(1) or read.fget(book))  # type: ignore
        patch.setattr(type(desk.broker.book), "holdings", counting)
        desk.place(intent(names[0], 10, decision="d2"))
        run(desk.broker.snapshot())
    assert len(asked) <= 5, "all that is held was gathered for each symbol"


def test_outside_its_hours_nothing_is_filled(desk: Desk) -> None:
    desk.quote()
    desk.clock.move_to(CLOSES + timedelta(hours=1))
    desk.place(BUY)
    desk.quote(quote("AAPL", desk.clock.now()))
    assert desk.fills == []


def test_margins_are_half_and_a_quarter_of_gross_value(desk: Desk) -> None:
    desk.quote()
    margin = run(desk.broker.what_if(Order(intent(shares=10_000), 1, 1)))
    assert margin.initial == 500_000
    assert margin.maintenance == 250_000
    assert margin.allowed
    assert not run(desk.broker.what_if(Order(intent(shares=30_000), 1, 1))).allowed


def test_a_restart_finds_orders_fills_and_money(desk: Desk) -> None:
    desk.quote()
    desk.place(BUY)
    waiting = desk.place(replace(LIMIT, id="dpa-" + "1" * 24), "99")
    cash = desk.broker.book.cash
    run(desk.broker.close())
    desk.open()
    found = run(desk.broker.snapshot())
    assert found.complete
    assert [(p.symbol, p.shares) for p in found.positions] == [("AAPL", 100)]
    assert [word.order_id for word in found.open_orders] == [waiting.order_id]
    assert [e.exec_id for e in found.executions] == ["paper.00000001.01"]
    assert found.account.cash == cash
    assert desk.broker.next_order_id == waiting.order_id + 1


def test_what_another_process_cancels_is_told(desk: Desk) -> None:
    desk.quote()
    desk.place(LIMIT, "99")
    other = paper(desk.folder, desk.clock)
    run(other.connect())
    run(other.cancel_all())
    run(other.close())
    assert desk.states == [S.WORKING]
    desk.quote(quote("AAPL", desk.clock.now(), bid_size=5))
    assert desk.states == [S.WORKING, S.CANCELLED]


def test_yesterdays_orders_are_told_no_more(desk: Desk) -> None:
    desk.quote()
    desk.place(BUY)
    desk.clock.move_to(NOON + timedelta(days=1))
    found = run(desk.broker.snapshot())
    assert (found.completed_orders, found.executions) == ((), ())
    assert len(found.positions) == 1


def test_a_file_of_another_account_or_no_database_is_refused(desk: Desk, tmp_path: Path) -> None:
    run(desk.broker.close())
    with pytest.raises(HaltError, match="not DU7"):
        PaperBroker(
            tmp_path / "paper.sqlite",
            desk.clock,
            CostModel(Settings().costs),
            INSTRUMENTS,
            account="DU7",
        )
    (tmp_path / "paper.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(HaltError, match="move the file away"):
        paper(tmp_path, desk.clock)


def test_a_broker_that_is_not_open_sends_nothing(tmp_path: Path) -> None:
    broker = paper(tmp_path, VirtualClock(NOON))
    with pytest.raises(TransientError, match="nothing was sent"):
        run(broker.place(Order(BUY, 1, 1)))
    run(broker.close())


def test_the_file_is_private(desk: Desk) -> None:
    assert (desk.folder / "paper.sqlite").stat().st_mode & 0o077 == 0


orders = st.lists(
    st.tuples(
        st.integers(-300, 300).filter(bool),
        st.sampled_from([Style.MARKET, Style.LIMIT]),
        st.decimals("99", "101", places=2),
        st.integers(0, 200),
    ),
    min_size=1,
    max_size=12,
)


@given(asked=orders)
@rules(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shares_and_cash_are_those_of_the_fills_and_two_runs_agree(
    asked: list[tuple[int, Style, Decimal, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = []
    for _ in range(2):
        desk = Desk(tmp_path_factory.mktemp("paper"))
        for n, (shares, style, limit, size) in enumerate(asked):
            desk.wait(1)
            desk.quote(quote("AAPL", desk.clock.now(), bid_size=size, ask_size=size))
            one = intent(shares=shares, decision=str(n), purpose=Purpose.ENTER, style=style)
            desk.place(one, str(limit) if style is Style.LIMIT else None)
        runs.append(desk.told)
        book = desk.broker.book
        fills = [e for e in desk.told if isinstance(e, Execution)]
        fees = [e.amount for e in desk.told if isinstance(e, Commission)]
        paid = sum((e.side.sign * e.shares * e.price for e in fills), Decimal(0))
        assert book.cash == Decimal(1_000_000) - paid - sum(fees, Decimal(0))
        assert book.shares("AAPL") == sum(e.side.sign * e.shares for e in fills)
        run(desk.broker.close())
        reopened = desk.open().book
        assert (reopened.cash, reopened.shares("AAPL")) == (book.cash, book.shares("AAPL"))
        run(desk.broker.close())
    assert runs[0] == runs[1]


def test_lots_are_kept_to(tmp_path: Path) -> None:
    desk = Desk(tmp_path, instruments={"AAPL": instrument("AAPL", lot=60)})
    desk.quote()
    desk.place(BUY)
    assert desk.codes == [201]
