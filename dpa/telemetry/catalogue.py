"""Every metric there is: name, kind, unit, help, tags. Dashboards and alert rules are made of it.

Names follow Prometheus: base units (seconds, bytes, ratios; money in USD), the unit at the end of
the name, ``_total`` added to counters when they are exported. Ray puts ``ray_`` before them. No
tag holds a symbol, an order or an account: the values of a tag are few and known before.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FEW: Final = 64  # sets of tags that one process exports of a metric; what comes after is "other"
TRIALS_MOST: Final = 1024  # the same, of metrics tagged by trial


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Unit(StrEnum):
    """What a number counts; each but a plain count is the end of the name."""

    COUNT = "count"
    SECONDS = "seconds"
    TIMESTAMP = "timestamp_seconds"  # since 1970, UTC
    BYTES = "bytes"
    RATIO = "ratio"
    USD = "usd"
    SHARES = "shares"


class Room(StrEnum):
    """What a metric is about."""

    DATA = "data"
    TRIALS = "trials"
    PREDICTORS = "predictors"
    DECISIONS = "decisions"
    ORDERS = "orders"
    FILLS = "fills"
    RISK = "risk"
    JOURNAL = "journal"
    GATEWAY = "gateway"
    TRADER = "trader"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    name : str
        Without the ``ray_`` before it and the ``_total`` after it.
    room : Room
    kind : Kind
    unit : Unit
    help : str
        A sentence without its full stop.
    tags : tuple of str
        Names of its tags; every value says all of them.
    buckets : tuple of float
        Upper bounds, of a histogram.
    most : int
        Sets of tags that one process exports.
    """

    name: str
    room: Room
    kind: Kind
    unit: Unit
    help: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    most: int = FEW

    @property
    def exported(self) -> str:
        """Name in Prometheus; of a histogram, what ``_bucket``, ``_sum``, ``_count`` follow."""
        return f"ray_{self.name}{'_total' if self.kind is Kind.COUNTER else ''}"


_QUICK = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_LONG = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_registered: list[Metric] = []


def _counter(name: str, room: Room, unit: Unit, words: str, *tags: str) -> Metric:
    return _register(Metric(name, room, Kind.COUNTER, unit, words, tags))


def _gauge(name: str, room: Room, unit: Unit, words: str, *tags: str, most: int = FEW) -> Metric:
    return _register(Metric(name, room, Kind.GAUGE, unit, words, tags, most=most))


def _histogram(
    name: str, room: Room, words: str, *tags: str, buckets: tuple[float, ...] = _QUICK
) -> Metric:
    return _register(Metric(name, room, Kind.HISTOGRAM, Unit.SECONDS, words, tags, buckets))


def _register(metric: Metric) -> Metric:
    _registered.append(metric)
    return metric


# data

SHARDS_READ: Final = _counter(
    "dpa_shards_read", Room.DATA, Unit.COUNT, "Shard files of histories that were read to the end"
)
DATA_READ_BYTES: Final = _counter(
    "dpa_data_read_bytes", Room.DATA, Unit.BYTES, "Bars put into the object store"
)
DATA_READ_SECONDS: Final = _histogram(
    "dpa_data_read_seconds",
    Room.DATA,
    "Time to read, cut and store a segment of bars",
    buckets=_LONG,
)

# trials

TRIAL_FOLDS_DONE: Final = _gauge(
    "dpa_trial_folds_done",
    Room.TRIALS,
    Unit.COUNT,
    "Folds trained and tested",
    "run",
    "trial",
    most=TRIALS_MOST,
)
TRIAL_NET_SHARPE: Final = _gauge(
    "dpa_trial_net_sharpe_ratio",
    Room.TRIALS,
    Unit.RATIO,
    "Running out-of-sample Sharpe ratio after costs, annualised",
    "run",
    "trial",
    most=TRIALS_MOST,
)
TRIAL_RESTARTS: Final = _counter(
    "dpa_trial_restarts",
    Room.TRIALS,
    Unit.COUNT,
    "Times a trial went on at a fold that an earlier process had reached",
)
TRIALS_ENDED: Final = _counter(
    "dpa_trials_ended", Room.TRIALS, Unit.COUNT, "Trials that ended: done or failed", "outcome"
)
FOLD_SECONDS: Final = _histogram(
    "dpa_fold_seconds", Room.TRIALS, "Time to train and test a fold", buckets=_LONG
)

# predictors

FITS_DONE: Final = _counter(
    "dpa_fits_done",
    Room.PREDICTORS,
    Unit.COUNT,
    "Fits of predictors by outcome: done or failed",
    "family",
    "outcome",
)
FIT_SECONDS: Final = _histogram(
    "dpa_fit_seconds",
    Room.PREDICTORS,
    "Time to fit a family on a fold and forecast what follows",
    "family",
    buckets=_LONG,
)
BUNDLE_SERVED: Final = _gauge(
    "dpa_bundle_served",
    Room.PREDICTORS,
    Unit.COUNT,
    "1 for the bundle in use, by the start of its fingerprint; 0 for those before it",
    "bundle",
)
BUNDLE_TRAINED_UNTIL: Final = _gauge(
    "dpa_bundle_trained_until_timestamp_seconds",
    Room.PREDICTORS,
    Unit.TIMESTAMP,
    "End of what the bundle in use has learned from; time() less it is the age of its knowledge",
)
BUNDLE_REFUSED: Final = _gauge(
    "dpa_bundle_refused",
    Room.PREDICTORS,
    Unit.COUNT,
    "1 while the bundle that was promoted is refused and an older one serves",
)

# decisions

STAGE_SECONDS: Final = _histogram(
    "dpa_stage_seconds",
    Room.DECISIONS,
    "Time from a call of a stage to its answer; 'decide' is the whole graph",
    "stage",
)
DECISIONS: Final = _counter(
    "dpa_decisions", Room.DECISIONS, Unit.COUNT, "Decisions answered by level of risk", "level"
)
DECISION_REASONS: Final = _counter(
    "dpa_decision_reasons",
    Room.DECISIONS,
    Unit.COUNT,
    "Symbols of decisions by why not more is traded",
    "reason",
)
DECISION_ACTIONS: Final = _counter(
    "dpa_decision_actions",
    Room.DECISIONS,
    Unit.COUNT,
    "Symbols of decisions by what is done",
    "action",
)
FAMILY_ANSWERS: Final = _counter(
    "dpa_family_answers",
    Room.DECISIONS,
    Unit.COUNT,
    "Forecasts asked of a family by outcome: ok, late or failed",
    "family",
    "outcome",
)

# orders

BARS_TAKEN: Final = _counter(
    "dpa_bars_taken",
    Room.ORDERS,
    Unit.COUNT,
    "Bars the trader took: whole, partial or late",
    "outcome",
)
DECISIONS_KEPT: Final = _counter(
    "dpa_decisions_kept",
    Room.ORDERS,
    Unit.COUNT,
    "Decisions the trader got by what it kept: all, reductions, nothing, or none came",
    "binds",
)
BARS_WITHOUT_DECISION: Final = _gauge(
    "dpa_bars_without_decision",
    Room.ORDERS,
    Unit.COUNT,
    "Bars in a row for which the decision service gave no answer",
)
INTENTS: Final = _counter(
    "dpa_intents", Room.ORDERS, Unit.COUNT, "Intents made of decisions by purpose", "purpose"
)
TARGETS_LEFT_OUT: Final = _counter(
    "dpa_targets_left_out", Room.ORDERS, Unit.COUNT, "Parts of decisions that made no intent"
)
ORDERS_REFUSED: Final = _counter(
    "dpa_orders_refused",
    Room.ORDERS,
    Unit.COUNT,
    "Intents that a check before sending refused, by code",
    "code",
)
ORDERS: Final = _counter(
    "dpa_orders", Room.ORDERS, Unit.COUNT, "Orders by state they came into", "state"
)
ORDER_SEND_SECONDS: Final = _histogram(
    "dpa_order_send_seconds",
    Room.ORDERS,
    "Time from a decision to its order being handed to the broker, by the trader's clock",
)
ORDERS_WORKING: Final = _gauge(
    "dpa_orders_working", Room.ORDERS, Unit.COUNT, "Orders that may fill now"
)

# fills

FILLS: Final = _counter("dpa_fills", Room.FILLS, Unit.COUNT, "Fills booked", "side")
FILL_SHARES: Final = _counter("dpa_fill_shares", Room.FILLS, Unit.SHARES, "Shares filled", "side")
FILL_NOTIONAL: Final = _counter(
    "dpa_fill_notional_usd", Room.FILLS, Unit.USD, "Shares filled times their price", "side"
)
FILL_SLIPPAGE: Final = _counter(
    "dpa_fill_slippage_usd",
    Room.FILLS,
    Unit.USD,
    "What fills cost against the mid price of their decision, without fees: paid, or gained",
    "sign",
)
FILL_EXPECTED: Final = _counter(
    "dpa_fill_expected_slippage_usd",
    Room.FILLS,
    Unit.USD,
    "What the cost model expected fills to cost, spread, impact and commission",
)
FILL_MEASURED: Final = _counter(
    "dpa_fill_measured_usd",
    Room.FILLS,
    Unit.USD,
    "Notional of the fills of which slippage and expectation are known",
)
FILL_CORRECTIONS: Final = _counter(
    "dpa_fill_corrections", Room.FILLS, Unit.COUNT, "Fills the broker corrected afterwards"
)
FEES: Final = _counter("dpa_fees_usd", Room.FILLS, Unit.USD, "Fees: paid, or rebated", "sign")

# risk

SWITCH_LEVEL: Final = _gauge(
    "dpa_switch_level",
    Room.RISK,
    Unit.COUNT,
    "Level of trading: 0 running, 1 paused, 2 flattening, 3 halted",
)
NAV: Final = _gauge("dpa_account_nav_usd", Room.RISK, Unit.USD, "Net asset value at mid prices")
CASH: Final = _gauge("dpa_account_cash_usd", Room.RISK, Unit.USD, "Cash of the ledger")
DAY_PNL: Final = _gauge(
    "dpa_account_day_pnl_usd",
    Room.RISK,
    Unit.USD,
    "Profit since the close of the session before, with fees",
)
DAY_PNL_RATIO: Final = _gauge(
    "dpa_account_day_pnl_ratio",
    Room.RISK,
    Unit.RATIO,
    "Profit since the close of the session before, of the NAV then",
)
GROSS: Final = _gauge("dpa_account_gross_ratio", Room.RISK, Unit.RATIO, "Longs plus shorts, of NAV")
NET: Final = _gauge("dpa_account_net_ratio", Room.RISK, Unit.RATIO, "Longs less shorts, of NAV")
LARGEST: Final = _gauge(
    "dpa_account_largest_ratio", Room.RISK, Unit.RATIO, "Largest single position, of NAV"
)
VALUED: Final = _gauge(
    "dpa_account_valued_timestamp_seconds",
    Room.RISK,
    Unit.TIMESTAMP,
    "When the account's worth was known last",
)
POSITIONS: Final = _gauge("dpa_positions_held", Room.RISK, Unit.COUNT, "Symbols held")
LIMIT_USED: Final = _gauge(
    "dpa_limit_used_ratio", Room.RISK, Unit.RATIO, "Share of a limit that is used up", "limit"
)

# journal

JOURNAL_EVENTS: Final = _counter(
    "dpa_journal_events", Room.JOURNAL, Unit.COUNT, "Events written to the journal"
)
JOURNAL_COMMIT_SECONDS: Final = _histogram(
    "dpa_journal_commit_seconds", Room.JOURNAL, "Time until a transaction is on the disk"
)
RECONCILIATIONS: Final = _counter(
    "dpa_reconciliations",
    Room.JOURNAL,
    Unit.COUNT,
    "Comparisons of the journal with the broker: clean, breaks or incomplete",
    "outcome",
)
RECONCILIATION_BREAKS: Final = _gauge(
    "dpa_reconciliation_breaks",
    Room.JOURNAL,
    Unit.COUNT,
    "Differences the newest comparison with the broker found",
)

# gateway

GATEWAY_CONNECTED: Final = _gauge(
    "dpa_gateway_connected",
    Room.GATEWAY,
    Unit.COUNT,
    "1 while orders can reach the broker, 0 while not",
)
GATEWAY_LINKS: Final = _counter(
    "dpa_gateway_link_changes",
    Room.GATEWAY,
    Unit.COUNT,
    "Times the connection to the broker came up or went down",
    "to",
)
GATEWAY_MESSAGES: Final = _counter(
    "dpa_gateway_messages",
    Room.GATEWAY,
    Unit.COUNT,
    "Messages exchanged with TWS: sent or received",
    "direction",
)
GATEWAY_ROUND_TRIP_SECONDS: Final = _histogram(
    "dpa_gateway_round_trip_seconds", Room.GATEWAY, "Time from a question of liveness to its answer"
)
GATEWAY_CODES: Final = _counter(
    "dpa_gateway_codes", Room.GATEWAY, Unit.COUNT, "Notices of TWS by code", "code"
)

# the trader itself

TRADER_TRADING: Final = _gauge(
    "dpa_trader_trading",
    Room.TRADER,
    Unit.COUNT,
    "1 while the trader trades, 0 while it starts, waits or has ended",
)
TRADER_BEAT: Final = _gauge(
    "dpa_trader_beat_timestamp_seconds",
    Room.TRADER,
    Unit.TIMESTAMP,
    "When the trader's loop was last seen to have stepped",
)
SESSION_OPEN: Final = _gauge(
    "dpa_session_open", Room.TRADER, Unit.COUNT, "1 while the venue trades by the trader's clock"
)
ALERTS: Final = _counter(
    "dpa_alerts", Room.TRADER, Unit.COUNT, "Alerts by severity and kind", "severity", "kind"
)

ALL: Final = tuple(_registered)


def in_room(room: Room) -> tuple[Metric, ...]:
    """The metrics about `room`, in order."""
    return tuple(metric for metric in ALL if metric.room is room)
