"""Books against a slow oracle, in any order of what is told."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.ledger import Baseline, Ledger, filled_shares, told_shares
from dpa.trading.types import Commission, Execution, Position, Side
from tests.trading.bookkeeping import ACCOUNT, NOON, a_fee, an_execution

D = Decimal


@st.composite
def histories(draw: st.DrawFn) -> list[Execution | Commission]:
    """Fills of two symbols, some corrected or taken back, most with fees; repeats too."""
    calls: list[Execution | Commission] = []
    for k in range(draw(st.integers(0, 7))):
        stem, symbol = f"e{k}", draw(st.sampled_from(["AAA", "BBB"]))
        side, second = draw(st.sampled_from(Side)), draw(st.integers(0, 4))
        for revision in range(1, draw(st.sampled_from([2, 2, 2, 3, 4]))):
            shares = draw(st.integers(0 if revision > 1 else 1, 50))
            price = draw(st.integers(900, 1100)) / D(100)
            time = NOON + timedelta(seconds=second)
            changes = {"symbol": symbol, "side": side, "time": time}
            calls.append(an_execution(stem, shares, price, revision, **changes))
        if draw(st.booleans()):
            calls.append(a_fee(stem, draw(st.integers(1, 500)) / D(100)))
    return calls + draw(st.lists(st.sampled_from(calls), max_size=3) if calls else st.just([]))


def booked(calls: list[Execution | Commission], baseline: Baseline | None = None) -> Ledger:
    ledger = Ledger(ACCOUNT, baseline)
    for call in calls:
        if isinstance(call, Commission):
            ledger.charge(call)
        else:
            ledger.execute(call)
    return ledger


def newest(calls: list[Execution | Commission]) -> list[Execution]:
    best: dict[str, Execution] = {}
    for call in calls:
        known = best.get(call.stem) if isinstance(call, Execution) else None
        if isinstance(call, Execution) and (known is None or call.revision > known.revision):
            best[call.stem] = call
    return list(best.values())


def oracle(fills: list[Execution], symbol: str) -> tuple[Fraction, Fraction, Fraction]:
    """Shares, average cost and realised profit, share by share of the definition."""
    shares = cost = realised = Fraction(0)
    for fill in sorted(fills, key=lambda f: (f.time, f.stem)):
        if fill.symbol != symbol:
            continue
        for _ in range(int(fill.shares)):
            sign, price = fill.side.sign, Fraction(fill.price)
            if shares * sign >= 0:
                cost = (cost * abs(shares) + price) / (abs(shares) + 1)
            else:
                realised += (price - cost) * -sign
            shares += sign
            cost = cost if shares else Fraction(0)
    return shares, cost, realised


@given(histories().flatmap(lambda c: st.tuples(st.just(c), st.permutations(c))))
def test_the_books_do_not_depend_on_the_order_of_what_is_told(both: tuple) -> None:
    one, other = (booked(list(calls)) for calls in both)
    assert one == other
    assert one.fills == other.fills
    executions = [c for c in both[0] if isinstance(c, Execution)]
    fees = [c for c in both[0] if isinstance(c, Commission)]
    assert Ledger(ACCOUNT, None, executions, fees) == one


@given(histories())
def test_positions_and_profit_are_those_of_the_definition(calls: list) -> None:
    ledger, fills = booked(calls), newest(calls)
    total = Fraction(0)
    for symbol in ("AAA", "BBB"):
        shares, cost, realised = oracle(fills, symbol)
        held = ledger.position(symbol)
        assert Fraction(held.shares) == shares
        assert abs(Fraction(held.average_cost) - cost) < Fraction(1, 10**11)
        assert (symbol in ledger.positions) == (shares != 0)
        total += realised
    assert abs(Fraction(ledger.realised) - total) < Fraction(1, 10**11)


@given(histories())
def test_money_is_conserved(calls: list) -> None:
    ledger, fills = booked(calls), newest(calls)
    stems = {fill.stem for fill in fills}
    told = {c.exec_id: c for c in calls if isinstance(c, Commission)}
    fees = sum((c.amount for c in told.values() if c.exec_id[:-3] in stems), D(0))
    paid = sum((f.side.sign * f.shares * f.price for f in fills), D(0))
    assert ledger.fees == fees
    assert ledger.cash == -paid - fees
    assert sum((f.realised for f in ledger.fills), D(0)) == ledger.realised
    marks = {"AAA": D("10.10"), "BBB": D("9.90")}
    profit, nav = ledger.unrealised(marks), ledger.nav(marks)
    assert profit is not None
    assert nav is not None
    assert abs(nav - (ledger.realised + profit - fees)) < D("1e-11")
    pending = {f.exec_id for f in fills if f.shares and f.stem + ".01" not in told}
    assert set(ledger.fees_pending) == pending


def test_a_correction_replaces_and_a_bust_takes_back() -> None:
    ledger = booked([an_execution("e1", 120, "10.00"), an_execution("e1", 90, "10.10", 2)])
    assert ledger.position("AAA") == Position(ACCOUNT, "AAA", D(90), D("10.10"))
    assert ledger.cash == -909
    assert not ledger.execute(an_execution("e1", 120, "10.00"))
    assert ledger.execute(an_execution("e1", 0, "10.10", 3))
    assert ledger.positions == {}
    assert ledger.cash == 0
    assert ledger.fills == ()


def test_fees_wait_for_their_fill_and_fills_for_their_fee() -> None:
    ledger = booked([a_fee("e1"), a_fee("e9")])
    assert ledger.fees == 0
    ledger.execute(an_execution("e1"))
    ledger.execute(an_execution("e2"))
    assert ledger.fees == D("0.35")
    assert ledger.fees_pending == ("e2.01",)
    assert ledger.charge(a_fee("e2", "0.40", currency="EUR"))
    assert not ledger.charge(a_fee("e2", "0.40", currency="EUR"))
    assert ledger.fees == D("0.35")
    assert ledger.foreign_fees == (a_fee("e2", "0.40", currency="EUR"),)
    assert ledger.fills[1].fee is None


def test_a_baseline_holds_the_fills_known_then_and_only_corrections_of_them_count() -> None:
    old = an_execution("e0", 40, "9.00")
    start = Position(ACCOUNT, "AAA", D(40), D("9.00"))
    baseline = Baseline((start,), D(1000), {"e0": old}, NOON)
    ledger = booked([old, an_execution("e1", 10, "10.00")], baseline)
    assert ledger.position("AAA").shares == 50
    assert ledger.cash == 900
    assert [fill.execution.stem for fill in ledger.fills] == ["e1"]
    ledger.execute(an_execution("e0", 30, "9.00", 2))
    assert ledger.position("AAA").shares == 40
    assert ledger.cash == 990
    ledger.execute(an_execution("e0", 0, "9.00", 3))
    assert ledger.position("AAA") == Position(ACCOUNT, "AAA", D(10), D(10))
    assert ledger.cash == 1260


def test_a_price_that_is_missing_or_nan_makes_the_value_unknown_not_zero() -> None:
    ledger = booked([an_execution("e1", 10, "10.00")])
    for marks in ({}, {"AAA": D("NaN")}, {"AAA": D("Infinity")}):
        assert ledger.nav(marks) is None
        assert ledger.unrealised(marks) is None
    assert ledger.nav({"AAA": D(11)}) == 10


def test_another_accounts_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="DU2"):
        Ledger(ACCOUNT).execute(an_execution("e1", account="DU2"))


def test_shares_told_never_fall_and_shares_filled_follow_corrections() -> None:
    fills = [an_execution("e1", 60), an_execution("e1", 0, revision=2), an_execution("e2", 30)]
    for arrangement in (fills, fills[::-1]):
        assert told_shares(arrangement) == 90
        assert filled_shares(arrangement) == 30


@given(histories(), st.integers(0, 7), st.integers(0, 5))
def test_settling_changes_no_sum_and_refuses_what_it_could_not_book(
    calls: list, place: int, second: int
) -> None:
    ledger = booked(calls[:place])
    ledger.settle(NOON + timedelta(seconds=second))
    assert ledger == booked(calls[:place])
    seen = {(type(c), c.exec_id) for c in calls[:place]}
    known = {c.stem for c in calls[:place] if isinstance(c, Execution)}
    for k, call in enumerate(calls[place:], place):
        if (type(call), call.exec_id) in seen:  # the journal tells nothing twice
            continue
        if not ledger.can_book(call, call.exec_id.rpartition(".")[0] in known):
            ledger = booked(calls[: k + 1])
        elif isinstance(call, Commission):
            ledger.charge(call)
        else:
            ledger.execute(call)
        known |= {call.stem} if isinstance(call, Execution) else set()
        seen.add((type(call), call.exec_id))
        assert ledger == booked(calls[: k + 1])
