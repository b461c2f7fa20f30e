"""Everything that is counted, counted once: what the rooms tell meters, with numbers known before.

The numbers are small and exact, so that tests can say what must come out.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from dpa.clock import FixedClock
from dpa.serving.meters import ServingMeters
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
    Severity,
    Valued,
)
from dpa.trading.meters import TradingMeters
from dpa.trading.traffic import Traffic
from dpa.trading.types import (
    Commission,
    Execution,
    Intent,
    Order,
    OrderState,
    Purpose,
    Side,
    Style,
)

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
NAV, PRIOR = Decimal("1002000.50"), Decimal("1000000")
INTENT = Intent(
    "dpa-0001",
    "DU1234567",
    "decision-1",
    "AAPL",
    Side.BUY,
    100,
    Style.LIMIT,
    Purpose.ENTER,
    NOW,
    NOW + timedelta(minutes=5),
    Decimal("200.00"),
    Decimal("201.00"),
    expected_cost_bps=2.0,
)
FILL = Execution(
    "0001.01.01", "DU1234567", "AAPL", Side.BUY, Decimal(100), Decimal("200.06"), NOW, "dpa-0001"
)
ORDER = Order(INTENT, 1, 11)


def valued(nav: Decimal = NAV, prior: Decimal = PRIOR) -> Valued:
    """An account of which everything is known."""
    return Valued(NOW, "DU1234567", "2026-03-02", nav, prior, Decimal("5000"), 0.5, -0.1, 0.08)


EVENTS: tuple[Event, ...] = (
    BarTaken(NOW, NOW, 8),
    BarTaken(NOW, NOW, 8, ("AAPL",)),
    BarTaken(NOW, NOW, 8, late=True),
    NotDecided(NOW, NOW, "no answer", 2),
    Decided(NOW, "DU1234567", "decision-1", NOW, "NORMAL", "", "all", "", {}),
    Intended(NOW, "decision-1", (INTENT,)),
    LeftOut(NOW, "decision-1", "MSFT", 5, "no quote"),
    Refused(NOW, replace(INTENT, id="dpa-0002"), "queue", "it waited too long"),
    OrderChanged(NOW, ORDER),
    OrderChanged(NOW + timedelta(seconds=0.25), replace(ORDER, state=OrderState.SENT)),
    OrderChanged(NOW, replace(ORDER, state=OrderState.SENT, limit=Decimal("200.50"))),
    Filled(NOW, FILL, "decision-1"),
    OrderChanged(NOW, replace(ORDER, state=OrderState.FILLED)),
    Filled(NOW, replace(FILL, exec_id="0001.01.02", price=Decimal("200.07")), "decision-1"),
    Charged(NOW, Commission("0001.01.01", Decimal("1.00"))),
    Charged(NOW, Commission("0002.01.01", Decimal("-0.20"))),
    LevelChanged(NOW, "PAUSED", "ann", "looks odd"),
    LinkWent(NOW, False, "closed"),
    LinkWent(NOW, True, "opened"),
    Reconciled(NOW, True),
    valued(),
    Alert(NOW, Severity.WARNING, "broker-silent", "the broker did not answer"),
)
STATUS: dict[str, Any] = {
    "state": "trading",
    "level": "RUNNING",
    "connected": True,
    "orders": [{}],
    "positions": [{}, {}],
    "without_decision": 0,
    "steps": 7,
    "limits": [
        {"name": "daily loss", "used": 0.25},
        {"name": "drawdown", "used": None},
        {"name": "gross exposure", "used": 0.9},
    ],
}


def feed(meters: Meters) -> None:
    """Tell `meters` of everything there is."""
    feed_research(meters)
    feed_serving(meters)
    feed_trading(meters)


def feed_research(meters: Meters) -> None:
    """What tune/ and the reader of shards count; tests of theirs hold that they do."""
    meters.count(catalogue.SHARDS_READ, 3)
    meters.count(catalogue.DATA_READ_BYTES, 4096)
    meters.observe(catalogue.DATA_READ_SECONDS, 0.5)
    tags = {"run": "20260302-a", "trial": "window=60"}
    meters.gauge(catalogue.TRIAL_FOLDS_DONE, 4, **tags)
    meters.gauge(catalogue.TRIAL_NET_SHARPE, 1.25, **tags)
    meters.count(catalogue.TRIAL_RESTARTS)
    meters.count(catalogue.TRIALS_ENDED, outcome="done")
    meters.observe(catalogue.FOLD_SECONDS, 2.0)
    meters.count(catalogue.FITS_DONE, family="ridge", outcome="done")
    meters.observe(catalogue.FIT_SECONDS, 3.0, family="ridge")


def feed_serving(meters: Meters) -> None:
    """What the graph counts at two decisions, one without a family, and a swap of bundles."""
    serving = ServingMeters(meters)
    for name in ("market", "family:ridge", "blender", "decide", "http:parse"):
        serving.stage(name, 0.003)
    serving.decided({"no_skill": 6, "none": 2}, {"enter": 1, "hold": 7}, "normal")
    serving.family("ridge", ok=True)
    serving.family("gbdt", ok=False, why="late")
    serving.bundle("0123456789ab", datetime(2026, 1, 1, tzinfo=UTC), refused=False)
    serving.bundle("ba9876543210", datetime(2026, 2, 1, tzinfo=UTC), refused=False)


def feed_trading(meters: Meters, wall: datetime = NOW) -> None:
    """What a trader counts."""
    trading, traffic = TradingMeters(meters, FixedClock(wall)), Traffic()
    trading.follow(lambda: traffic)
    for event in EVENTS:
        trading.see(event)
    trading.committed(3, 0.002)
    traffic.see(30, 60)
    traffic.round_trip(0.004)
    traffic.code(2104)
    trading.look(STATUS, in_session=True)
