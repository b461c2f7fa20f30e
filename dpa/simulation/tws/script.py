"""What goes wrong, and when: a script in YAML, every key checked.

```yaml
seed: 7
faults:
  - {do: reject, code: 201, when: order, count: 3}        # the third order
  - {do: halt, symbol: N03, at: "10:15", seconds: 300}    # five minutes, each session
  - {do: duplicate, when: order, chance: 0.02, seconds: 60}
  - {do: restart, at: "23:45", seconds: 120, ids_rolled_back: true}
```

Without ``at``, ``after_seconds`` or ``when`` a fault begins at once; without ``seconds`` one that
lasts never ends.
"""

import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from dpa.config import Frozen
from dpa.errors import ConfigError
from dpa.simulation.tws.faults import (
    KINDS,
    AnyFault,
    Fault,
    account_of,
    kind_of,
    written_moment,
)

if TYPE_CHECKING:
    from dpa.simulation.tws.venue import SimVenue


class Script(Frozen):
    """A list of faults, and the seed of their chances."""

    seed: int = Field(0, ge=0)
    faults: tuple[AnyFault, ...] = ()


class Faults:
    """Begins and ends the faults of a script.

    Parameters
    ----------
    script : Script
    venue : SimVenue
    """

    def __init__(self, script: Script, venue: "SimVenue") -> None:
        self.venue = venue
        self.begun: Counter[str] = Counter()
        self._random = random.Random(script.seed)
        self._seen: dict[str, list[tuple[Fault, list[int]]]] = {}
        for fault in script.faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Let a fault begin when its moment comes: now, where it names none.

        Raises
        ------
        ConfigError
            When a symbol or an account is not known.
        """
        self._check(fault)
        venue = self.venue
        if fault.when is not None:
            self._seen.setdefault(fault.when, []).append((fault, [0]))
        elif fault.at is not None:
            moments = self._moments(fault.at)
            if not moments:
                raise ConfigError(
                    f"at: {fault.at!r} is no moment of this venue",
                    f"it runs from {venue.clock.now():%Y-%m-%d %H:%M} to "
                    f"{venue.ends_at:%Y-%m-%d %H:%M} UTC; give the venue's time",
                )
            for moment in moments:
                venue.agenda.add(moment, lambda: self.begin(fault))
        elif fault.after_seconds is not None:
            venue.later(fault.after_seconds, lambda: self.begin(fault))
        else:
            self.begin(fault)

    def _check(self, fault: Fault) -> None:
        named = fault.model_dump()
        for name in ("symbol", "only"):
            if named.get(name) is not None:
                self.venue.place_of(named[name])
        if named.get("account") is not None:
            account_of(self.venue, named["account"])

    def _moments(self, text: str) -> list[datetime]:
        """Moments from now to the end of the venue that a text names."""
        zone = self.venue.hours.zone
        day, clock = written_moment(text)
        now, end = self.venue.clock.now(), self.venue.ends_at
        first = now.astimezone(zone).date()
        count = (end.astimezone(zone).date() - first).days + 1
        days = [day] if day else [first + timedelta(days=k) for k in range(count)]
        moments = [datetime.combine(each, clock, zone).astimezone(UTC) for each in days]
        return [moment for moment in moments if now <= moment <= end]

    def saw(self, what: str, symbol: str | None = None) -> None:
        """Something happened that may set faults off."""
        for fault, count in self._seen.get(what, ()):
            if fault.only is not None and symbol is not None:
                wanted = self.venue.listing.contracts[self.venue.place_of(fault.only)]
                if wanted.symbol != symbol:
                    continue
            count[0] += 1
            if self._fires(fault, count[0]):
                self.begin(fault)

    def _fires(self, fault: Fault, number: int) -> bool:
        if fault.chance is not None:
            return self._random.random() < fault.chance
        if fault.every is not None:
            return number % fault.every == 0
        return number == (fault.count or 1)

    def begin(self, fault: Fault) -> None:
        """Begin a fault now, and write down its end."""
        self.begun[kind_of(fault)] += 1
        undo = fault.begin(self.venue)
        if undo is not None and fault.seconds is not None:
            self.venue.later(fault.seconds, undo)


def read_script(path: Path | str) -> Script:
    """The script in a YAML file.

    Raises
    ------
    ConfigError
        Naming the file, the fault and the field, and what is allowed.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})", "check the path") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: is not YAML ({e})", "mend the file") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no mapping", "write 'faults:' and a list")
    script: Script = _validated(TypeAdapter(Script), tree, str(path), "faults, seed")
    return script


def read_fault(entry: Mapping[str, Any]) -> Fault:
    """One fault, as an entry of a script has it.

    Raises
    ------
    ConfigError
        Naming the field, and what is allowed.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(AnyFault)
    fault: Fault = _validated(adapter, dict(entry), "fault", ", ".join(KINDS))
    return fault


def _validated(adapter: TypeAdapter[Any], tree: Any, origin: str, allowed: str) -> Any:
    try:
        return adapter.validate_python(tree)
    except ValidationError as e:
        raise ConfigError(*_complaint(e.errors()[0], origin, allowed)) from e


def _complaint(error: Any, origin: str, allowed: str) -> tuple[str, str]:
    """What is wrong and the cure, of the first error pydantic found."""
    where = [part for part in error["loc"] if part not in KINDS]
    kind = next((part for part in error["loc"] if part in KINDS), None)
    named = ".".join(str(part + 1 if isinstance(part, int) else part) for part in where)
    place = f"{origin}: {named}" if named else origin
    place += f" ({kind})" if kind else ""
    if error["type"] == "extra_forbidden":
        fields = ", ".join(KINDS[kind].model_fields) if kind else allowed
        return f"{place}: is not known", f"it has {fields}"
    if error["type"].startswith("union_tag"):
        return f"{place}: 'do' names no fault", f"use one of {', '.join(KINDS)}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}", "correct it"
