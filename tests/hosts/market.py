"""What is served and traded on the hosts: an invented market, a small bundle, its history."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpa.horizons.bundle import write_bundle
from dpa.horizons.promotion import promote_bundle
from dpa.market.panel import Panel
from dpa.market.shard_files import write_shards
from dpa.simulation.planted_bars import simulate_bars
from tests.horizons.small_run import CLOCK, run_small, small_settings
from tests.serving.served import FAMILIES, MARKET, TREE

DAY, TRAINED_SESSIONS, LEARNED_SESSIONS, LIVE_SESSIONS = 78, 8, 2, 30


@dataclass(frozen=True)
class Invented:
    """A market in the shared folder.

    Parameters
    ----------
    panel : Panel
    begun : int
        Bars on record to begin with.
    first_day : str
        Date of the first session after them.
    """

    panel: Panel
    begun: int
    first_day: str


def settings_tree(**sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the graph under which eight names trade; `sections` over them."""
    names = {*TREE, *sections}
    return {name: {**TREE.get(name, {}), **sections.get(name, {})} for name in names}


def invent(folder: Path) -> Invented:
    """The market, its bars in ``bars`` and, up to where serving begins, in ``begun``."""
    sessions = TRAINED_SESSIONS + LEARNED_SESSIONS + LIVE_SESSIONS
    panel = simulate_bars(MARKET.model_copy(update={"n_sessions": sessions}), 5).panel
    dates = panel.times.tz_convert("America/New_York").strftime("%Y-%m-%d")
    days = list(dict.fromkeys(dates))
    first_day = days[TRAINED_SESSIONS + LEARNED_SESSIONS]
    begun = list(dates).index(first_day)
    if not (folder / "bars").is_dir():
        write_shards(panel, folder / "bars")
        write_shards(panel.window(0, begun), folder / "begun")
    return Invented(panel, begun, first_day)


def make_storage(invented: Invented, folder: Path, scratch: Path) -> None:
    """A storage in which a bundle of two families is promoted; seconds."""
    trained = invented.begun - LEARNED_SESSIONS * DAY
    run = run_small(
        scratch, small_settings(families=FAMILIES), invented.panel.window(0, trained)
    )  # fmt: skip
    folder.mkdir(parents=True)
    write_bundle(folder / "bundle", run.parts(scratch / "models"), CLOCK)
    promote_bundle(folder / "bundle", folder, CLOCK, "hand")
