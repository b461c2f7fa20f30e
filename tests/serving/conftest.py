"""Requests for the tests of serving: ``from tests.serving.conftest import make_request``."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from dpa.config import Settings
from dpa.decision.decision import Decision
from dpa.decision.pipeline import decide, start_state
from dpa.decision.types import Market, Snapshot
from dpa.market.panel import Panel
from dpa.serving.types import Prediction, Request, RequestError
from tests.decision.conftest import make_forecasts

SAME = ("bid", "ask", "quote_age_ms", "adv_usd", "shares", "lot", "nav_usd", "prior_nav_usd",
        "account", "feed")  # fmt: skip
TIME = pd.Timestamp("2024-07-01 14:35", tz="UTC")


def make_request(n_symbols: int = 5, seed: int = 0, **changes: Any) -> Request:
    """A plausible request, everything known."""
    rng = np.random.default_rng(seed)
    price = np.round(np.exp(rng.uniform(np.log(10), np.log(400), n_symbols)), 2)
    built = Request(
        time=TIME,
        moment=TIME + pd.Timedelta(milliseconds=200),
        account="default",
        nav_usd=1e6,
        prior_nav_usd=1.01e6,
        feed="direct",
        names=tuple(f"S{k:03d}" for k in range(n_symbols)),
        bars={
            "close": price,
            "open": price * 1.001,
            "high": price * 1.002,
            "low": price * 0.999,
            "volume": np.round(rng.uniform(1e3, 1e6, n_symbols)),
            "dollar_volume": price * 1e5,
        },
        member=np.ones(n_symbols, dtype=bool),
        bid=price * 0.9999,
        ask=price * 1.0001,
        quote_age_ms=rng.uniform(0, 150, n_symbols),
        adv_usd=price * 1e7,
        shares=np.round(rng.normal(0, 100, n_symbols)),
        lot=np.ones(n_symbols),
    )
    return replace(built, **changes)


def same_request(one: Request, other: Request) -> None:
    """Assert that two requests say the same, bit for bit."""
    for field in fields(Request):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if field.name == "bars":
            assert list(left) == list(right)
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name


class ComputingDesk:
    """A desk that decides with the pure function on forecasts drawn at random.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.newest: dict[str, Decision] = {}
        self.panel: Panel | None = None
        self.requests: list[Request] = []

    async def decide(self, request: Request) -> Decision:
        self.requests.append(request)
        n = len(request.names)
        unknown = np.full(n, np.nan)
        market = Market(
            time=request.time,
            moment=request.moment or request.time,
            bar=0,
            session=0,
            names=request.names,
            member=request.member,
            price=request.bars.get("close", unknown),
            **{f: getattr(request, f) for f in SAME},
        )
        snapshot = Snapshot(market, make_forecasts(0, n, missing=0.2))
        decision = decide(snapshot, start_state(snapshot), self.settings)
        self.newest[request.account] = decision
        return decision

    async def predict(self, request: Request) -> Prediction:
        said = make_forecasts(0, len(request.names), missing=0.2)
        stacked = said.returns.mean(axis=1)
        return Prediction(request.time, request.names, said, stacked, np.abs(stacked))

    async def latest(self, account: str | None) -> dict[str, Any] | None:
        found = list(self.newest.values()) if account is None else [self.newest.get(account)]
        return found[-1].to_dict() if found and found[-1] is not None else None

    async def latest_id(self, account: str | None) -> str | None:
        found = await self.latest(account)
        return None if found is None else found["id"]

    async def bundle(self) -> dict[str, Any]:
        return {
            "version": "0123456789ab",
            "fingerprint": "0123456789ab" * 4,
            "horizons": ["5m", "30m", "1d"],
            "families": ["cluster", "ridge"],
            "interval": "5m",
            "calendar": "XNYS",
            "names": ["AAA", "BBB"],
            "needs": [],
            "trained_until": "2024-06-28T20:00:00+00:00",
            "serving_since": None,
            "newest_bar": None,
            "refused": None,
        }

    async def ready(self) -> dict[str, Any]:
        return {"ready": True, "stages": {"market": "ok"}}

    async def history(self, panel: Panel) -> dict[str, Any]:
        self.panel = panel
        return {"bars": panel.n_bars}

    async def risk(self, account: str, action: str, by: str, why: str) -> dict[str, Any]:
        level = "HALTED" if action == "halt" else "NORMAL"
        return {"account": account, "level": level, "why": f"{by}: {why}"}


class ToldTrader:
    """A trader that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, str | None]] = []
        self.level = "RUNNING"

    async def status(self) -> dict[str, Any]:
        order = {
            "ref": "dpa-0123456789abcdef01234567",
            "order_id": 7,
            "symbol": "AAA",
            "side": "buy",
            "shares": 100,
            "filled": 40.0,
            "limit": 10.25,
            "state": "working",
            "purpose": "enter",
        }
        return {
            "state": "trading",
            "why": "",
            "level": self.level,
            "level_by": "",
            "level_why": "",
            "level_mark": "seen",
            "broker": "ibkr",
            "account": "DU1234567",
            "connected": True,
            "positions": [],
            "orders": [order],
            "limits": [],
            "refusals": [],
            "alerts": [],
            "nav": float("nan"),
        }

    async def command(
        self, name: str, by: str, why: str, seen: str | None = None
    ) -> dict[str, Any]:
        if name == "resume" and seen == "older":
            raise RequestError(409, "conflict", "the switch is HALTED by now", "look again")
        self.told.append((name, by, why, seen))
        levels = {"pause": "PAUSED", "flatten": "FLATTENING", "kill": "HALTED", "resume": "RUNNING"}
        self.level = levels.get(name, self.level)
        return await self.status()
