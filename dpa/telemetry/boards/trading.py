"""Trading: may it trade, what is it worth, what did it send, does the broker agree."""

from typing import Final

from dpa.telemetry import catalogue as c
from dpa.telemetry.boards.shared import line, stat
from dpa.telemetry.catalogue import Metric
from dpa.telemetry.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Board,
    Query,
    Row,
    mean,
    newest,
    per_second,
    quantile,
    total,
)


def _signed(metric: Metric, plus: str, minus: str) -> str:
    """A counter that is kept by sign, as one number."""
    of = tuple(f"({total(metric, where=_sign(sign), zero=True)})" for sign in (plus, minus))
    return f"{of[0]} - {of[1]}"


def _sign(sign: str) -> str:
    return f'{{sign="{sign}"}}'


def _bps(usd: str) -> str:
    """bps of the notional of which slippage and expectation are known."""
    return f"1e4 * ({usd}) / {total(c.FILL_MEASURED)}"


_SLIPPED: Final = _signed(c.FILL_SLIPPAGE, "paid", "gained")
_PAID: Final = _signed(c.FEES, "paid", "rebated")

TRADING: Final = Board(
    "trading",
    "dpa trading",
    "The trader: may it trade, what is it worth, what did it send, does the broker agree.",
    (
        Row(
            "State",
            (
                stat(
                    "Switch",
                    "What trading allows itself. Above RUNNING a person resumes with 'dpa trade "
                    "resume'.",
                    newest(c.SWITCH_LEVEL),
                    values=(
                        (0, "RUNNING", GREEN),
                        (1, "PAUSED", YELLOW),
                        (2, "FLATTENING", ORANGE),
                        (3, "HALTED", RED),
                    ),
                ),
                stat(
                    "Broker",
                    "Whether orders can reach the broker.",
                    newest(c.GATEWAY_CONNECTED),
                    values=((0, "away", RED), (1, "connected", GREEN)),
                ),
                stat(
                    "Session",
                    "Whether the venue trades, by the trader's clock.",
                    newest(c.SESSION_OPEN),
                    values=((0, "closed", BLUE), (1, "open", GREEN)),
                ),
                stat(
                    "Loop stepped",
                    "Time since the trader's loop was last seen to step.",
                    f"time() - {newest(c.TRADER_BEAT)}",
                    "s",
                    steps=((60, ORANGE), (120, RED)),
                ),
                stat(
                    "Bars without decision",
                    "In a row. Positions are kept meanwhile; nothing new is traded.",
                    newest(c.BARS_WITHOUT_DECISION),
                    steps=((1, YELLOW), (2, RED)),
                ),
                stat(
                    "Breaks",
                    "Differences of the newest comparison with the broker.",
                    newest(c.RECONCILIATION_BREAKS),
                    steps=((1, RED),),
                ),
            ),
        ),
        Row(
            "Account",
            (
                stat("NAV", "Net asset value at mid prices.", newest(c.NAV), "currencyUSD"),
                stat(
                    "Today",
                    "Profit since the close of the session before, with fees.",
                    newest(c.DAY_PNL),
                    "currencyUSD",
                ),
                stat(
                    "Today, of NAV",
                    "The same as a share of the NAV at that close.",
                    newest(c.DAY_PNL_RATIO),
                    "percentunit",
                    decimals=2,
                ),
                stat("Positions", "Symbols held.", newest(c.POSITIONS)),
                stat("Orders working", "Orders that may fill now.", newest(c.ORDERS_WORKING)),
                stat(
                    "Worth known",
                    "Time since the account could be valued. Old numbers stay where a new one is "
                    "not known.",
                    f"time() - {newest(c.VALUED)}",
                    "s",
                ),
                line(
                    "Net asset value",
                    "At mid prices, at every bar.",
                    Query(newest(c.NAV), "NAV"),
                    unit="currencyUSD",
                ),
                line(
                    "Exposure",
                    "Longs plus shorts, longs less shorts, and the largest position, of NAV.",
                    Query(newest(c.GROSS), "gross"),
                    Query(newest(c.NET), "net"),
                    Query(newest(c.LARGEST), "largest"),
                    unit="percentunit",
                ),
                line(
                    "Limits used up",
                    "1 is the limit: from there on only what reduces is sent.",
                    Query(newest(c.LIMIT_USED, "limit"), "{{limit}}"),
                    unit="percentunit",
                    low=0,
                    steps=((0.8, ORANGE), (1.0, RED)),
                ),
            ),
        ),
        Row(
            "Decisions and orders",
            (
                line(
                    "Bars taken",
                    "Whole, partial (symbols without a bar) or late.",
                    Query(total(c.BARS_TAKEN, "outcome"), "{{outcome}}"),
                    width=6,
                ),
                line(
                    "Decisions kept",
                    "What was kept of each: all, reductions, nothing, or none came.",
                    Query(total(c.DECISIONS_KEPT, "binds"), "{{binds}}"),
                    width=6,
                ),
                line(
                    "Intents",
                    "Made of decisions, by purpose; and parts of decisions that made none.",
                    Query(total(c.INTENTS, "purpose"), "{{purpose}}"),
                    Query(total(c.TARGETS_LEFT_OUT, zero=True), "left out"),
                    width=6,
                ),
                line(
                    "Refused before sending",
                    "By code of the check; 'dpa trade status' has the words.",
                    Query(total(c.ORDERS_REFUSED, "code", zero=True), "{{code}}"),
                    width=6,
                    steps=((1, ORANGE),),
                ),
                line(
                    "Orders by state",
                    "Orders that came into each state.",
                    Query(total(c.ORDERS, "state"), "{{state}}"),
                    width=12,
                ),
                line(
                    "From decision to wire",
                    "Mean time from a decision to its order being handed to the broker, by the "
                    "trader's clock: 0 in virtual time.",
                    Query(mean(c.ORDER_SEND_SECONDS), "mean"),
                    unit="s",
                    width=12,
                    low=0,
                ),
            ),
        ),
        Row(
            "Fills",
            (
                line(
                    "Fills",
                    "Fills booked, by side; and those the broker corrected.",
                    Query(total(c.FILLS, "side"), "{{side}}"),
                    Query(total(c.FILL_CORRECTIONS, zero=True), "corrected"),
                    width=6,
                ),
                line(
                    "Shares",
                    "Shares filled, by side.",
                    Query(total(c.FILL_SHARES, "side"), "{{side}}"),
                    width=6,
                ),
                line(
                    "Notional",
                    "Shares times price, by side.",
                    Query(total(c.FILL_NOTIONAL, "side"), "{{side}}"),
                    unit="currencyUSD",
                    width=6,
                ),
                line(
                    "Cost against the model",
                    "bps of notional against the mid at the decision: slippage alone, slippage "
                    "and fees, and what the cost model expected of both.",
                    Query(_bps(_SLIPPED), "slippage"),
                    Query(_bps(f"{_SLIPPED} + {_PAID}"), "with fees"),
                    Query(_bps(total(c.FILL_EXPECTED)), "model"),
                    unit="suffix: bps",
                    width=6,
                    decimals=2,
                ),
            ),
        ),
        Row(
            "Journal",
            (
                line(
                    "Events written",
                    "A second, to the journal.",
                    Query(per_second(c.JOURNAL_EVENTS), "events"),
                    unit="ops",
                    width=6,
                ),
                line(
                    "Seconds a commit",
                    "Until a transaction is on the disk. Orders wait for it.",
                    Query(mean(c.JOURNAL_COMMIT_SECONDS), "mean"),
                    Query(quantile(0.99, c.JOURNAL_COMMIT_SECONDS), "99 of 100"),
                    unit="s",
                    width=6,
                    low=0,
                    steps=((0.1, ORANGE), (1.0, RED)),
                ),
                line(
                    "Comparisons with the broker",
                    "clean, breaks or incomplete.",
                    Query(total(c.RECONCILIATIONS, "outcome"), "{{outcome}}"),
                    width=6,
                ),
                line(
                    "Alerts",
                    "What the trader told people, by severity and kind.",
                    Query(total(c.ALERTS, "severity", "kind", zero=True), "{{severity}} {{kind}}"),
                    width=6,
                ),
            ),
        ),
        Row(
            "Gateway",
            (
                line(
                    "Messages a second",
                    "Sent to TWS and received. TWS takes 50 a second.",
                    Query(per_second(c.GATEWAY_MESSAGES, "direction"), "{{direction}}"),
                    unit="mps",
                    width=6,
                ),
                line(
                    "Round trip",
                    "Mean time from a question of liveness to its answer.",
                    Query(mean(c.GATEWAY_ROUND_TRIP_SECONDS), "mean"),
                    unit="s",
                    width=6,
                    low=0,
                ),
                line(
                    "Connections",
                    "Times the connection came up and went down.",
                    Query(total(c.GATEWAY_LINKS, "to", zero=True), "{{to}}"),
                    width=6,
                ),
                line(
                    "Notices of TWS",
                    "By code; 2104, 2106 and 2158 are remarks that all is well.",
                    Query(total(c.GATEWAY_CODES, "code", zero=True), "{{code}}"),
                    width=6,
                ),
            ),
        ),
    ),
)
