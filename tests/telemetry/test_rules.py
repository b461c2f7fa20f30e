"""Alert rules: Prometheus takes them, each fires when it must and is silent when it must."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from dpa.cli import main
from dpa.telemetry import catalogue as c
from dpa.telemetry.boards import BOARDS
from dpa.telemetry.panels import WINDOW
from dpa.telemetry.prometheus import CONFIG, export
from dpa.telemetry.prometheus import RULES as RULE_FILE
from dpa.telemetry.rules import RULES

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)
MINUTES = 30  # at which every case is judged
Series = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """Series under which a rule fires, and others under which it does not; one value a minute."""

    fires: Series
    silent: Series
    labels: Mapping[str, str] = field(default_factory=dict)


def up(*values: str) -> dict[str, str]:
    return {f'up{{job="ray",instance="10.0.0.{k}:8080"}}': value for k, value in enumerate(values)}


def of(metric: c.Metric, values: str, labels: str = "", suffix: str = "") -> dict[str, str]:
    return {f"{metric.exported}{suffix}{labels}": values}


def slow_commits(le: str) -> dict[str, str]:
    """Commits of which all took less than `le` and none less than the bound below it."""
    bounds = {"0.5": "0.5", "1.0": "1.0", "5.0": "5.0", "+Inf": "+Inf"}
    found: dict[str, str] = {}
    for bound in bounds:
        below = bound != "+Inf" and float(bound) < float(le)
        growth = "0+0x30" if below else "0+60x30"
        found |= of(c.JOURNAL_COMMIT_SECONDS, growth, f'{{le="{bound}"}}', "_bucket")
    return found


def families(late: str, ok: str) -> dict[str, str]:
    return of(c.FAMILY_ANSWERS, late, '{family="gbdt",outcome="late"}') | of(
        c.FAMILY_ANSWERS, ok, '{family="gbdt",outcome="ok"}'
    )


def disk(free: str) -> dict[str, str]:
    where = '{ip="10.0.0.1"}'
    return {f"ray_node_disk_free{where}": free, f"ray_node_disk_usage{where}": "95x30"}


TRADING = of(c.TRADER_TRADING, "1x30")
BEATS = of(c.TRADER_BEAT, "0+60x30")
BEATS_END = of(c.TRADER_BEAT, "0+60x25 1500x5")  # five minutes ago
VANISHED = of(c.TRADER_BEAT, "0+60x20 _x10") | of(c.TRADER_TRADING, "1x20 _x10")
QUEUE, MARGIN = '{code="queue"}', '{code="margin"}'
CASES = {
    "DpaTraderAway": Case(TRADING | BEATS_END, TRADING | BEATS),
    "DpaTraderWaits": Case(of(c.TRADER_TRADING, "0x30"), of(c.TRADER_TRADING, "0x25 1x5")),
    "DpaTradingNotRunning": Case(of(c.SWITCH_LEVEL, "1x30"), of(c.SWITCH_LEVEL, "3x30")),
    "DpaTradingHalted": Case(of(c.SWITCH_LEVEL, "0x29 3"), of(c.SWITCH_LEVEL, "2x30")),
    "DpaReconciliationBreak": Case(
        of(c.RECONCILIATION_BREAKS, "0x29 2"), of(c.RECONCILIATION_BREAKS, "0x30")
    ),
    "DpaNoDecision": Case(
        of(c.BARS_WITHOUT_DECISION, "2x30") | of(c.SESSION_OPEN, "1x30"),
        of(c.BARS_WITHOUT_DECISION, "2x30") | of(c.SESSION_OPEN, "0x30"),
    ),
    "DpaGatewayDisconnected": Case(
        TRADING | of(c.GATEWAY_CONNECTED, "0x30"), TRADING | of(c.GATEWAY_CONNECTED, "0x29 1")
    ),
    "DpaLimitNear": Case(
        of(c.LIMIT_USED, "0.85x30", '{limit="drawdown"}'),
        of(c.LIMIT_USED, "0.75x30", '{limit="drawdown"}'),
        {"limit": "drawdown"},
    ),
    "DpaMarginNear": Case(
        of(c.ORDERS_REFUSED, "1x25 2x5", MARGIN), of(c.ORDERS_REFUSED, "1x30", MARGIN)
    ),
    "DpaQueueRefused": Case(
        of(c.ORDERS_REFUSED, "_x25 1x5", QUEUE), of(c.ORDERS_REFUSED, "_x25 1x5", MARGIN)
    ),
    "DpaJournalSlow": Case(slow_commits("5.0"), slow_commits("1.0")),
    "DpaFamilyLeftOut": Case(
        families("0+3x30", "0+10x30"), families("0+1x30", "0+10x30"), {"family": "gbdt"}
    ),
    "DpaBundleRefused": Case(of(c.BUNDLE_REFUSED, "1x30"), of(c.BUNDLE_REFUSED, "1x29 0")),
    "DpaTrialFailed": Case(
        of(c.TRIALS_ENDED, "_x28 1x2", '{outcome="failed"}'),
        of(c.TRIALS_ENDED, "_x28 1x2", '{outcome="done"}'),
    ),
    "DpaFitFailed": Case(
        of(c.FITS_DONE, "0x28 1x2", '{family="ridge",outcome="failed"}'),
        of(c.FITS_DONE, "0+1x30", '{family="ridge",outcome="done"}'),
        {"family": "ridge"},
    ),
    "DpaNodeLost": Case(up("1x30", "1x20 _x10"), up("1x30", "1x30")),
    "DpaDiskNearlyFull": Case(disk("5x30"), disk("50x30"), {"ip": "10.0.0.1"}),
}
MORE = {
    "a trader that vanished": ("DpaTraderAway", VANISHED, True),
    "a trader that was stopped": (
        "DpaTraderAway",
        BEATS_END | of(c.TRADER_TRADING, "1x25 0x5"),
        False,
    ),
    "a node that does not answer": ("DpaNodeLost", up("1x30", "1x25 0x5"), True),
    "no node at all": ("DpaNodeLost", {"nothing": "1x30"}, True),
    "paused is not halted": ("DpaTradingHalted", of(c.SWITCH_LEVEL, "1x30"), False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("monitoring")
    assert main(["metrics", "export", str(where)]) == 0
    return where


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_rule_has_a_case():
    assert set(CASES) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_to_do(rule):
    assert rule.cure
    assert rule.what[0] == "{" or rule.what[0].islower()
    assert not rule.what.endswith(".")
    assert rule.severity in ("warning", "critical")


@needs_promtool
def test_prometheus_takes_the_configuration(folder):
    assert f"{len(RULES)} rules found" in promtool("check", "config", str(folder / CONFIG))
    promtool("check", "rules", "--lint-fatal", str(folder / RULE_FILE))


@needs_promtool
def test_each_rule_fires_and_is_silent(folder):
    """One process for all cases; names of the groups in its words say which went wrong."""
    rules = {rule.name: rule for rule in RULES}
    tests = []
    for name, case in CASES.items():
        tests.append(_test(rules[name], case.fires, case.labels))
        tests.append(_test(rules[name], case.silent, None))
    for name, series, fires in MORE.values():
        tests.append(_test(rules[name], series, {} if fires else None))
    document = {"rule_files": [RULE_FILE], "evaluation_interval": "1m", "tests": tests}
    path = folder / "rules-test.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    promtool("test", "rules", str(path))


def _test(rule, series: Series, labels: Mapping[str, str] | None) -> dict:
    """A case in the words of promtool: which alerts hold in the end, whatever they say."""
    shown = f'ALERTS{{alertname="{rule.name}",alertstate="firing"}}'
    kept = "alertname, alertstate, severity" + "".join(f", {label}" for label in labels or ())
    wanted = {"alertname": rule.name, "alertstate": "firing", "severity": rule.severity}
    words = ",".join(f'{k}="{v}"' for k, v in sorted((wanted | dict(labels or {})).items()))
    samples = [] if labels is None else [{"labels": f"{{{words}}}", "value": 1}]
    return {
        "name": f"{rule.name} {'is silent' if labels is None else 'fires'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"max by ({kept}) ({shown})",
                "eval_time": f"{MINUTES}m",
                "exp_samples": samples,
            }
        ],
    }


@needs_promtool
def test_prometheus_can_read_every_question_of_a_panel(tmp_path):
    records = [
        {"record": f"question:{board.name}:{k}", "expr": query.expr.replace(WINDOW, "1m")}
        for board in BOARDS
        for k, query in enumerate(query for panel in board.panels for query in panel.queries)
    ]
    path = tmp_path / "questions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": records}]}))
    promtool("check", "rules", str(path))


def test_ways_that_cannot_be_written_are_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["metrics", "export", str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["metrics", "export", str(tmp_path / "x"), "--scrape-seconds", "0"]) == 2


def test_the_discovery_file_and_the_pace_are_those_given(tmp_path):
    export(tmp_path, "/srv/ray/found.json", 3)
    document = yaml.safe_load((tmp_path / CONFIG).read_text())
    (job,) = document["scrape_configs"]
    found = {"files": ["/srv/ray/found.json"], "refresh_interval": "3s"}  # also where Ray is later
    assert job == {"job_name": "ray", "file_sd_configs": [found]}
    assert document["global"]["scrape_interval"] == "3s"
    assert document["rule_files"] == [RULE_FILE]
