"""Money and shares of the accounts at the venue, exact.

Books are a fold of what was executed, in the order in which it was; a correction replaces its
fill at its place, and everything after it is folded again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from pydantic import Field

from dpa.config import Frozen
from dpa.errors import ConfigError
from dpa.simulation.tws.words import Contract, SimExecution, SimPosition

ZERO = Decimal(0)
CENT = Decimal("0.01")
Price = Callable[[int], Decimal]  # of a contract, by its number


class Rates(Frozen):
    """What the venue charges, and what it wants as security."""

    commission_per_share: Decimal = Field(Decimal("0.005"), ge=0, description="USD a share")
    commission_least: Decimal = Field(Decimal("1.00"), ge=0, description="USD an order")
    commission_most: Decimal = Field(
        Decimal("0.01"), ge=0, le=1, description="share of an order's value"
    )
    initial_margin: Decimal = Field(Decimal("0.25"), ge=0, le=10, description="of gross value")
    maintenance_margin: Decimal = Field(Decimal("0.25"), ge=0, le=10, description="of gross value")

    def commission(self, shares: Decimal, value: Decimal) -> Decimal:
        """Fee of an order that has traded so much, USD: fixed pricing for US stocks."""
        if shares <= 0:
            return ZERO
        least = max(self.commission_least, self.commission_per_share * shares)
        return min(least, self.commission_most * value)


@dataclass
class Held:
    """Shares of a contract; `basis` is what they cost in all, negative when short."""

    shares: Decimal = ZERO
    basis: Decimal = ZERO
    realised: Decimal = ZERO

    def trade(self, signed: Decimal, price: Decimal) -> Decimal:
        """Buy, or sell with a negative number; the profit it realises, USD."""
        profit = ZERO
        if self.shares * signed < 0:
            closed = min(abs(signed), abs(self.shares)).copy_sign(signed)
            released = self.basis * -closed / self.shares
            profit = -closed * price - released
            self.basis -= released
            self.shares += closed
            signed -= closed
            if self.shares == 0:
                self.basis = ZERO
        self.shares += signed
        self.basis += signed * price
        self.realised += profit
        return profit

    @property
    def average_cost(self) -> Decimal:
        """USD a share, without fees; 0 when flat."""
        return self.basis / self.shares if self.shares else ZERO


@dataclass
class Entry:
    """A fill with its newest revision."""

    execution: SimExecution
    fee: Decimal

    @property
    def signed(self) -> Decimal:
        """Shares, negative for a sale."""
        shares = self.execution.shares
        return shares if self.execution.side == "BOT" else -shares


@dataclass
class Account:
    """Books of one account.

    Parameters
    ----------
    name : str
    deposit : Decimal
        Cash it began with, USD.
    """

    name: str
    deposit: Decimal
    cash: Decimal = ZERO
    fees: Decimal = ZERO
    held: dict[int, Held] = field(default_factory=dict)
    opening: dict[int, tuple[Decimal, Decimal]] = field(default_factory=dict)  # shares, price
    entries: dict[str, Entry] = field(default_factory=dict)  # by stem, in order of execution

    def __post_init__(self) -> None:
        self.cash = self.deposit
        self.basis = self.realised = ZERO  # of all positions
        self._values: dict[int, Decimal] = {}  # of each position, at prices of `_priced_at`
        self._stocks = self._gross = ZERO
        self._priced_at: int | None = None
        self._traded: set[int] = set()  # since then

    def book(self, execution: SimExecution, fee: Decimal) -> Decimal:
        """Enter a fill; the profit it realises, USD, without fees."""
        entry = self.entries[stem(execution.exec_id)] = Entry(execution, fee)
        return self._fold(entry)

    def _fold(self, entry: Entry) -> Decimal:
        execution = entry.execution
        held = self.held.setdefault(execution.contract.con_id, Held())
        self.cash -= entry.signed * execution.price + entry.fee
        self.fees += entry.fee
        basis = held.basis
        profit = held.trade(entry.signed, execution.price)
        self.basis += held.basis - basis
        self.realised += profit
        self._traded.add(execution.contract.con_id)
        return profit

    def restate(self, execution: SimExecution, fee: Decimal) -> None:
        """Replace a fill by its next revision."""
        entry = self.entries[stem(execution.exec_id)]
        entry.execution, entry.fee = execution, fee
        self.cash, self.fees, self.held = self.deposit, ZERO, {}
        self.basis = self.realised = ZERO
        self._priced_at = None
        for con_id, (shares, price) in self.opening.items():
            self._begin_with(con_id, shares, price)
        for each in self.entries.values():
            self._fold(each)

    def give(self, con_id: int, shares: Decimal, price: Decimal) -> None:
        """Shares it holds from before anything was executed here."""
        self.opening[con_id] = shares, price
        self._begin_with(con_id, shares, price)

    def _begin_with(self, con_id: int, shares: Decimal, price: Decimal) -> None:
        self.held[con_id] = Held(shares, shares * price)
        self.basis += shares * price
        self._traded.add(con_id)

    def shares(self, con_id: int) -> Decimal:
        """Shares held of a contract, negative when short."""
        held = self.held.get(con_id)
        return held.shares if held else ZERO

    def worth(self, price: Price, version: int) -> tuple[Decimal, Decimal]:
        """Cash and positions, and the value of longs and shorts added up, USD.

        While the `version` of the prices is the same, only what was traded is valued again.
        """
        if version != self._priced_at:
            self._priced_at, self._values = version, {}
            self._stocks = self._gross = ZERO
            self._traded = set(self.held)
        for con_id in self._traded:
            shares = self.shares(con_id)
            new = shares * price(con_id) if shares else ZERO
            old = self._values.get(con_id, ZERO)
            self._values[con_id] = new
            self._stocks += new - old
            self._gross += abs(new) - abs(old)
        self._traded.clear()
        return self.cash + self._stocks, self._gross


class Accounts:
    """All accounts of the venue.

    Parameters
    ----------
    names : iterable of str
    deposit : Decimal
        Cash each begins with, USD.
    rates : Rates
    """

    def __init__(self, names: Iterable[str], deposit: Decimal, rates: Rates | None = None) -> None:
        self.rates = rates or Rates()
        self.margin_factor = Decimal(1)  # a fault raises it
        self.prices_version = 0  # whoever moves prices counts it up
        self.by_name = {name: Account(name, deposit) for name in names}
        if not self.by_name:
            raise ConfigError("no account", "name one or more")

    def __getitem__(self, name: str) -> Account:
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def worth(self, account: Account, price: Price) -> tuple[Decimal, Decimal]:
        """Equity and gross value of an account, USD."""
        return account.worth(price, self.prices_version)

    def margins(self, gross: Decimal) -> tuple[Decimal, Decimal]:
        """Initial and maintenance requirement of so much gross value, USD."""
        secured = gross * self.margin_factor
        return secured * self.rates.initial_margin, secured * self.rates.maintenance_margin

    def values(self, name: str, price: Price) -> tuple[tuple[str, str, str], ...]:
        """What TWS calls account values: tag, value and currency."""
        account = self.by_name[name]
        equity, gross = self.worth(account, price)
        initial, maintenance = self.margins(gross)
        available = equity - initial
        stocks = equity - account.cash
        buying = available / self.rates.initial_margin if self.rates.initial_margin else available
        money: Mapping[str, Decimal] = {
            "NetLiquidation": equity,
            "TotalCashValue": account.cash,
            "SettledCash": account.cash,
            "EquityWithLoanValue": equity,
            "GrossPositionValue": gross,
            "StockMarketValue": stocks,
            "InitMarginReq": initial,
            "MaintMarginReq": maintenance,
            "AvailableFunds": available,
            "ExcessLiquidity": equity - maintenance,
            "BuyingPower": max(buying, ZERO),
            "RealizedPnL": account.realised,
            "UnrealizedPnL": stocks - account.basis,
        }
        shown = tuple((tag, str(value.quantize(CENT)), "USD") for tag, value in money.items())
        return (("AccountType", "INDIVIDUAL", ""), ("Currency", "USD", "USD"), *shown)

    def positions(
        self, contracts: Callable[[int], Contract], price: Price
    ) -> tuple[SimPosition, ...]:
        """All that is held and all that was, account by account."""
        return tuple(
            self.position(account, contracts(con_id), price)
            for account in self.by_name.values()
            for con_id in account.held
        )

    def position(self, account: Account, contract: Contract, price: Price) -> SimPosition:
        """What an account holds of a contract."""
        held = account.held.get(contract.con_id, Held())
        return SimPosition(
            account.name,
            contract,
            held.shares,
            held.average_cost,
            price(contract.con_id),
            held.realised,
        )


def stem(exec_id: str) -> str:
    """What all revisions of an execution share."""
    return exec_id.rpartition(".")[0]


def revised(exec_id: str) -> str:
    """The id of the next revision: ``….01`` becomes ``….02``."""
    first, _, last = exec_id.rpartition(".")
    return f"{first}.{int(last) + 1:02d}"
