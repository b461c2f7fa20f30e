"""Alert rules for Prometheus: what a person must know, when, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from dpa.telemetry import catalogue as c
from dpa.telemetry.catalogue import Metric
from dpa.telemetry.panels import newest

WARNING, CRITICAL = "warning", "critical"
REMEMBERED: Final = "12h"  # how long a trader that vanished is asked after
LATELY: Final = "10m"


@dataclass(frozen=True)
class Rule:
    """One alert.

    Parameters
    ----------
    name : str
    expr : str
        PromQL; every series it returns is an alert.
    lasting : str
        How long it must hold, such as ``2m``.
    severity : {"warning", "critical"}
    what, cure : str
        For people; ``{{ $labels.x }}`` and ``{{ $value }}`` are filled in.
    """

    name: str
    expr: str
    lasting: str
    severity: str
    what: str
    cure: str

    def to_dict(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.what, "description": self.cure},
        }


def happened(metric: Metric, where: str, *tags: str) -> str:
    """Whether a counter grew lately; one that was not there before has grown from 0."""
    tagged = f" by ({', '.join(tags)})" if tags else ""
    name = f"{metric.exported}{where}"
    return (
        f"sum{tagged} (increase({name}[{LATELY}])) > 0"
        f" or sum{tagged} ({name} unless {name} offset {LATELY}) > 0"
    )


def _last(metric: Metric) -> str:
    return f"last_over_time({metric.exported}[{REMEMBERED}])"


TRADING_RULES: Final = (
    Rule(
        "DpaTraderAway",
        f"(time() - topk(1, {_last(c.TRADER_BEAT)}) > 120) and {_last(c.TRADER_TRADING)} == 1",
        "30s",
        CRITICAL,
        "the trader has not stepped for {{ $value | humanizeDuration }}",
        "look at 'dpa trade status'; 'dpa kill' cancels what works; after a stop on purpose "
        "silence this",
    ),
    Rule(
        "DpaTraderWaits",
        f"{newest(c.TRADER_TRADING)} == 0",
        "10m",
        WARNING,
        "the trader runs and does not trade",
        "'dpa trade status' says what it waits for: the broker, or the decision service",
    ),
    Rule(
        "DpaTradingNotRunning",
        f"({newest(c.SWITCH_LEVEL)} > 0) < 3",
        "1m",
        WARNING,
        "trading is paused or flattens (level {{ $value }})",
        "'dpa trade status' says who did it and why; 'dpa trade resume' lets go",
    ),
    Rule(
        "DpaTradingHalted",
        f"{newest(c.SWITCH_LEVEL)} == 3",
        "0s",
        CRITICAL,
        "trading is halted",
        "'dpa trade status' says who did it and why; look before you resume",
    ),
    Rule(
        "DpaReconciliationBreak",
        f"{newest(c.RECONCILIATION_BREAKS)} > 0",
        "0s",
        CRITICAL,
        "the broker and the journal differ in {{ $value }} places",
        "compare 'dpa trade status' with TWS; 'dpa trade adopt' takes over what the broker holds",
    ),
    Rule(
        "DpaNoDecision",
        f"{newest(c.BARS_WITHOUT_DECISION)} >= 2 and {newest(c.SESSION_OPEN)} == 1",
        "0s",
        CRITICAL,
        "no decision for {{ $value }} bars while the session is open",
        "look at 'dpa serve status'; positions are kept meanwhile",
    ),
    Rule(
        "DpaGatewayDisconnected",
        f"{newest(c.GATEWAY_CONNECTED)} == 0 and {newest(c.TRADER_TRADING)} == 1",
        "2m",
        CRITICAL,
        "orders cannot reach the broker",
        "look whether TWS runs and is logged in; the trader connects again by itself",
    ),
    Rule(
        "DpaLimitNear",
        f"{newest(c.LIMIT_USED, 'limit')} > 0.8",
        "1m",
        WARNING,
        "{{ $labels.limit }}: {{ $value | humanizePercentage }} of the limit is used up",
        "from 100 % on only what reduces is sent; lower the risk, or look at the limit",
    ),
    Rule(
        "DpaMarginNear",
        happened(c.ORDERS_REFUSED, '{code="margin"}'),
        "0s",
        WARNING,
        "orders were not sent because of margin",
        "'dpa trade status' has the words of the broker; hold less, or bring in cash",
    ),
    Rule(
        "DpaQueueRefused",
        happened(c.ORDERS_REFUSED, '{code="queue"}'),
        "0s",
        WARNING,
        "orders waited too long to be sent, or found the queue full",
        "raise trading.messages_per_second, or trade fewer symbols",
    ),
    Rule(
        "DpaJournalSlow",
        f"histogram_quantile(0.99, sum by (le) "
        f"(rate({c.JOURNAL_COMMIT_SECONDS.exported}_bucket[5m]))) > 1",
        "5m",
        WARNING,
        "the journal takes {{ $value | humanizeDuration }} to reach the disk",
        "orders wait for it: look at what else writes to that disk",
    ),
)

SERVING_RULES: Final = (
    Rule(
        "DpaFamilyLeftOut",
        f'sum by (family) (increase({c.FAMILY_ANSWERS.exported}{{outcome!="ok"}}[15m]))'
        f" / sum by (family) (increase({c.FAMILY_ANSWERS.exported}[15m])) > 0.1",
        "2m",
        WARNING,
        "family {{ $labels.family }} is left out of {{ $value | humanizePercentage }} of decisions",
        "look at its replica in Ray's dashboard; raise serving.family_ms or "
        "serving.family_replicas where it is late",
    ),
    Rule(
        "DpaBundleRefused",
        f"{newest(c.BUNDLE_REFUSED)} == 1",
        "1m",
        WARNING,
        "the bundle that was promoted is refused; the one before it serves",
        "'dpa serve status' says why; promote another",
    ),
)

RESEARCH_RULES: Final = (
    Rule(
        "DpaTrialFailed",
        happened(c.TRIALS_ENDED, '{outcome="failed"}'),
        "0s",
        WARNING,
        "a trial ended with an error",
        "'dpa runs show latest' names it, its folder has error.txt",
    ),
    Rule(
        "DpaFitFailed",
        happened(c.FITS_DONE, '{outcome="failed"}', "family"),
        "0s",
        WARNING,
        "a fit of {{ $labels.family }} failed",
        "the run prints the error; go on with --resume latest",
    ),
)

CLUSTER_RULES: Final = (
    Rule(
        "DpaNodeLost",
        'up{job="ray"} == 0 or absent(up{job="ray"})'
        ' or max_over_time(count(up{job="ray"} == 1)[15m:30s]) > count(up{job="ray"} == 1)',
        "1m",
        CRITICAL,
        "a node of the cluster, or one of its processes, does not answer",
        "'dpa cluster status' shows who is there; silence this after scaling down on purpose",
    ),
    Rule(
        "DpaDiskNearlyFull",
        "ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage) < 0.1",
        "2m",
        CRITICAL,
        "{{ $labels.ip }}: {{ $value | humanizePercentage }} of the disk is free",
        "a full disk halts trading and ends runs: remove old runs, or what Ray spilled",
    ),
)

RULES: Final = TRADING_RULES + SERVING_RULES + RESEARCH_RULES + CLUSTER_RULES
GROUPS: Final = {
    "dpa trading": TRADING_RULES,
    "dpa serving": SERVING_RULES,
    "dpa research": RESEARCH_RULES,
    "dpa cluster": CLUSTER_RULES,
}


def rule_file() -> dict[str, Any]:
    """All rules as Prometheus reads them."""
    return {"groups": [_group(name, rules) for name, rules in GROUPS.items()]}


def _group(name: str, rules: Iterable[Rule]) -> dict[str, Any]:
    return {"name": name, "rules": [rule.to_dict() for rule in rules]}
