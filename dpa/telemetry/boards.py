"""The dashboards: research, serving, trading; which panels they have, and why."""

from typing import Final

from dpa.telemetry import catalogue as c
from dpa.telemetry.catalogue import Metric
from dpa.telemetry.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    WINDOW,
    YELLOW,
    Board,
    Panel,
    Query,
    Row,
    mean,
    newest,
    per_second,
    quantile,
    total,
)

OF_RUN: Final = '{run=~"$run"}'
DECIDE: Final = '{stage="decide"}'
LEFT_OUT: Final = '{outcome!="ok"}'


def _line(title: str, words: str, *queries: Query, unit: str = "short", **how: object) -> Panel:
    return Panel(title, words, queries, unit, **how)  # type: ignore[arg-type]


def _stat(title: str, words: str, query: str, unit: str = "short", **how: object) -> Panel:
    settings = {"width": 4, **how}
    return Panel(title, words, (Query(query, title),), unit, "stat", **settings)  # type: ignore[arg-type]


def _by_trial(metric: Metric) -> str:
    return newest(metric, "run", "trial", where=OF_RUN)


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

CLUSTER: Final = Row(
    "Machines",
    (
        _line(
            "Processor used",
            "Share of the cores of each node that is busy, as Ray measures it.",
            Query("sum by (ip) (ray_node_cpu_utilization) / 100", "{{ip}}"),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
        ),
        _line(
            "Memory used",
            "Share of the memory of each node in use. Above 95 % Ray ends work to save the node.",
            Query("sum by (ip) (ray_node_mem_used) / sum by (ip) (ray_node_mem_total)", "{{ip}}"),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
            steps=((0.85, ORANGE), (0.95, RED)),
        ),
        _line(
            "Object store",
            "Bytes of shared arrays by place; what does not fit is spilled to disk.",
            Query("sum by (Location) (ray_object_store_memory)", "{{Location}}"),
            unit="bytes",
            width=6,
        ),
        _line(
            "Disk used",
            "Share of the disk of each node in use. A full disk halts trading.",
            Query(
                "sum by (ip) (ray_node_disk_usage)"
                " / (sum by (ip) (ray_node_disk_usage) + sum by (ip) (ray_node_disk_free))",
                "{{ip}}",
            ),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
            steps=((0.8, ORANGE), (0.9, RED)),
        ),
    ),
)

RESEARCH: Final = Board(
    "research",
    "dpa research",
    "Runs of grids and predictors: how far they are, what they find, what they cost.",
    (
        Row(
            "Trials",
            (
                _stat(
                    "Folds done",
                    "Folds trained and tested by all trials of the runs chosen.",
                    f"sum({_by_trial(c.TRIAL_FOLDS_DONE)})",
                ),
                _stat(
                    "Trials done",
                    "Trials that ended well since the nodes were started.",
                    total(c.TRIALS_ENDED, where='{outcome="done"}', zero=True),
                ),
                _stat(
                    "Trials failed",
                    "Trials that ended with an error; it is a row of the report, and in error.txt "
                    "of the trial.",
                    total(c.TRIALS_ENDED, where='{outcome="failed"}', zero=True),
                    steps=((1, RED),),
                ),
                _stat(
                    "Restarts",
                    "Times a trial went on where a process that died had come to. Many mean that "
                    "nodes are lost or memory is short.",
                    total(c.TRIAL_RESTARTS, zero=True),
                    steps=((1, YELLOW), (10, RED)),
                ),
                _stat(
                    "Highest Sharpe so far",
                    "Of all trials, out of sample, after costs. The highest of many is high by "
                    "chance: the report deflates it.",
                    f"max({_by_trial(c.TRIAL_NET_SHARPE)})",
                    decimals=2,
                ),
                _stat(
                    "Seconds a fold",
                    "Mean time to train and test a fold.",
                    mean(c.FOLD_SECONDS),
                    "s",
                    decimals=2,
                ),
                _line(
                    "Folds done by trial",
                    "A line that stops rising is a trial that waits for a core, or has died.",
                    Query(
                        newest(c.TRIAL_FOLDS_DONE, "run", "trial", where=OF_RUN),
                        "{{run}} {{trial}}",
                    ),
                    width=12,
                    low=0,
                ),
                _line(
                    "Sharpe so far by trial",
                    "Running out-of-sample Sharpe ratio after costs, annualised. Early folds move "
                    "it a lot.",
                    Query(
                        newest(c.TRIAL_NET_SHARPE, "run", "trial", where=OF_RUN),
                        "{{run}} {{trial}}",
                    ),
                    width=12,
                    decimals=2,
                ),
            ),
        ),
        Row(
            "Data",
            (
                _line(
                    "Bars read",
                    "Bytes of bars put into the object store. They are read once for a run, and "
                    "again when the reader dies.",
                    Query(total(c.DATA_READ_BYTES), "bytes"),
                    unit="bytes",
                ),
                _line(
                    "Shard files read",
                    "Files of histories that were read to the end.",
                    Query(total(c.SHARDS_READ), "files"),
                ),
                _line(
                    "Seconds a segment",
                    "Mean time to read, cut and store about 8 MiB of bars.",
                    Query(mean(c.DATA_READ_SECONDS), "mean"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Predictors",
            (
                _line(
                    "Fits done",
                    "Fits of families on folds that ended well.",
                    Query(
                        total(c.FITS_DONE, "family", where='{outcome="done"}'),
                        "{{family}}",
                    ),
                ),
                _line(
                    "Fits failed",
                    "Fits that ended with an error; the run goes on without them and says so.",
                    Query(
                        total(c.FITS_DONE, where='{outcome="failed"}', zero=True),
                        "failed",
                    ),
                    steps=((1, RED),),
                ),
                _line(
                    "Seconds a fit",
                    "Mean time to fit a family on a fold and forecast what follows.",
                    Query(mean(c.FIT_SECONDS, "family"), "{{family}}"),
                    unit="s",
                ),
            ),
        ),
        CLUSTER,
    ),
    run=True,
)

SERVING: Final = Board(
    "serving",
    "dpa serving",
    "The decision graph: how fast it answers, what it says, which family is ill.",
    (
        Row(
            "Decisions",
            (
                _stat(
                    "Decisions",
                    "Decisions answered since the service was started.",
                    total(c.DECISIONS),
                ),
                _stat(
                    "A decision takes",
                    "99 of 100 decisions lately took less, from the parsed request to the "
                    "decision.",
                    f"{quantile(0.99, c.STAGE_SECONDS, where=DECIDE)} >= 0 or "
                    f"{mean(c.STAGE_SECONDS, where=DECIDE)}",
                    "s",
                    steps=((0.5, ORANGE), (2.0, RED)),
                ),
                _stat(
                    "Families left out",
                    "Share of forecasts that came late or failed.",
                    f"({total(c.FAMILY_ANSWERS, where=LEFT_OUT, zero=True)})"
                    f" / {total(c.FAMILY_ANSWERS)}",
                    "percentunit",
                    decimals=1,
                    steps=((0.01, ORANGE), (0.1, RED)),
                ),
                _stat(
                    "Bundle refused",
                    "Whether the bundle that was promoted is refused; '/v1/bundle' says why.",
                    newest(c.BUNDLE_REFUSED),
                    values=((0, "no", GREEN), (1, "yes", RED)),
                ),
                _stat(
                    "Age of its knowledge",
                    "Time since the end of what the bundle in use has learned from.",
                    f"time() - {newest(c.BUNDLE_TRAINED_UNTIL)}",
                    "s",
                ),
                Panel(
                    "Bundle in use",
                    "Start of the fingerprint of the bundle in use.",
                    (Query(f"{newest(c.BUNDLE_SERVED, 'bundle')} == 1", "{{bundle}}"),),
                    "short",
                    "stat",
                    4,
                    values=((1, "in use", GREEN),),
                ),
                _line(
                    "Decisions a second",
                    "By level of risk: normal, reduce_only, flatten or halted.",
                    Query(per_second(c.DECISIONS, "level"), "{{level}}"),
                    unit="ops",
                    stacked=True,
                ),
                _line(
                    "Time of a decision",
                    "From the parsed request to the decision.",
                    Query(quantile(0.5, c.STAGE_SECONDS, where=DECIDE), "half"),
                    Query(quantile(0.99, c.STAGE_SECONDS, where=DECIDE), "99 of 100"),
                    unit="s",
                    low=0,
                ),
                _line(
                    "Mean time by stage",
                    "From a call of a stage to its answer; families are asked at the same time.",
                    Query(mean(c.STAGE_SECONDS, "stage"), "{{stage}}"),
                    unit="s",
                    low=0,
                ),
            ),
        ),
        Row(
            "What is decided",
            (
                _line(
                    "Why not more is traded",
                    "Share of symbols by reason. A reason that takes all of them is worth a look: "
                    "no quote, no skill, a limit.",
                    Query(
                        f"{total(c.DECISION_REASONS, 'reason')} / on () group_left "
                        f"{total(c.DECISION_REASONS)}",
                        "{{reason}}",
                    ),
                    unit="percentunit",
                    width=12,
                    stacked=True,
                    low=0,
                    high=1,
                ),
                _line(
                    "What is done",
                    "Share of symbols by action.",
                    Query(
                        f"{total(c.DECISION_ACTIONS, 'action')} / on () group_left "
                        f"{total(c.DECISION_ACTIONS)}",
                        "{{action}}",
                    ),
                    unit="percentunit",
                    width=12,
                    stacked=True,
                    low=0,
                    high=1,
                ),
            ),
        ),
        Row(
            "Families",
            (
                _line(
                    "Answers by family",
                    "ok, late or failed. A family that is late or fails is left out of that "
                    "decision.",
                    Query(total(c.FAMILY_ANSWERS, "family", "outcome"), "{{family}} {{outcome}}"),
                    width=12,
                ),
                _line(
                    "Mean time by family",
                    "From a call of a family to its answer; serving.family_ms bounds it.",
                    Query(mean(c.STAGE_SECONDS, "stage", where='{stage=~"family.*"}'), "{{stage}}"),
                    unit="s",
                    width=12,
                    low=0,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                _line(
                    "Requests a second",
                    "HTTP requests by route, as Ray Serve counts them.",
                    Query(
                        f"sum by (route) (rate(ray_serve_num_http_requests_total[{WINDOW}]))",
                        "{{route}}",
                    ),
                    unit="reqps",
                    width=12,
                ),
                _line(
                    "Requests that failed",
                    "HTTP requests answered with an error, by code.",
                    Query(
                        "sum by (error_code) (ray_serve_num_http_error_requests_total)"
                        " or vector(0)",
                        "{{error_code}}",
                    ),
                    width=12,
                    steps=((1, RED),),
                ),
            ),
        ),
        CLUSTER,
    ),
)

TRADING: Final = Board(
    "trading",
    "dpa trading",
    "The trader: may it trade, what is it worth, what did it send, does the broker agree.",
    (
        Row(
            "State",
            (
                _stat(
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
                _stat(
                    "Broker",
                    "Whether orders can reach the broker.",
                    newest(c.GATEWAY_CONNECTED),
                    values=((0, "away", RED), (1, "connected", GREEN)),
                ),
                _stat(
                    "Session",
                    "Whether the venue trades, by the trader's clock.",
                    newest(c.SESSION_OPEN),
                    values=((0, "closed", BLUE), (1, "open", GREEN)),
                ),
                _stat(
                    "Loop stepped",
                    "Time since the trader's loop was last seen to step.",
                    f"time() - {newest(c.TRADER_BEAT)}",
                    "s",
                    steps=((60, ORANGE), (120, RED)),
                ),
                _stat(
                    "Bars without decision",
                    "In a row. Positions are kept meanwhile; nothing new is traded.",
                    newest(c.BARS_WITHOUT_DECISION),
                    steps=((1, YELLOW), (2, RED)),
                ),
                _stat(
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
                _stat("NAV", "Net asset value at mid prices.", newest(c.NAV), "currencyUSD"),
                _stat(
                    "Today",
                    "Profit since the close of the session before, with fees.",
                    newest(c.DAY_PNL),
                    "currencyUSD",
                ),
                _stat(
                    "Today, of NAV",
                    "The same as a share of the NAV at that close.",
                    newest(c.DAY_PNL_RATIO),
                    "percentunit",
                    decimals=2,
                ),
                _stat("Positions", "Symbols held.", newest(c.POSITIONS)),
                _stat("Orders working", "Orders that may fill now.", newest(c.ORDERS_WORKING)),
                _stat(
                    "Worth known",
                    "Time since the account could be valued. Old numbers stay where a new one is "
                    "not known.",
                    f"time() - {newest(c.VALUED)}",
                    "s",
                ),
                _line(
                    "Net asset value",
                    "At mid prices, at every bar.",
                    Query(newest(c.NAV), "NAV"),
                    unit="currencyUSD",
                ),
                _line(
                    "Exposure",
                    "Longs plus shorts, longs less shorts, and the largest position, of NAV.",
                    Query(newest(c.GROSS), "gross"),
                    Query(newest(c.NET), "net"),
                    Query(newest(c.LARGEST), "largest"),
                    unit="percentunit",
                ),
                _line(
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
                _line(
                    "Bars taken",
                    "Whole, partial (symbols without a bar) or late.",
                    Query(total(c.BARS_TAKEN, "outcome"), "{{outcome}}"),
                    width=6,
                ),
                _line(
                    "Decisions kept",
                    "What was kept of each: all, reductions, nothing, or none came.",
                    Query(total(c.DECISIONS_KEPT, "binds"), "{{binds}}"),
                    width=6,
                ),
                _line(
                    "Intents",
                    "Made of decisions, by purpose; and parts of decisions that made none.",
                    Query(total(c.INTENTS, "purpose"), "{{purpose}}"),
                    Query(total(c.TARGETS_LEFT_OUT, zero=True), "left out"),
                    width=6,
                ),
                _line(
                    "Refused before sending",
                    "By code of the check; 'dpa trade status' has the words.",
                    Query(total(c.ORDERS_REFUSED, "code", zero=True), "{{code}}"),
                    width=6,
                    steps=((1, ORANGE),),
                ),
                _line(
                    "Orders by state",
                    "Orders that came into each state.",
                    Query(total(c.ORDERS, "state"), "{{state}}"),
                    width=12,
                ),
                _line(
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
                _line(
                    "Fills",
                    "Fills booked, by side; and those the broker corrected.",
                    Query(total(c.FILLS, "side"), "{{side}}"),
                    Query(total(c.FILL_CORRECTIONS, zero=True), "corrected"),
                    width=6,
                ),
                _line(
                    "Shares",
                    "Shares filled, by side.",
                    Query(total(c.FILL_SHARES, "side"), "{{side}}"),
                    width=6,
                ),
                _line(
                    "Notional",
                    "Shares times price, by side.",
                    Query(total(c.FILL_NOTIONAL, "side"), "{{side}}"),
                    unit="currencyUSD",
                    width=6,
                ),
                _line(
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
                _line(
                    "Events written",
                    "A second, to the journal.",
                    Query(per_second(c.JOURNAL_EVENTS), "events"),
                    unit="ops",
                    width=6,
                ),
                _line(
                    "Seconds a commit",
                    "Until a transaction is on the disk. Orders wait for it.",
                    Query(mean(c.JOURNAL_COMMIT_SECONDS), "mean"),
                    Query(quantile(0.99, c.JOURNAL_COMMIT_SECONDS), "99 of 100"),
                    unit="s",
                    width=6,
                    low=0,
                    steps=((0.1, ORANGE), (1.0, RED)),
                ),
                _line(
                    "Comparisons with the broker",
                    "clean, breaks or incomplete.",
                    Query(total(c.RECONCILIATIONS, "outcome"), "{{outcome}}"),
                    width=6,
                ),
                _line(
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
                _line(
                    "Messages a second",
                    "Sent to TWS and received. TWS takes 50 a second.",
                    Query(per_second(c.GATEWAY_MESSAGES, "direction"), "{{direction}}"),
                    unit="mps",
                    width=6,
                ),
                _line(
                    "Round trip",
                    "Mean time from a question of liveness to its answer.",
                    Query(mean(c.GATEWAY_ROUND_TRIP_SECONDS), "mean"),
                    unit="s",
                    width=6,
                    low=0,
                ),
                _line(
                    "Connections",
                    "Times the connection came up and went down.",
                    Query(total(c.GATEWAY_LINKS, "to", zero=True), "{{to}}"),
                    width=6,
                ),
                _line(
                    "Notices of TWS",
                    "By code; 2104, 2106 and 2158 are remarks that all is well.",
                    Query(total(c.GATEWAY_CODES, "code", zero=True), "{{code}}"),
                    width=6,
                ),
            ),
        ),
    ),
)

BOARDS: Final = (RESEARCH, SERVING, TRADING)
