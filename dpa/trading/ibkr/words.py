"""What TWS says of orders, fills and money, in the words of :mod:`dpa.trading.broker`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal, InvalidOperation
from typing import Any

from dpa.errors import DataError
from dpa.trading.broker import Account, Margin, OrderSaid
from dpa.trading.ibkr.codes import STATUSES
from dpa.trading.ibkr.contracts import CURRENCY, decimal
from dpa.trading.types import Commission, Execution, Intent, OrderState, Side, Style

UNSET_INTEGER = 2**31 - 1
UNSET = 1e300  # what is larger is TWS's way to say "none"
LOCATE = "locate"
TAGS = ("NetLiquidation", "TotalCashValue", "BuyingPower")
Values = Sequence[tuple[str, str, str, str]]  # account, tag, value, currency


@dataclass
class Known:
    """What was heard of an order on this connection.

    Parameters
    ----------
    ref, account, symbol : str
    order_id, client_id, perm_id : int
    quantity, filled, remaining : Decimal
    status : str
        As TWS writes it; empty: not heard yet.
    code, message
        Why it was refused or cancelled, where TWS said so.
    """

    ref: str
    account: str
    symbol: str
    order_id: int
    client_id: int
    perm_id: int = 0
    quantity: Decimal = Decimal(0)
    filled: Decimal = Decimal(0)
    remaining: Decimal = Decimal(0)
    status: str = ""
    why_held: str = ""
    code: int = 0
    message: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether TWS has shown it as its own."""
        return bool(self.status)

    @property
    def state(self) -> OrderState:
        """What its status means; ``Inactive`` is a refusal only where a reason came with it."""
        if self.status == "Inactive" and self.why_held:
            return OrderState.WORKING
        if self.status == "Inactive" and self.code and self.code != 202:
            return OrderState.REJECTED
        return STATUSES.get(self.status, OrderState.UNKNOWN)

    def said(self, state: OrderState | None = None, code: int = 0, message: str = "") -> OrderSaid:
        """A word of it."""
        return OrderSaid(
            ref=self.ref,
            order_id=self.order_id,
            client_id=self.client_id,
            perm_id=self.perm_id,
            account=self.account,
            symbol=self.symbol,
            state=self.state if state is None else state,
            filled=self.filled,
            remaining=self.remaining,
            why_held=self.why_held,
            code=code or (self.code if self.state.is_final else 0),
            message=message or (self.message if self.state.is_final else ""),
        )

    def heard(self, word: tuple[int, int, int, str, float, float, str]) -> None:
        """Take in a status of the wire."""
        _, _, perm_id, status, filled, remaining, why_held = word
        self.perm_id = perm_id or self.perm_id
        self.status = status
        self.filled, self.remaining = decimal(filled), decimal(remaining)
        self.why_held = why_held


def read_order(contract_symbol: str, order: Any, state: Any) -> Known:
    """What an ``openOrder`` of the wire tells."""
    quantity = decimal(order.totalQuantity)
    return Known(
        ref=order.orderRef,
        account=order.account,
        symbol=contract_symbol,
        order_id=_number(order.orderId),
        client_id=_number(order.clientId),
        perm_id=_number(order.permId),
        quantity=quantity,
        remaining=quantity,
        status=state.status,
    )


def read_completed(contract_symbol: str, order: Any, state: Any) -> OrderSaid:
    """What a ``completedOrder`` of the wire tells: it has no number but the permanent one."""
    filled = decimal(order.filledQuantity) if 0 <= order.filledQuantity < UNSET else Decimal(0)
    known = read_order(contract_symbol, order, state)
    known.filled, known.remaining = filled, max(known.quantity - filled, Decimal(0))
    now = known.state
    if now is OrderState.UNKNOWN and state.status == "Inactive":
        now = OrderState.REJECTED
    return known.said(now, message=getattr(state, "completedStatus", ""))


def read_execution(contract_symbol: str, execution: Any) -> Execution:
    """A fill.

    Raises
    ------
    DataError
        Its side is neither bought nor sold, or a number of it is none.
    """
    sides = {"BOT": Side.BUY, "SLD": Side.SELL}
    if execution.side not in sides:
        raise DataError(f"TWS: execution {execution.execId} has side {execution.side!r}")
    for number in (execution.shares, execution.price):
        if _money(number) is None:
            raise DataError(f"TWS: execution {execution.execId} has the number {number}")
    return Execution(
        exec_id=execution.execId,
        account=execution.acctNumber,
        symbol=contract_symbol,
        side=sides[execution.side],
        shares=decimal(execution.shares),
        price=Decimal(str(execution.price)),
        time=execution.time.astimezone(UTC),
        ref=execution.orderRef,
        order_id=_number(execution.orderId),
        client_id=_number(execution.clientId),
        perm_id=_number(execution.permId),
        liquidation=bool(int(execution.liquidation or 0)),
    )


def read_commission(report: Any) -> Commission | None:
    """A fee; none where TWS writes its way to say "not known"."""
    amount = _money(report.commission)
    if amount is None:
        return None
    return Commission(report.execId, amount, report.currency or CURRENCY)


def read_account(name: str, values: Values) -> Account:
    """Money of an account, from its summary; what is not in USD is not known."""
    found = {
        tag: _money(value)
        for whose, tag, value, currency in values
        if whose == name and tag in TAGS and currency == CURRENCY
    }
    return Account(name, *(found.get(tag) for tag in TAGS))


def other_currency(name: str, values: Values) -> str:
    """The currency of an account, from its summary; empty: USD, or not told."""
    told = {c for whose, tag, _, c in values if whose == name and tag in TAGS and c}
    return "" if CURRENCY in told else ", ".join(sorted(told))


def read_margin(state: Any) -> Margin:
    """Answer to what-if.

    Raises
    ------
    DataError
        TWS gave no numbers.
    """
    initial, maintenance, equity, commission = (
        _money(getattr(state, name))
        for name in ("initMarginAfter", "maintMarginAfter", "equityWithLoanAfter", "commission")
    )
    if initial is None or maintenance is None or equity is None:
        raise DataError("TWS: the answer to what-if has no margins")
    return Margin(initial, maintenance, equity, commission)


def _money(value: Any) -> Decimal | None:
    if value in (None, ""):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < Decimal(UNSET) else None


def _number(value: Any) -> int:
    return 0 if value in (None, "", UNSET_INTEGER) else int(value)


def write_order(
    order_class: Any, intent: Intent, limit: Decimal | None, what_if: bool = False
) -> Any:
    """The library's order: everything that TWS might set from a preset is said explicitly.

    Raises
    ------
    DataError
        A limit is missing, or is no price.
    """
    kind = {Style.MARKET: "MKT", Style.CLOSE: "MOC"}.get(intent.style, "LMT")
    limit = limit if limit is not None else intent.limit
    if kind == "LMT" and (limit is None or not limit.is_finite() or limit <= 0):
        raise DataError(f"{intent.id}: a limit order with the limit {limit}")
    order = order_class(
        action="BUY" if intent.side is Side.BUY else "SELL",
        totalQuantity=intent.shares,
        orderType=kind,
        tif="DAY",
        account=intent.account,
        orderRef=intent.id,
        outsideRth=False,
        transmit=True,
        whatIf=what_if,
    )
    if kind == "LMT" and limit is not None:
        order.lmtPrice = float(limit)
    return order
