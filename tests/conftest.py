"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Same examples at each run, and none judged by the wall clock. `make fuzz` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile("same")

REPOSITORY = Path(__file__).resolve().parents[1]
# Begun first: the rest fills the gaps.
LONG = ("test_docs.py", "test_grid.py", "test_horizons.py", "test_paper.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What ``-n 2 --dist loadgroup`` may part: files, but for those that share the one Ray; and
    pages of the documentation, each of which takes long."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.path.name != "test_docs.py":
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def market_data() -> Path:
    """Folder of the real market data; the test is skipped where there is none."""
    folder = Path(os.environ.get("DPA_MARKET_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "us_daily_close.parquet").exists():
        pytest.skip("no real market data: set DPA_MARKET_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests that need it, with an object store small enough to overflow."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
