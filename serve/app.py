"""The decision graph on Ray Serve: ``serve run serve.app:app``. Wiring only, no maths.

Each stage is a deployment (serve/stage.py) and the desk behind HTTP (serve/desk.py) composes them
by handles; with ``topology: fused`` all stages live in the desk. See docs/serving.md.
"""

import contextlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from ray import serve

from dpa.config import Settings, load_settings
from dpa.errors import RunError
from dpa.horizons.bundle import read_bundle_manifest
from dpa.horizons.promotion import find_bundle
from dpa.serving.market_stage import read_active
from dpa.serving.stages import ARBITER, BLENDER, FAMILY, GATE, MARKET, SIZER
from dpa.stores.places import plain_path
from serve.desk import TOKEN, Desk
from serve.stage import Place, Stage

__all__ = ["DESK", "TOKEN", "Arguments", "app"]

DESK = "desk"
QUEUE = 100  # requests a replica takes at once; Ray's default of 5 is too few
HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}


class Arguments(BaseModel):
    """What ``serve run serve.app:app name=value ...`` and ``args`` of a config file may give."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = "runs"
    bundle: str = "promoted"
    plugins: tuple[str, ...] = ()
    config: str | None = None
    topology: Literal["graph", "fused"] | None = None
    data: str | None = None
    settings: dict[str, dict[str, Any]] = {}

    def load(self) -> Settings:
        """The settings: defaults < YAML < environment < what is given here."""
        overrides = {section: dict(values) for section, values in self.settings.items()}
        if self.topology is not None:
            overrides.setdefault("serving", {})["topology"] = self.topology
        if self.data is not None:
            overrides.setdefault("data", {})["path"] = str(Path(self.data).resolve())
        return load_settings(self.config, overrides)


def app(args: Arguments) -> serve.Application:
    """The graph, bound; the builder behind ``serve run`` and ``serve deploy``.

    Raises
    ------
    DpaError
        When settings are wrong, or there is no bundle to begin with.
    """
    settings = args.load()
    storage = plain_path(args.storage).resolve()
    reference = args.bundle
    if reference != "promoted" and Path(reference).exists():
        reference = str(Path(reference).resolve())
    place = Place(settings, storage, reference, args.plugins)
    serving = settings.serving
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": serving.replica_cpus},
        "max_ongoing_requests": QUEUE,
        **HEALTH,
    }
    handles: dict[str, Any] = {}
    if serving.topology == "graph":
        quiet = {**options, "logging_config": {"enable_access_log": False}}  # the desk's is enough
        for name in (MARKET, BLENDER, ARBITER, GATE, SIZER):
            handles[name] = Stage.options(name=name, **quiet).bind(place, name)
        for family in _families(storage, reference):
            name = FAMILY + family
            several = {**quiet, "num_replicas": serving.family_replicas}
            handles[name] = Stage.options(name=f"family-{family}", **several).bind(place, name)
    config = {"bundle": reference}
    bound: serve.Application = Desk.options(name=DESK, user_config=config, **options).bind(
        place, handles
    )
    return bound


def __getattr__(name: str) -> serve.Application:
    """``serve.app:graph``, for ``serve build``, which takes no builder: all arguments as they are
    by default."""
    if name == "graph":
        return app(Arguments())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _families(storage: Path, reference: str) -> tuple[str, ...]:
    """Families to deploy: those of the bundle asked for and of the one in use."""
    found: dict[str, None] = dict.fromkeys(
        read_bundle_manifest(find_bundle(reference, storage)).families
    )
    active = read_active(storage)
    if active is not None:
        with contextlib.suppress(RunError):
            found.update(dict.fromkeys(read_bundle_manifest(active).families))
    return tuple(found)
