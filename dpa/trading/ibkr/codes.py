"""What the codes of TWS mean for trading: tables, and nothing else.

A code of an error frame whose id is an order's number says little by itself: the same 201 refuses
a new order and, for an order that works, only a change of it. What follows from a code therefore
depends on whether the broker has acknowledged the order; see :class:`OrderCode`.
"""

from enum import StrEnum

from dpa.trading.types import OrderState


class LinkCode(StrEnum):
    """What a code says of the connection between TWS and the broker's servers."""

    DOWN = "down"  # nothing can be sent; fills that come are taken
    RESTORED = "restored"  # data subscriptions live on
    LOST_DATA = "lost data"  # it is back, and every subscription is gone
    FARM_DOWN = "farm down"  # quotes of some symbols stand still
    FARM_UP = "farm up"


LINK_CODES = {
    1100: LinkCode.DOWN,
    1101: LinkCode.LOST_DATA,
    1102: LinkCode.RESTORED,
    2103: LinkCode.FARM_DOWN,
    2104: LinkCode.FARM_UP,
    2105: LinkCode.FARM_DOWN,
    2106: LinkCode.FARM_UP,
    2110: LinkCode.DOWN,
    2157: LinkCode.FARM_DOWN,
    2158: LinkCode.FARM_UP,
}
QUOTE_FARM_DOWN, QUOTE_FARM_UP = 2103, 2104  # the other farms give history


class OrderCode(StrEnum):
    """What a code with an order's number says of that order."""

    REFUSES = "refuses"  # a new order is dead; of a working one, only a change was refused
    ASK = "ask"  # it may live or not: the broker must be asked
    HELD = "held"  # accepted, and waiting
    REMARK = "remark"  # it lives, whatever the words say


ORDER_CODES = {
    103: OrderCode.ASK,  # duplicate number: the order that has it may be this one
    104: OrderCode.ASK,  # cannot change an order that is filled
    105: OrderCode.ASK,
    106: OrderCode.ASK,
    107: OrderCode.REFUSES,
    109: OrderCode.REFUSES,
    110: OrderCode.REFUSES,  # price is no multiple of the tick
    135: OrderCode.ASK,  # cannot find an order with that number
    136: OrderCode.ASK,
    161: OrderCode.ASK,  # cannot be cancelled in its state
    200: OrderCode.REFUSES,  # no such contract
    201: OrderCode.REFUSES,
    202: OrderCode.REMARK,  # cancelled; its status follows
    203: OrderCode.REFUSES,  # security not allowed for the account
    321: OrderCode.REFUSES,  # validation, read-only interface
    322: OrderCode.REFUSES,
    329: OrderCode.ASK,
    355: OrderCode.REFUSES,
    387: OrderCode.REFUSES,
    388: OrderCode.REFUSES,
    391: OrderCode.REFUSES,
    399: OrderCode.REMARK,  # such as: will be placed at the open
    404: OrderCode.HELD,  # shares are being located
    434: OrderCode.REFUSES,
    436: OrderCode.REFUSES,
    460: OrderCode.REFUSES,  # no trading permission
    10147: OrderCode.ASK,
    10148: OrderCode.ASK,
    10187: OrderCode.REFUSES,
    10268: OrderCode.REFUSES,
    10289: OrderCode.REFUSES,  # cash quantity needed
    10311: OrderCode.REMARK,
    10349: OrderCode.REMARK,  # TIF was set by a preset
}
LINE_LIMIT = 101
RATE_BROKEN = 100
ID_IN_USE = 326
READ_ONLY = 321
HISTORY_ERROR = 162
NO_SUCH_QUERY = 366
NO_CONTRACT = 200
NOT_SUBSCRIBED = frozenset({354, 10089, 10168, 10090, 10186})  # no live data for us
DELAYED_SHOWN = 10167  # delayed data is given in its place
COMPETING_SESSION = 10197  # live data is shown elsewhere
REMARKS = frozenset({399, 404, 10167, 10090, 2158, 2137, 2119, 2107, 2108, 2150, 2109})
BEFORE_READY = frozenset({326, 501, 502, 503, 504, 505, 506, 507, 509, 522})

# dpa's own, in the Notice of what no code of TWS says; see Notice.code
REFUSED = 900_001  # the account or the address may not be traded
UNREADABLE = 900_002  # a message could not be read, or a listener failed: trading stops
SILENT = 900_003  # no answer to the watchdog

STATUSES = {
    "PendingSubmit": OrderState.WORKING,
    "ApiPending": OrderState.WORKING,
    "PreSubmitted": OrderState.WORKING,
    "Submitted": OrderState.WORKING,
    "PendingCancel": OrderState.CANCELLING,
    "Cancelled": OrderState.CANCELLED,
    "ApiCancelled": OrderState.CANCELLED,
    "Filled": OrderState.FILLED,
    "Inactive": OrderState.UNKNOWN,  # refused, or asleep: only a reason tells
}


def is_remark(code: int) -> bool:
    """Whether a code never ends the request that it comes with."""
    return code in REMARKS or 2100 <= code < 2200


def state_after(code: int, acknowledged: bool) -> OrderState | None:
    """What a code makes of an order; none: nothing follows.

    Parameters
    ----------
    code : int
    acknowledged : bool
        Whether the broker has ever shown the order as its own.
    """
    meaning = ORDER_CODES.get(code)
    if meaning is OrderCode.HELD:
        return OrderState.WORKING
    if meaning is OrderCode.REMARK or is_remark(code):
        return None
    if meaning is OrderCode.REFUSES and not acknowledged:
        return OrderState.REJECTED
    return OrderState.UNKNOWN
