"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def market_data() -> Path:
    """Folder of the real market data; the test is skipped where there is none."""
    folder = Path(os.environ.get("DPA_MARKET_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "us_daily_close.parquet").exists():
        pytest.skip("no real market data: set DPA_MARKET_DATA to its folder")
    return folder
