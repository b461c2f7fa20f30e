"""Books against a slow fold in fractions that shares no code with them."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError
from dpa.simulation.tws.accounts import Accounts, Rates, revised, stem
from dpa.simulation.tws.words import Contract, SimExecution

MOMENT = datetime(2024, 6, 17, 14, tzinfo=UTC)
CONTRACTS = [Contract(k, f"N{k}", "NASDAQ", "NMS") for k in range(3)]
fill = st.tuples(
    st.integers(0, 2), st.sampled_from(["BOT", "SLD"]), st.integers(1, 60), st.integers(1, 9_999)
)
revision = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9_999))


def execution(number, contract, side, shares, cents, revision=1):
    return SimExecution(
        f"0000e0d5.{number:08x}.01.{revision:02d}", number, 1, number, "DU1",
        CONTRACTS[contract], side, Decimal(shares), Decimal(cents) / 100, MOMENT,
        Decimal(shares), Decimal(cents) / 100, "",
    )  # fmt: skip


def slow(rows):
    """Cash spent, and shares, average cost and profit of each contract: lots closed pro rata."""
    cash, books = Fraction(0), {}
    for contract, side, shares, cents, fee in rows:
        price = Fraction(cents, 100)
        held, cost, profit = books.get(contract, (Fraction(0), Fraction(0), Fraction(0)))
        for _ in range(shares):  # a share at a time
            one = 1 if side == "BOT" else -1
            if held * one < 0:
                profit += (price - cost) * -one
                held += one
            else:
                cost = (abs(held) * cost + price) / (abs(held) + 1)
                held += one
            cash -= one * price
        books[contract] = held, cost if held else Fraction(0), profit
        cash -= Fraction(fee)
    return cash, books


def check(account, rows):
    cash, books = slow(rows)
    assert Fraction(account.cash - account.deposit) == cash
    for contract, (shares, cost, profit) in books.items():
        held = account.held[contract]
        assert Fraction(held.shares) == shares
        assert float(held.average_cost) == pytest.approx(float(cost), rel=1e-12)
        assert float(held.realised) == pytest.approx(float(profit), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.lists(fill, max_size=25))
def test_books_are_the_fold_of_fills(fills):
    accounts = Accounts(["DU1"], Decimal(1_000_000))
    account, rows = accounts["DU1"], []
    for number, (contract, side, shares, cents) in enumerate(fills):
        fee = Decimal(shares) / 200
        account.book(execution(number, contract, side, shares, cents), fee)
        rows.append((contract, side, shares, cents, fee))
    check(account, rows)


@settings(deadline=None)
@given(st.lists(fill, min_size=1, max_size=15), st.lists(revision, max_size=6))
def test_a_correction_or_a_bust_is_as_if_it_had_been_so_from_the_start(fills, revisions):
    account, rows = Accounts(["DU1"], Decimal(1_000_000))["DU1"], []
    for number, (contract, side, shares, cents) in enumerate(fills):
        account.book(execution(number, contract, side, shares, cents), Decimal(1))
        rows.append((contract, side, shares, cents, Decimal(1)))
    for times, (which, shares, cents) in enumerate(revisions):
        number = which % len(fills)
        contract, side, *_ = rows[number]
        rows[number] = (contract, side, shares, cents, Decimal(1) if shares else Decimal(0))
        account.restate(
            execution(number, contract, side, shares, cents, times + 2), rows[number][-1]
        )
    check(account, rows)


@settings(deadline=None)
@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=10), st.integers(100, 50_000))
def test_fees_of_parts_add_up_to_the_fee_of_the_whole(parts, cents):
    rates, price = Rates(), Decimal(cents) / 100
    told, filled = [], 0
    for part in parts:
        before = rates.commission(Decimal(filled), filled * price)
        filled += part
        told.append(rates.commission(Decimal(filled), filled * price) - before)
    whole = min(max(Decimal(1), Decimal("0.005") * filled), Decimal("0.01") * filled * price)
    assert sum(told) == whole
    assert min(told) >= 0


@settings(deadline=None)
@given(st.lists(fill, max_size=20), st.lists(st.integers(1, 9_999), min_size=3, max_size=3))
def test_what_an_account_is_worth_is_summed_up_anew_or_kept_up_alike(fills, cents):
    accounts, prices = Accounts(["DU1"], Decimal(1_000_000)), [Decimal(c) / 100 for c in cents]
    account = accounts["DU1"]
    for number, (contract, side, shares, paid) in enumerate(fills):
        account.book(execution(number, contract, side, shares, paid), Decimal(1))
        if number % 5 == 4:
            account.restate(execution(number, contract, side, 1, paid, 2), Decimal(1))
        if number % 3 == 2:
            accounts.prices_version += 1
            prices = [price + 1 for price in prices]
        held = {c: h.shares * prices[c] for c, h in account.held.items()}
        equity, gross = accounts.worth(account, prices.__getitem__)
        assert equity == account.cash + sum(held.values())
        assert gross == sum(abs(value) for value in held.values())
        profits = sum((h.realised for h in account.held.values()), Decimal(0))
        assert float(account.realised) == pytest.approx(float(profits), abs=1e-6)
        basis = sum((h.basis for h in account.held.values()), Decimal(0))
        assert float(account.basis) == pytest.approx(float(basis), abs=1e-6)


def test_fixed_pricing_for_stocks():
    rates = Rates()
    assert rates.commission(Decimal(100), Decimal(5_000)) == 1
    assert rates.commission(Decimal(1_000), Decimal(50_000)) == 5
    assert rates.commission(Decimal(1), Decimal(20)) == Decimal("0.20")  # 1 % of the value at most
    assert rates.commission(Decimal(0), Decimal(0)) == 0


def test_values_agree_with_each_other():
    accounts = Accounts(["DU1"], Decimal(1_000))
    accounts["DU1"].book(execution(1, 0, "BOT", 10, 1_000), Decimal(1))
    values = {tag: text for tag, text, _ in accounts.values("DU1", lambda _: Decimal(12))}
    assert values["NetLiquidation"] == "1019.00"
    assert values["TotalCashValue"] == "899.00"
    assert values["GrossPositionValue"] == "120.00"
    assert values["UnrealizedPnL"] == "20.00"
    assert values["InitMarginReq"] == "30.00"
    assert Decimal(values["BuyingPower"]) == 4 * Decimal(values["AvailableFunds"])


def test_ids_of_revisions():
    assert revised("0000e0d5.0000000a.01.01") == "0000e0d5.0000000a.01.02"
    assert stem("0000e0d5.0000000a.01.09") == stem("0000e0d5.0000000a.01.10")


def test_there_must_be_an_account():
    with pytest.raises(ConfigError, match="no account"):
        Accounts([], Decimal(1))
