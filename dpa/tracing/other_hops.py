"""What the decision service, the brokers' own records and runs tell of an id."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from dpa.runs import RunDirectory
from dpa.tracing.hops import Hop, Kind, Stage, Subject
from dpa.tracing.places import Sources

MOST_RECORDS = 5  # of one decision, where it is traced itself


def decision_hops(sources: Sources, subject: Subject, notes: list[str]) -> Iterator[Hop]:
    """What the decision service keeps: the newest decision of each account, with its reasons."""
    kept = {str(decision["id"]): decision for decision in sources.decisions()}
    for name in sorted(subject.decisions):
        decision = kept.get(name)
        if decision is None:
            if kept:
                notes.append(
                    f"decision {name} is not the newest of an account: the service keeps no older"
                )
            continue
        yield from _decision(decision, subject)


def _decision(decision: Mapping[str, Any], subject: Subject) -> Iterator[Hop]:
    time = datetime.fromisoformat(decision["moment"])
    ids = {"decision_id": str(decision["id"]), "account": str(decision["account"])}
    records = [record for record in decision["symbols"] if _is_traded(record)]
    bundle = f" by bundle {str(decision['bundle'])[:12]}" if decision.get("bundle") else ""
    what = f"decided{bundle}: {len(records)} of {len(decision['symbols'])} symbols traded"
    yield Hop(time, Stage.DECISION, "decision store", what, ids)
    if subject.kind is Kind.DECISION:
        for record in records[:MOST_RECORDS]:
            words = f"{record['symbol']}: from {record['held_shares']:g} to "
            words += f"{record['target_shares']:g} shares"
            words += f" over {record['horizon']}" if record.get("horizon") else ""
            yield Hop(time, Stage.DECISION, "decision store", words, ids)


def _is_traded(record: Mapping[str, Any]) -> bool:
    held, target = record.get("held_shares"), record.get("target_shares")
    return held is not None and target is not None and held != target


def paper_hops(sources: Sources, subject: Subject) -> Iterator[Hop]:
    """The paper broker's own book."""
    for kind, facts in sources.paper_orders():
        if str(facts["order_id"]) not in subject.orders or facts["ref"] not in subject.intents:
            continue
        ids = {"intent_id": facts["ref"], "order_id": str(facts["order_id"])}
        if kind == "fill":
            if facts["exec_id"] in subject.executions:
                what = f"fill {facts['exec_id']}: {facts['side']} {facts['shares']} "
                what += f"{facts['symbol']} at {facts['price']} USD, fee {facts['fee']} USD"
                ids["exec_id"] = facts["exec_id"]
                yield Hop(_at(facts["time"]), Stage.FILL, "paper broker", what, ids)
            continue
        what = f"order {facts['order_id']} taken: {facts['side']} {facts['shares']} "
        what += facts["symbol"]
        yield Hop(_at(facts["placed_at"]), Stage.ORDER, "paper broker", what, ids)
        if facts["ended_at"]:
            what = f"order {facts['order_id']} {facts['state']}: {facts['filled']} of "
            what += f"{facts['shares']} shares"
            yield Hop(_at(facts["ended_at"]), Stage.END, "paper broker", what, ids)


def gateway_hops(sources: Sources, subject: Subject) -> Iterator[Hop]:
    """What a simulated gateway said at its end; of orders it tells no times."""
    for record in sources.gateway_records():
        for fill in record["executions"]:
            if fill["exec_id"] in subject.executions:
                ids = {"exec_id": fill["exec_id"], "intent_id": fill["ref"]}
                what = f"fill {fill['exec_id']}: {fill['shares']} at {fill['price']} USD"
                yield Hop(_at(fill["time"]), Stage.FILL, "gateway", what, ids)
        for order in record["orders"]:
            if order["ref"] in subject.intents and str(order["order_id"]) in subject.orders:
                ids = {"intent_id": order["ref"], "order_id": str(order["order_id"])}
                what = f"at the end of its day order {order['order_id']} is {order['status']}: "
                what += f"{order['filled']} of {order['quantity']} shares"
                yield Hop(_at(record["now"]), Stage.END, "gateway", what, ids)


def run_hops(sources: Sources, subject: Subject) -> Iterator[Hop]:
    """A run's manifest, its bundle, and what was promoted."""
    for name in sorted(subject.runs):
        run, ids = RunDirectory(sources.storage / name), {"run_id": name}
        if not run.manifest_path.is_file():
            continue
        manifest = run.read_manifest()
        what = f"a run of {manifest.kind} begins: {manifest.n_trials} trials on "
        what += f"{manifest.data.source}; now {run.status()}"
        yield Hop(manifest.created_at, Stage.RUN, "manifest", what, ids)
        bundle = _json(run.bundle / "manifest.json")
        if bundle is not None:
            what = f"bundle {str(bundle['fingerprint'])[:12]} made"
            yield Hop(_at(bundle["created_at"]), Stage.RUN, "bundle", what, ids)
        for path in (run.best / "promoted.json", sources.storage / "promoted-bundle.json"):
            found = _json(path)
            if found is not None and name in (found.get("run_id"), _run_of(found)):
                what = f"{found.get('trial_id') or 'its bundle'} promoted by {found['promoted_by']}"
                yield Hop(_at(found["promoted_at"]), Stage.RUN, path.name, what, ids)


def _run_of(pointer: Mapping[str, Any]) -> str:
    return Path(str(pointer.get("bundle", ""))).parent.name


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)
