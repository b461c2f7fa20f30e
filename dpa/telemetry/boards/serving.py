"""Serving: how fast decisions come, what they say, which family is ill."""

from typing import Final

from dpa.telemetry import catalogue as c
from dpa.telemetry.boards.shared import CLUSTER, line, stat
from dpa.telemetry.panels import (
    GREEN,
    ORANGE,
    RED,
    WINDOW,
    Board,
    Panel,
    Query,
    Row,
    mean,
    newest,
    nothing,
    per_second,
    quantile,
    total,
)

DECIDE: Final = '{stage="decide"}'
LEFT_OUT: Final = '{outcome!="ok"}'
SERVING: Final = Board(
    "serving",
    "dpa serving",
    "The decision graph: how fast it answers, what it says, which family is ill.",
    (
        Row(
            "Decisions",
            (
                stat(
                    "Decisions",
                    "Decisions answered since the service was started.",
                    total(c.DECISIONS),
                ),
                stat(
                    "A decision takes",
                    "99 of 100 decisions lately took less, from the parsed request to the "
                    "decision.",
                    f"{quantile(0.99, c.STAGE_SECONDS, where=DECIDE)} >= 0 or "
                    f"{mean(c.STAGE_SECONDS, where=DECIDE)}",
                    "s",
                    steps=((0.5, ORANGE), (2.0, RED)),
                ),
                stat(
                    "Families left out",
                    "Share of forecasts that came late or failed.",
                    f"({total(c.FAMILY_ANSWERS, where=LEFT_OUT, zero=True)})"
                    f" / {total(c.FAMILY_ANSWERS)}",
                    "percentunit",
                    decimals=1,
                    steps=((0.01, ORANGE), (0.1, RED)),
                ),
                stat(
                    "Bundle refused",
                    "Whether the bundle that was promoted is refused; '/v1/bundle' says why.",
                    newest(c.BUNDLE_REFUSED),
                    values=((0, "no", GREEN), (1, "yes", RED)),
                ),
                stat(
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
                line(
                    "Decisions a second",
                    "By level of risk: normal, reduce_only, flatten or halted.",
                    Query(per_second(c.DECISIONS, "level"), "{{level}}"),
                    unit="ops",
                    stacked=True,
                ),
                line(
                    "Time of a decision",
                    "From the parsed request to the decision.",
                    Query(quantile(0.5, c.STAGE_SECONDS, where=DECIDE), "half"),
                    Query(quantile(0.99, c.STAGE_SECONDS, where=DECIDE), "99 of 100"),
                    unit="s",
                    low=0,
                ),
                line(
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
                line(
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
                line(
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
                line(
                    "Answers by family",
                    "ok, late or failed. A family that is late or fails is left out of that "
                    "decision.",
                    Query(total(c.FAMILY_ANSWERS, "family", "outcome"), "{{family}} {{outcome}}"),
                    width=12,
                ),
                line(
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
                line(
                    "Requests a second",
                    "HTTP requests by route, as Ray Serve counts them.",
                    Query(
                        f"sum by (route) (rate(ray_serve_num_http_requests_total[{WINDOW}]))",
                        "{{route}}",
                    ),
                    unit="reqps",
                    width=12,
                ),
                line(
                    "Requests that failed",
                    "HTTP requests answered with an error, by code.",
                    Query(
                        "sum by (error_code) (ray_serve_num_http_error_requests_total)"
                        f" or on () {nothing('error_code')}",
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
