"""A small real run of predictors in this process, and bundles of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpa.clock import FixedClock
from dpa.horizons.bundle import BundleManifest, HorizonBundle, write_bundle
from dpa.market.panel import Panel
from dpa.simulation.planted_bars import simulate_bars
from tests.horizons.small_run import CLOCK, MARKET, SmallRun, run_small, small_settings


@pytest.fixture(scope="session")
def small_panel() -> Panel:
    return simulate_bars(MARKET, 3).panel


@pytest.fixture(scope="session")
def small_run(small_panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return run_small(tmp_path_factory.mktemp("run"), small_settings(), small_panel)


@pytest.fixture(scope="session")
def bundle_folder(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of all four families; treat as read-only."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "bundle", small_run.parts(folder / "models"), CLOCK)
    return folder / "bundle"


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> HorizonBundle:
    return HorizonBundle.load(bundle_folder)


@pytest.fixture
def write_another(small_run: SmallRun, tmp_path: Path) -> Callable[..., BundleManifest]:
    """Write the parts of the small run, changed by keywords, to a folder."""

    def write(folder: Path, **changes: object) -> BundleManifest:
        parts = small_run.parts(tmp_path / "models")
        return write_bundle(folder, replace(parts, **changes), CLOCK)

    return write


@pytest.fixture
def repeat_run(small_panel: Panel) -> Callable[..., BundleManifest]:
    """Do the whole small run again in a folder, with other settings, and make its bundle."""

    def repeat(folder: Path, **horizons: object) -> BundleManifest:
        run = run_small(folder, small_settings(**horizons), small_panel)
        return write_bundle(folder / "bundle", run.parts(folder / "models"), CLOCK)

    return repeat


@pytest.fixture(scope="session")
def clock() -> FixedClock:
    return CLOCK
