"""A position to be closed that has no quote is closed all the same, at a bounded price."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dpa.config import Settings
from dpa.trading.events import Alert, Severity
from dpa.trading.pricing import collar, passively
from dpa.trading.replay_feed import ReplayFeed
from dpa.trading.types import Purpose, Quote, Style
from tests.trading import dealing
from tests.trading.engine_market import Desk, decision_of, make_panel, utc

WAIT = timedelta(seconds=Settings().trading.unquoted_seconds)


class HidingFeed(ReplayFeed):
    """Shows no quote of AAA in a stretch of time, or one that nobody may trade on."""

    hidden = (utc(9, 46), utc(10, 30))
    unsound: dict[str, Any] | None = None

    def quotes(self) -> Mapping[str, Quote]:
        found = dict(super().quotes())
        if self.hidden[0] <= self._clock.now() < self.hidden[1] and "AAA" in found:
            quote = found.pop("AAA")
            if self.unsound is not None:
                found["AAA"] = replace(quote, **self.unsound)
        return found


def desk(hidden: tuple[datetime, datetime] = HidingFeed.hidden, **trading: Any) -> Desk:
    """Holds 100 AAA and 50 BBB from 9:35 on, and wants none of AAA from 9:50 on."""
    plan = {utc(9, 35): {"AAA": 100, "BBB": 50}, utc(9, 50): {"AAA": 0}}
    kind = type("Feed", (HidingFeed,), {"hidden": hidden, "unsound": trading.pop("unsound", None)})
    panel = make_panel()
    made = Desk(
        panel,
        lambda request: decision_of(request, plan.get(request.time.to_pydatetime(), {})),
        feed=lambda clock: kind(panel, clock),
        settings=Settings.model_validate({"trading": trading}),
    )
    return made.run(until=utc(9, 54, 30))


def alerts(made: Desk) -> list[tuple[str, Severity]]:
    return [(a.kind, a.severity) for a in made.of(Alert) if a.kind == "exit-unquoted"]


@pytest.mark.parametrize("unsound", [None, {"delayed": True}, {"bid": None}])
def test_by_default_a_limit_at_the_last_price_and_the_collar(
    unsound: dict[str, Any] | None,
) -> None:
    made = desk(unsound=unsound)
    ((_, sold),) = [(at, i) for at, i in made.dealer.submitted if i.purpose is Purpose.EXIT]
    assert made.at(utc(9, 50)) == [], "a quote is waited for"
    assert made.at(utc(9, 50) + WAIT) == [sold]
    assert (sold.symbol, sold.shares, sold.style) == ("AAA", 100, Style.LIMIT)
    bound = collar(sold.reference, sold.side, made.settings.trading.collar_bps)
    assert sold.limit == passively(bound, Decimal("0.01"), sold.side)
    assert alerts(made) == [("exit-unquoted", Severity.WARNING)]


def test_at_the_market_where_the_settings_say_so() -> None:
    made = desk(unquoted_exit="market")
    (sold,) = made.at(utc(9, 50) + WAIT)
    assert (sold.style, sold.limit) == (Style.MARKET, None)


def test_who_wants_to_wait_for_a_person_is_told_once() -> None:
    made = desk(unquoted_exit="wait")
    assert [i for i in made.dealer.intents if i.purpose is Purpose.EXIT] == []
    assert alerts(made) == [("exit-unquoted", Severity.CRITICAL)]


def test_a_quote_that_comes_in_time_is_traded_on_as_ever() -> None:
    made = desk(hidden=(utc(9, 46), utc(9, 50) + WAIT / 2))
    (sold,) = [i for i in made.dealer.intents if i.purpose is Purpose.EXIT]
    assert sold.style is Style.ADAPTIVE
    assert alerts(made) == []


def test_nothing_is_added_without_a_quote() -> None:
    made = desk(hidden=(utc(9, 31), utc(10, 30)))
    assert {i.symbol for i in made.dealer.intents} == {"BBB"}


@pytest.mark.parametrize("quote", [None, dealing.quote("AAPL", dealing.NOON, delayed=True)])
def test_the_order_passes_the_last_checks_and_leaves(tmp_path: Path, quote: Quote | None) -> None:
    made, broker = dealing.scripted(tmp_path)
    dealing.run(made.dealer.start())
    broker.extra["AAPL"] = Decimal(100)
    made.wait(20)
    dealing.run(made.dealer.reconcile())
    dealing.run(made.dealer.adopt("Ada", "a start with shares"))
    made.switch.resume("Ada", "adopted", made.switch.read())
    sold = dealing.intent(shares=-100, purpose=Purpose.EXIT, at=made.clock.now())
    sold = replace(sold, style=Style.LIMIT, limit=Decimal("99.50"))
    shown = {} if quote is None else {"AAPL": quote}
    assert dealing.run(made.dealer.submit([sold], shown)) == ()
    (sent,) = broker.truth.of(sold.id)
    assert sent.order.limit == Decimal("99.50")
    bought = dealing.intent("MSFT", 10, at=made.clock.now(), style=Style.LIMIT)
    (refused,) = dealing.run(made.dealer.submit([bought], {}))
    assert refused.code.value == "quote"
    made.close()
