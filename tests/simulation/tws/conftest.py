"""Fixtures of the gateway's tests."""

import pytest

from tests.simulation.tws.clients import CLIENT, VERSIONS


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    """Each server version that the installed client library speaks."""
    if not CLIENT:
        pytest.skip("no client library is installed")
    number: int = request.param
    return number
