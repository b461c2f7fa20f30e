"""The OpenAPI document against the application: schemathesis sends what it says, and what not.

Requests that the document allows may be refused, since it cannot say that a high is not below a
low, nor what an Arrow stream is; all answers, though, must be documented ones.
"""

import asyncio
import os
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dpa.config import Settings
from dpa.market.panel import Panel
from dpa.serving.http import make_app
from dpa.serving.meters import NoMeters
from dpa.serving.page import page_html
from dpa.serving.wire import ARROW, history_arrow, request_arrow
from tests.serving.conftest import ComputingDesk, ToldTrader, make_request

TOKEN = "a-token-for-the-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
OPERATIONS = [
    ("POST", "/v1/decide"),
    ("POST", "/v1/predict"),
    ("GET", "/v1/decisions/latest"),
    ("GET", "/v1/bundle"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("POST", "/v1/history"),
    ("POST", "/v1/accounts/{account}/halt"),
    ("POST", "/v1/accounts/{account}/resume"),
    ("GET", "/v1/trading"),
    ("GET", "/v1/trading/orders"),
    ("POST", "/v1/trading/pause"),
    ("POST", "/v1/trading/flatten"),
    ("POST", "/v1/trading/stop"),
    ("POST", "/v1/trading/kill"),
    ("POST", "/v1/trading/resume"),
    ("POST", "/v1/trading/adopt"),
]
EXAMPLES = int(os.environ.get("DPA_SCHEMA_EXAMPLES", "25"))
NOTHING_TO_SEND = ("/v1/bundle", "/healthz", "/readyz", "/v1/trading/orders")


def damaged(stream: bytes) -> st.SearchStrategy[bytes]:
    """Streams with a few bytes of `stream` changed."""
    changes = st.lists(st.tuples(st.integers(0, len(stream) - 1), st.integers(0, 255)), max_size=3)

    def change(edits: list[tuple[int, int]]) -> bytes:
        content = bytearray(stream)
        for place, value in edits:
            content[place] = value
        return bytes(content)

    return changes.map(change)


PRICES = np.array([[10.0, 20.0], [11.0, np.nan]])
TIMES = pd.DatetimeIndex(["2024-07-01 13:35", "2024-07-01 13:40"], tz="UTC")
PANEL = Panel(TIMES, ("AAA", "BBB"), PRICES, np.isfinite(PRICES), "5m")
schemathesis.openapi.media_type(
    ARROW, damaged(request_arrow(make_request(3))) | damaged(history_arrow(PANEL)) | st.binary()
)


@schemathesis.serializer(ARROW)
def arrow_body(context: Any, value: Any) -> bytes:
    """Bytes as they are; what else is made up, as text."""
    return value if isinstance(value, bytes) else repr(value).encode()


@cache
def document() -> Any:
    """The document of an application that decides; any Host header will do."""
    settings = Settings.model_validate({"serving": {"http_host": "0.0.0.0", "max_symbols": 50}})
    desk = ComputingDesk(settings)
    asyncio.run(desk.decide(make_request()))  # so that there is a newest decision
    app = make_app(desk, settings, TOKEN, NoMeters(), page_html(settings), trader=ToldTrader())
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_every_operation_is_tried() -> None:
    found = [(o.ok().method.upper(), o.ok().path) for o in document().get_all_operations()]
    assert found == OPERATIONS


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [
        (mode, *operation)
        for mode in ("positive", "negative")
        for operation in OPERATIONS
        if mode == "positive" or operation[1] not in NOTHING_TO_SEND
    ],
)
def test_answers_are_as_documented(mode: str, method: str, path: str) -> None:
    operation = document()[path][method]
    statuses: set[int] = set()
    wanted = schemathesis.GenerationMode(mode)

    @given(operation.as_strategy(generation_mode=wanted))
    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def answers(case: schemathesis.Case) -> None:
        response = case.call_and_validate(
            headers=HEADERS, excluded_checks=[positive_data_acceptance]
        )
        statuses.add(response.status_code)

    answers()
    assert mode == "negative" or 200 in statuses
