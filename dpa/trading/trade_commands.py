"""``dpa trade``, ``dpa kill`` and ``dpa alerts``: what needs no cluster.

The level of trading is a file, so pausing, closing and halting work whatever else is broken: a
trader that lives reads it before everything it sends.
"""

import argparse
import asyncio
import getpass
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpa.clock import SystemClock
from dpa.config import load_settings
from dpa.errors import ClusterUnavailable, ConfigError
from dpa.options import given_options, settings_from
from dpa.trading.places import Places, Start
from dpa.trading.switch import Level, Switch

if TYPE_CHECKING:
    from dpa.trading.broker import Broker, OrderSaid

WATCH_SECONDS = 2.0
NEVER_TRADED = 3  # exit code of a status of a storage in which nobody ever traded


def status_command(arguments: argparse.Namespace) -> int:
    """What the trader is about; 1 when none runs, 3 when nothing was ever traded there."""
    from dpa.trading.status import NEVER
    from dpa.trading.status_words import status_words

    while True:
        status = read_status(arguments)
        text = json.dumps(status, indent=1) if arguments.json else status_words(status)
        if arguments.watch and sys.stdout.isatty():
            text = f"\x1b[2J\x1b[H{text}"
        print(text, flush=True)
        if not arguments.watch:
            return 0 if status["running"] else NEVER_TRADED if status["state"] == NEVER else 1
        time.sleep(WATCH_SECONDS)


def read_status(arguments: argparse.Namespace) -> dict[str, Any]:
    """From the service, else from the files of the storage."""
    from dpa.serving.client import Client
    from dpa.serving.types import RequestError
    from dpa.trading.status import status_on_disk

    try:
        with Client(arguments.url, timeout_seconds=5.0, retry_seconds=0.0) as client:
            return client.trading()
    except (ClusterUnavailable, RequestError) as e:
        if isinstance(e, RequestError) and e.status != 503:
            raise
        return status_on_disk(Places(arguments.storage.resolve()), e.what)


def pause_command(arguments: argparse.Namespace) -> None:
    """Add no more risk."""
    switch, places = _switch(arguments)
    switch.pause(*_who(arguments, "paused"))
    _tell(switch, places)


def flatten_command(arguments: argparse.Namespace) -> None:
    """Close everything."""
    switch, places = _switch(arguments)
    switch.flatten(*_who(arguments, "everything is to be closed"))
    _tell(switch, places)


def resume_command(arguments: argparse.Namespace) -> None:
    """Trade again, after showing from what, and asking."""
    switch, places = _switch(arguments)
    seen = switch.read()
    if seen.level is Level.RUNNING:
        print("trading is RUNNING already")
        return
    since = f", since {seen.since:%Y-%m-%d %H:%M:%S} UTC" if seen.since else ""
    print(f"trading is {seen.level.name}{since}, by {seen.by or 'nobody known'}: {seen.why}")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise ConfigError("resuming asks first, and there is no terminal", "give --yes")
        print("trade again? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ConfigError(f"trading stays {seen.level.name}")
    why = arguments.why or f"looked at: {seen.why or seen.level.name}"
    switch.resume(arguments.by, why, seen)
    _tell(switch, places)


def adopt_command(arguments: argparse.Namespace) -> None:
    """Make what the broker holds ours, after showing both sides, and asking."""
    from dpa.serving.client import Client

    with Client(arguments.url, retry_seconds=0.0) as client:
        status = client.trading()
        differences = status.get("differences", [])
        if not differences:
            print("the books are the broker's: nothing to adopt")
            return
        print(f"trading is {status['level']}; the books differ:")
        for difference in differences:
            print(f"  {difference}")
        if not arguments.yes:
            if not sys.stdin.isatty():
                raise ConfigError("adopting asks first, and there is no terminal", "give --yes")
            print("take over what the broker holds? [y/N] ", end="", flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise ConfigError("nothing was adopted")
        why = arguments.why or f"looked at: {'; '.join(differences)}"
        client.tell_trader("adopt", arguments.by, why[:2000], status["level_mark"])
    again = "" if status["level"] == Level.RUNNING.name else "; trade again with 'dpa trade resume'"
    print(f"the books are the broker's now{again}")


def _switch(arguments: argparse.Namespace) -> tuple[Switch, Places]:
    places = Places(arguments.storage.resolve())
    if not places.folder.is_dir():
        raise ConfigError(
            f"{places.folder}: nothing was ever traded in this storage", "give its --storage"
        )
    return Switch(places.switch, SystemClock()), places


def _who(arguments: argparse.Namespace, otherwise: str) -> tuple[str, str]:
    return arguments.by or getpass.getuser(), arguments.why or otherwise


def _tell(switch: Switch, places: Places) -> None:
    from dpa.trading.lease import Lease

    state = switch.read()
    print(f"trading is {state.level.name} ({state.by}: {state.why})")
    if not Lease.is_locked(places.lease):
        print("no trader runs on this machine: it holds for the next one")


# killing


def kill_command(arguments: argparse.Namespace) -> int:
    """Halt, cancel everything at the broker, and look; 1 where it is not sure."""
    from dpa.trading.kill import kill
    from dpa.trading.own_connection import may_be_ours, own_connection

    places = Places(arguments.storage.resolve())
    places.make()
    clock = SystemClock()
    switch = Switch(places.switch, clock)
    opened: list[Broker] = []

    async def connect() -> "Broker":
        broker = await own_connection(_start_of(arguments, places).settings, places, clock)
        opened.append(broker)
        return broker

    def is_ours(word: "OrderSaid") -> bool:
        return may_be_ours(_start_of(arguments, places).settings)(word)

    async def work() -> int:
        by, why = _who(arguments, "killed")
        seconds = arguments.seconds
        killed = await kill(switch, connect, clock, asyncio.sleep, by, why, seconds, is_ours)
        for broker in opened:
            await broker.close()
        print(f"trading is {switch.read().level.name}")
        for problem in killed.problems:
            print(f"problem: {' '.join(problem.split())}", file=sys.stderr)
        if killed.verified:
            print(f"everything is cancelled, {killed.seconds:.2f} s after the request; "
                  "the broker has no open orders")  # fmt: skip
            return 0
        left = ", ".join(killed.working) or "not known which"
        print(
            f"orders may still be open at the broker ({left}): cancel them there", file=sys.stderr
        )
        return 1

    return asyncio.run(work())


def _start_of(arguments: argparse.Namespace, places: Places) -> Start:
    """How the trader was started, or what the command line says of it."""
    if given_options(arguments) or arguments.config:
        return Start(settings=settings_from(arguments), storage=places.storage)
    return places.kept()


# alerts


def alerts_test_command(arguments: argparse.Namespace) -> int:
    """Send a test through every channel; 1 where one failed."""
    from dpa.trading.alerts import Alerts, channels_of

    config = settings_from(arguments).alerts
    alerts = Alerts(channels_of(config), config, SystemClock(), asyncio.sleep, random.uniform)
    found = asyncio.run(alerts.test())
    for name, word in found.items():
        print(f"{name}: {word}")
    return 0 if all(word == "ok" for word in found.values()) else 1


def start_of(arguments: argparse.Namespace) -> Start:
    """What ``dpa trade start`` says."""
    settings = load_settings(arguments.config, _overrides(arguments))
    storage = Path(arguments.storage).resolve()
    names = tuple(n.strip() for n in (arguments.symbols or "").split(",") if n.strip())
    replay = None if arguments.replay is None else arguments.replay.resolve()
    if replay is not None and not replay.exists():
        raise ConfigError(f"--replay {replay}: there is no such file", "check the path")
    if replay is not None and settings.trading.broker == "ibkr":
        raise ConfigError(
            "--replay: TWS trades the market of now",
            "use --broker paper, or 'make paper' for a simulated TWS",
        )
    if not arguments.speed >= 0:
        raise ConfigError(f"--speed {arguments.speed:g}", "give 0 or more")
    return Start(
        settings=settings,
        storage=storage,
        url=arguments.url,
        names=names,
        replay=replay,
        first=arguments.first,
        last=arguments.last,
        speed=arguments.speed,
    )


def _overrides(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    from dpa.options import read_overrides

    return read_overrides(arguments)
