"""Configuration of Prometheus, and the folder that has it with rules and dashboards."""

import json
from pathlib import Path
from typing import Any, Final

import yaml

from dpa.telemetry.dashboards import dashboards
from dpa.telemetry.rules import rule_file

DISCOVERY: Final = "/tmp/ray/prom_metrics_service_discovery.json"  # Ray writes it on the head
CONFIG, RULES, DASHBOARDS = "prometheus.yml", "dpa-rules.yml", "dashboards"
SCRAPE_SECONDS: Final = 10


def configuration(discovery: str, scrape_seconds: int) -> dict[str, Any]:
    """What Prometheus reads at its start.

    Parameters
    ----------
    discovery : str
        File that names the metrics ports of all nodes; Ray keeps it up to date.
    scrape_seconds : int
        Between two readings. Ray's own numbers are new every 5 to 10 seconds.

    Notes
    -----
    A file whose folder is not there yet cannot be watched: where Prometheus is started before
    Ray, it finds the file when it looks again.
    """
    pace = f"{scrape_seconds}s"
    found = {"files": [discovery], "refresh_interval": pace}
    return {
        "global": {"scrape_interval": pace, "evaluation_interval": pace},
        "rule_files": [RULES],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [found]}],
    }


def export(folder: Path, discovery: str = DISCOVERY, scrape_seconds: int = SCRAPE_SECONDS) -> None:
    """Write ``prometheus.yml``, ``dpa-rules.yml`` and ``dashboards/*.json`` into `folder`."""
    (folder / DASHBOARDS).mkdir(parents=True, exist_ok=True)
    _write_yaml(folder / CONFIG, configuration(discovery, scrape_seconds))
    _write_yaml(folder / RULES, rule_file())
    for name, content in dashboards().items():
        text = json.dumps(content, indent=2, sort_keys=True)
        (folder / DASHBOARDS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    text = yaml.safe_dump(content, sort_keys=False, width=100)
    path.write_text(text, encoding="utf-8")
