"""What a trader does as metrics: events of the bus are counted, its status is read now and then.

Nothing here is on the way of an order. Ids, symbols and account numbers stay in the journal.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from dpa.clock import Clock
from dpa.telemetry import catalogue
from dpa.telemetry.meters import Meters
from dpa.trading.events import (
    Alert,
    BarTaken,
    Charged,
    Decided,
    Event,
    Filled,
    Intended,
    LeftOut,
    LevelChanged,
    LinkWent,
    NotDecided,
    OrderChanged,
    Reconciled,
    Refused,
    Valued,
)
from dpa.trading.switch import Level
from dpa.trading.traffic import Traffic
from dpa.trading.types import Commission, Execution, Intent, OrderState

REMEMBERED: Final = 10_000  # newest intents, of which fills may still come
BPS: Final = 1e4


class TradingMeters:
    """Counts for one trader.

    Parameters
    ----------
    meters : Meters
    wall : Clock
        The machine's: when something was seen is compared with Prometheus' own clock.
    """

    def __init__(self, meters: Meters, wall: Clock) -> None:
        self._meters, self._wall = meters, wall
        self._intents: OrderedDict[str, Intent] = OrderedDict()
        self._states: dict[str, OrderState] = {}
        self._traffic: Callable[[], Traffic] | None = None
        self._counted = (0, 0)
        self._steps = -1

    # events

    def see(self, event: Event) -> None:
        """Take an event of the bus."""
        match event:
            case BarTaken():
                outcome = "late" if event.late else "partial" if event.missing else "whole"
                self._meters.count(catalogue.BARS_TAKEN, outcome=outcome)
            case Decided():
                self._meters.count(catalogue.DECISIONS_KEPT, binds=event.binds)
                self._meters.gauge(catalogue.BARS_WITHOUT_DECISION, 0.0)
            case NotDecided():
                self._meters.count(catalogue.DECISIONS_KEPT, binds="none came")
                self._meters.gauge(catalogue.BARS_WITHOUT_DECISION, event.in_a_row)
            case Intended():
                self._intended(event)
            case LeftOut():
                self._meters.count(catalogue.TARGETS_LEFT_OUT)
            case Refused():
                self._meters.count(catalogue.ORDERS_REFUSED, code=event.code)
            case OrderChanged():
                self._changed(event)
            case Filled():
                self._filled(event.execution)
            case Charged():
                self._charged(event.commission)
            case LevelChanged():
                self._meters.gauge(catalogue.SWITCH_LEVEL, Level[event.level])
            case LinkWent():
                self._meters.count(catalogue.GATEWAY_LINKS, to="up" if event.up else "down")
                self._meters.gauge(catalogue.GATEWAY_CONNECTED, float(event.up))
            case Reconciled():
                self._reconciled(event)
            case Valued():
                self._valued(event)
            case Alert():
                severity = event.severity.name.lower()
                self._meters.count(catalogue.ALERTS, severity=severity, kind=event.kind)

    def _intended(self, event: Intended) -> None:
        for intent in event.intents:
            self._meters.count(catalogue.INTENTS, purpose=intent.purpose.value)
            self._remember(intent)

    def _remember(self, intent: Intent) -> None:
        self._intents[intent.id] = intent
        while len(self._intents) > REMEMBERED:
            self._intents.popitem(last=False)

    def _changed(self, event: OrderChanged) -> None:
        order = event.order
        before = self._states.get(order.ref)
        if order.state is before:
            return
        self._meters.count(catalogue.ORDERS, state=order.state.value)
        self._remember(order.intent)
        if order.state is OrderState.SENT:
            seconds = (event.at - order.intent.decided_at).total_seconds()
            self._meters.observe(catalogue.ORDER_SEND_SECONDS, seconds)
        if order.state.is_final:
            self._states.pop(order.ref, None)
        else:
            self._states[order.ref] = order.state

    def _filled(self, execution: Execution) -> None:
        if execution.revision > 1:
            self._meters.count(catalogue.FILL_CORRECTIONS)
            return
        side, notional = execution.side.name.lower(), float(execution.shares * execution.price)
        self._meters.count(catalogue.FILLS, side=side)
        self._meters.count(catalogue.FILL_SHARES, float(execution.shares), side=side)
        self._meters.count(catalogue.FILL_NOTIONAL, notional, side=side)
        intent = self._intents.get(execution.ref)
        if intent is not None and intent.reference > 0:
            self._slipped(execution, intent)

    def _slipped(self, execution: Execution, intent: Intent) -> None:
        """What a fill cost against the mid of its decision, where the model has a word too."""
        expected = intent.expected_cost_bps
        if not math.isfinite(expected):
            return
        value = float(execution.shares * intent.reference)
        worse = execution.side.sign * (execution.price - intent.reference) * execution.shares
        self._meters.count(catalogue.FILL_MEASURED, value)
        self._meters.count(catalogue.FILL_EXPECTED, value * expected / BPS)
        sign = "paid" if worse > 0 else "gained"
        self._meters.count(catalogue.FILL_SLIPPAGE, abs(float(worse)), sign=sign)

    def _charged(self, commission: Commission) -> None:
        if commission.currency == "USD":
            sign = "paid" if commission.amount > 0 else "rebated"
            self._meters.count(catalogue.FEES, abs(float(commission.amount)), sign=sign)

    def _reconciled(self, event: Reconciled) -> None:
        outcome = "incomplete" if not event.complete else "breaks" if event.breaks else "clean"
        self._meters.count(catalogue.RECONCILIATIONS, outcome=outcome)
        self._meters.gauge(catalogue.RECONCILIATION_BREAKS, len(event.breaks))

    def _valued(self, event: Valued) -> None:
        self._meters.gauge(catalogue.NAV, float(event.nav))
        self._meters.gauge(catalogue.CASH, float(event.cash))
        self._meters.gauge(catalogue.GROSS, event.gross)
        self._meters.gauge(catalogue.NET, event.net)
        self._meters.gauge(catalogue.LARGEST, event.largest)
        if event.nav.is_finite():
            self._meters.gauge(catalogue.VALUED, self._wall.now().timestamp())
        day = event.nav - event.prior_nav if _known(event.nav, event.prior_nav) else None
        if day is not None:
            self._meters.gauge(catalogue.DAY_PNL, float(day))
            if event.prior_nav > 0:
                self._meters.gauge(catalogue.DAY_PNL_RATIO, float(day / event.prior_nav))

    # what is told beside the bus

    def committed(self, events: int, seconds: float) -> None:
        """The journal put so many events on the disk."""
        self._meters.count(catalogue.JOURNAL_EVENTS, events)
        self._meters.observe(catalogue.JOURNAL_COMMIT_SECONDS, seconds)

    def follow(self, read: Callable[[], Traffic]) -> None:
        """Count from now on what goes over connections to TWS; `read` tells how much it was."""
        traffic = read()
        self._traffic, self._counted = read, (traffic.sent, traffic.received)
        traffic.round_trip, traffic.code = self._went_round, self._told

    def _went_round(self, seconds: float) -> None:
        self._meters.observe(catalogue.GATEWAY_ROUND_TRIP_SECONDS, seconds)

    def _told(self, code: int) -> None:
        self._meters.count(catalogue.GATEWAY_CODES, code=str(code))

    def look(self, status: Mapping[str, Any], in_session: bool) -> None:
        """Read a status of the trader.

        Parameters
        ----------
        status : mapping
            See :meth:`dpa.trading.service.TradingService.status`.
        in_session : bool
            Whether the venue trades now, by the trader's clock.
        """
        trading = status["state"] == "trading"
        self._meters.gauge(catalogue.TRADER_TRADING, float(trading))
        self._meters.gauge(catalogue.SWITCH_LEVEL, Level[status["level"]])
        self._meters.gauge(catalogue.GATEWAY_CONNECTED, float(trading and status["connected"]))
        self._meters.gauge(catalogue.SESSION_OPEN, float(trading and in_session))
        self._meters.gauge(catalogue.ORDERS_WORKING, len(status["orders"]))
        self._meters.gauge(catalogue.POSITIONS, len(status["positions"]))
        self._meters.gauge(catalogue.BARS_WITHOUT_DECISION, status.get("without_decision"))
        for limit in status["limits"]:
            self._meters.gauge(catalogue.LIMIT_USED, limit["used"], limit=limit["name"])
        steps = status.get("steps", 0)
        if trading and steps != self._steps:
            self._steps = steps
            self._meters.gauge(catalogue.TRADER_BEAT, self._wall.now().timestamp())
        self._count_traffic()

    def _count_traffic(self) -> None:
        if self._traffic is None:
            return
        traffic, (sent, received) = self._traffic(), self._counted
        self._counted = traffic.sent, traffic.received
        self._meters.count(catalogue.GATEWAY_MESSAGES, traffic.sent - sent, direction="sent")
        more = traffic.received - received
        self._meters.count(catalogue.GATEWAY_MESSAGES, more, direction="received")


def _known(*money: Decimal) -> bool:
    return all(each.is_finite() for each in money)
