"""What happens while trading, as values that travel on the bus.

Each names the ids it belongs to: a decision, its intents, their orders and their fills carry the
same ids from end to end. An intent's id is the ``ref`` of its orders and fills, and the intent
names its decision. `at` is the moment at which it was known here, UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from dpa.trading.types import Commission, Execution, Intent, Money, Order


class Severity(IntEnum):
    """How much an alert matters."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True)
class BarTaken:
    """A bar came, or was given up waiting for.

    Parameters
    ----------
    at, time : datetime
        When it was taken, and its close.
    symbols : int
        How many are followed.
    missing : tuple of str
        Those without a bar that should have had one.
    late : bool
    """

    at: datetime
    time: datetime
    symbols: int
    missing: tuple[str, ...] = ()
    late: bool = False


@dataclass(frozen=True, eq=False)
class Decided:
    """The graph answered.

    Parameters
    ----------
    at : datetime
    account, decision : str
    time : datetime
        Close of the bar decided on.
    level : str
        Risk level of the decision, such as ``NORMAL``.
    why : str
        Of the level.
    binds : {"all", "reductions", "nothing"}
        What is kept of it.
    because : str
        Why not all; empty when all is.
    content : mapping
        As :func:`dpa.decision.records.to_dict` gives it, without the trace.
    """

    at: datetime
    account: str
    decision: str
    time: datetime
    level: str
    why: str
    binds: str
    because: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class NotDecided:
    """The graph gave no answer for a bar; positions are kept.

    Parameters
    ----------
    at, time : datetime
        Now, and the close of the bar.
    why : str
    in_a_row : int
        Bars without an answer, this one counted.
    """

    at: datetime
    time: datetime
    why: str
    in_a_row: int


@dataclass(frozen=True)
class Intended:
    """What is to be traded, before it is handed over to be checked and sent."""

    at: datetime
    decision: str
    intents: tuple[Intent, ...]


@dataclass(frozen=True)
class LeftOut:
    """Part of a decision that was not made an intent.

    Parameters
    ----------
    at : datetime
    decision, symbol : str
    shares : int
        Signed; what would have been traded.
    why : str
    """

    at: datetime
    decision: str
    symbol: str
    shares: int
    why: str


@dataclass(frozen=True)
class Refused:
    """A pre-trade check refused an intent; nothing was sent.

    Parameters
    ----------
    at : datetime
    intent : Intent
    code : str
        Kind of refusal, for programs.
    what, cure : str
    """

    at: datetime
    intent: Intent
    code: str
    what: str
    cure: str = ""


@dataclass(frozen=True)
class OrderChanged:
    """An order has another state, limit or number than before; `order` is how it is now."""

    at: datetime
    order: Order
    why: str = ""


@dataclass(frozen=True)
class Filled:
    """A fill was booked. A corrected one is booked again with a higher revision.

    Parameters
    ----------
    at : datetime
    execution : Execution
    decision : str
        Id of the decision behind it; empty where the order is not ours.
    """

    at: datetime
    execution: Execution
    decision: str = ""


@dataclass(frozen=True)
class Charged:
    """The fee of a fill was booked."""

    at: datetime
    commission: Commission


@dataclass(frozen=True)
class LevelChanged:
    """What trading allows itself changed: the switch was moved.

    Parameters
    ----------
    at : datetime
    level : str
        ``RUNNING``, ``PAUSED``, ``FLATTENING`` or ``HALTED``.
    by, why : str
    """

    at: datetime
    level: str
    by: str
    why: str


@dataclass(frozen=True)
class LinkWent:
    """The connection to the broker came up or went down."""

    at: datetime
    up: bool
    why: str


@dataclass(frozen=True)
class Reconciled:
    """The broker was asked for everything and compared with the ledger.

    Parameters
    ----------
    at : datetime
    complete : bool
        Whether the broker told everything.
    breaks : tuple of str
        What differed, in words.
    """

    at: datetime
    complete: bool
    breaks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Valued:
    """What the account was worth at a bar.

    Parameters
    ----------
    at : datetime
    account : str
    session : str
        Date of the venue's session, ISO.
    nav, prior_nav, cash : Decimal
        USD; `prior_nav` at the close of the session before.
    gross, net : float
        Exposure, fractions of NAV.
    largest : float
        Of one name, fraction of NAV.
    """

    at: datetime
    account: str
    session: str
    nav: Money
    prior_nav: Money
    cash: Money
    gross: float
    net: float
    largest: float


@dataclass(frozen=True)
class Alert:
    """Something a person should know.

    Parameters
    ----------
    at : datetime
    severity : Severity
    kind : str
        What sort, such as ``graph-away``; limits of rate are kept by kind.
    what : str
        In a sentence.
    facts : mapping
        More, for programs; never a secret.
    """

    at: datetime
    severity: Severity
    kind: str
    what: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Event = (
    BarTaken
    | Decided
    | NotDecided
    | Intended
    | LeftOut
    | Refused
    | OrderChanged
    | Filled
    | Charged
    | LevelChanged
    | LinkWent
    | Reconciled
    | Valued
    | Alert
)
