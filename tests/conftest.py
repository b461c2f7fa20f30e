"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.s3_server import Bucket


# Same examples at each run, and none judged by the wall clock. `make fuzz` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=500, print_blob=True)
hypothesis.settings.load_profile("same")
# No test may reach a real store: these open nothing but the S3 server of the tests.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "TESTKEYTESTKEY",
    "AWS_SECRET_ACCESS_KEY": "TestSecretTestSecret",
}
os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}

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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server over HTTP."""
    pytest.importorskip("moto")
    from tests.s3_server import s3_server

    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Bucket":
    """An empty bucket, and a cache of this machine that is empty too."""
    from tests.s3_server import new_bucket

    monkeypatch.setenv("DPA_CACHE", str(tmp_path / "cache"))
    return new_bucket(s3_endpoint)
