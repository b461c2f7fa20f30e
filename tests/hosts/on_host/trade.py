"""Steps of the trading scenario on a host: ``python trade.py start|state|compare SETTINGS``.

SETTINGS is a JSON file in the shared folder: storage, ports, speed, and a tree of settings. Each
step prints one line of JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from dpa.config import load_settings
from dpa.serving.client import Client, read_token
from dpa.trading.books_compared import differences
from dpa.trading.journal import Journal
from dpa.trading.places import Keeper, Places, Start
from serve.paper import NO_LIMIT, GatewayProcess


def gateway(given: dict[str, Any]) -> GatewayProcess:
    """The gateway's control channel on this host's loopback."""
    places = Places(Path(given["storage"]))
    nobody: Any = None
    return GatewayProcess(
        nobody, given["port"], given["control_port"], places.folder / "gateway.token"
    )


def start(given: dict[str, Any]) -> dict[str, Any]:
    """Start the trader; its status."""
    from serve.trader import connect_ray, start_trader

    storage, running = Path(given["storage"]), gateway(given)
    running.ask("fault", fault={"do": "limits", "messages_per_second": NO_LIMIT,
                                "history_requests": NO_LIMIT})  # fmt: skip
    with Client(given["url"], read_token(storage / "serving" / "token")) as client:
        names = tuple(client.bundle()["names"])
    start = Start(
        settings=load_settings(None, given["settings"], {}),
        storage=storage,
        url=given["url"],
        names=names,
        speed=given["speed"],
        keeper=Keeper(host="127.0.0.1", port=running.control_port, token_file=running.token_file),
    )
    connect_ray("auto")
    _, status = start_trader(start)
    return status


def stop(given: dict[str, Any]) -> dict[str, Any] | None:
    """Stop it; its last status."""
    from serve.trader import connect_ray, stop_trader
    from serve.trader_link import find_trader

    connect_ray("auto")
    handle = find_trader()
    return stop_trader(handle) if handle is not None else None


def compare(given: dict[str, Any]) -> dict[str, Any]:
    """The journal against the gateway's truth."""
    truth = gateway(given).ask("state")["state"]
    with Journal.reader(Places(Path(given["storage"])).journal) as journal:
        account = journal.value("account") or ""
        refs = [order.ref for order in journal.orders()]
        return {
            "damage": [str(finding) for finding in journal.verify()],
            "differences": list(differences(journal, truth, account)),
            "orders": len(refs),
            "intents": len(set(refs)),
            "told": len(truth["orders"]),
            "told_once": len({order["ref"] for order in truth["orders"]}),
            "fills": len(truth["executions"]),
            "cash": truth["accounts"][account]["cash"],
        }


def main() -> None:
    step, settings = sys.argv[1:]
    given = json.loads(Path(settings).read_text(encoding="utf-8"))
    steps = {"start": start, "stop": stop, "compare": compare}
    print("\n" + json.dumps(steps[step](given), default=str))


if __name__ == "__main__":
    main()
