"""What the venue takes for an order, and what it refuses at once. Pure."""

from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation

from dpa.simulation.tws.matching import LIMITED, ORDER_TYPES, STOPPED, conforms
from dpa.simulation.tws.words import Contract, Refused, SimOrder

TIFS = ("DAY", "GTC", "IOC")
ACTIONS = ("BUY", "SELL")
_UNSET = ("", "1.7976931348623157E308", "2147483647", "9223372036854775807")
_INVALID = "Error validating request.-'bW' : cause - "
_WRONG_TICK = "The price does not conform to the minimum price variation for this contract."


def number(fields: Mapping[str, str], name: str) -> Decimal | None:
    """A field as a number; None where it is not set, or not a number."""
    text = fields.get(name, "")
    if text in _UNSET:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def refusal(
    contract: Contract, fields: Mapping[str, str], accounts: Collection[str]
) -> Refused | None:
    """Why these fields are no order, with the code TWS gives."""
    kind = fields.get("orderType", "")
    if fields.get("action") not in ACTIONS:
        return Refused(321, f"{_INVALID}Invalid action:{fields.get('action', '')}")
    if kind not in ORDER_TYPES:
        return Refused(387, f"Unsupported order type for this exchange and security type: {kind}")
    if fields.get("tif", "") not in ("", *TIFS):
        return Refused(321, f"{_INVALID}Invalid time in force:{fields['tif']}")
    if fields.get("transmit", "1") == "0" or fields.get("conditions"):
        return Refused(321, f"{_INVALID}Held and conditional orders are not simulated")
    return (
        _account_refusal(fields.get("account", ""), accounts)
        or _quantity_refusal(contract, number(fields, "totalQuantity"))
        or _price_refusal(contract, fields, kind)
    )


def _account_refusal(account: str, accounts: Collection[str]) -> Refused | None:
    if not account and len(accounts) > 1:
        return Refused(435, "You must specify an account.")
    if account and account not in accounts:
        return Refused(321, f"{_INVALID}Invalid account code:{account}")
    return None


def _quantity_refusal(contract: Contract, quantity: Decimal | None) -> Refused | None:
    if quantity is None or quantity <= 0:
        return Refused(434, "The order size cannot be zero.")
    if not conforms(quantity, contract.size_increment):
        words = "Fractional-sized order cannot be placed via API. "
        return Refused(10243, words + "Please use desktop version to place this order.")
    return None


def _price_refusal(contract: Contract, fields: Mapping[str, str], kind: str) -> Refused | None:
    needed = (("lmtPrice", LIMITED), ("auxPrice", STOPPED))
    for name, kinds in needed:
        if kind not in kinds:
            continue
        price = number(fields, name)
        if price is None or price <= 0:
            return Refused(321, f"{_INVALID}{name} is missing in an order of type {kind}")
        if not conforms(price, contract.min_tick):
            return Refused(110, _WRONG_TICK)
    return None


def sim_order(
    client_id: int, order_id: int, contract: Contract, fields: Mapping[str, str], account: str
) -> SimOrder:
    """The order that fields describe; they have passed :func:`refusal`."""
    quantity = number(fields, "totalQuantity")
    assert quantity is not None
    kind = fields["orderType"]
    return SimOrder(
        client_id=client_id,
        order_id=order_id,
        perm_id=0,
        contract=contract,
        fields=fields,
        account=account,
        action=fields["action"],
        order_type=kind,
        quantity=quantity,
        limit=number(fields, "lmtPrice") if kind in LIMITED else None,
        tif=fields.get("tif") or "DAY",
        ref=fields.get("orderRef", ""),
        parent_id=int(fields.get("parentId") or 0),
    )
