"""Words and numbers of one symbol, for every reason and from real decisions."""

import re
from dataclasses import replace

import numpy as np
import pytest

from dpa.decision.explain import REASON_WORDS, explain, why
from dpa.decision.pipeline import decide
from dpa.decision.records import to_dict
from dpa.decision.types import Reason
from dpa.errors import DataError
from tests.decision.conftest import make_forecasts, make_market
from tests.decision.deciding import decided, reasons_by_hand
from tests.decision.streams import learned, quick, snapshots, traded

EXPECTED = {
    Reason.NONE: "",
    Reason.NOT_A_MEMBER: "it is not a member of the universe",
    Reason.NO_SCORE: "250 past forecasts, a score needs 100",
    Reason.COST_UNKNOWN: "the cost is not known: no daily traded value",
    Reason.QUOTE_OLD: "the quote is 1000 ms old, limit 200",
    Reason.NO_SKILL: "no family has skill: the best IC is 0.0500",  # the beliefs are invented
    Reason.NO_RECORD: "no family has shown skill yet: the best IC less cost is 0.0400",
    Reason.ENOUGH_HELD: "as much is held as it would be given",
    Reason.BARRIER_BLOCK: "the probability of a peak is 0.62, no new position above 0.6",
    Reason.BARRIER_EXIT: "the probability of a peak is 0.72, closed above 0.65",
    Reason.ALPHA_TURNED: "alpha -2.00 bps over 5m is against the position",
    Reason.LOT: "the change is less than a lot of 1e+06",
    Reason.NAME_LIMIT: "the most of one name is reached, limit 1.0%",
    Reason.ORDER_LIMIT: "the most of one order is reached, USD 100",
    Reason.RISK_REDUCE_ONLY: "risk is only reduced: the NAV of the prior close is not known",
    Reason.RISK_HALTED: "trading is halted: a test",
}


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    decision = reasons_by_hand()[reason]
    words = why(decision, 0)
    assert words == EXPECTED.get(reason, words)
    assert bool(words) == (reason != Reason.NONE)
    assert "nan" not in words
    assert words in explain(decision, "S000")
    assert to_dict(decision, False)["symbols"][0]["why"] == words
    assert set(REASON_WORDS) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_words_without_settings_name_no_limits(reason: Reason) -> None:
    decision = replace(reasons_by_hand()[reason], settings=None)
    told = why(decision, 0).removesuffix(decision.risk.why)  # the account's own words
    assert "limit " not in told
    assert bool(why(decision, 0)) == (reason != Reason.NONE)
    assert "limit 20" not in explain(decision, "S000")


def test_numbers_in_words() -> None:
    said = make_forecasts(0, 3, barriers=False)
    wide = make_market(0, 3, bid=99.924, ask=100.076)
    assert why(decided(wide, said, 100.0), 0) == "spread 15.2 bps is wider than 12"
    crossed = make_market(0, 3, bid=100.1, ask=100.0)
    assert why(decided(crossed, said, 100.0), 0) == "bid 100.1 and ask 100 are no quote"
    odd = make_market(0, 3, price=100.0, bid=79.999, ask=80.001)
    assert why(decided(odd, said, 100.0), 0) == "the quote is -2000 bps from the close, limit 1000"
    bare = make_market(0, 3, price=np.nan, bid=79.999, ask=80.001)
    assert why(decided(bare, said, 100.0), 0).endswith("is not known")
    small = decided(make_market(0, 3, adv_usd=1e12), said, 2.0)
    net = small.arbitration.net[0, 0]
    assert why(small, 0) == f"net is {net:.2f} bps over 5m, needed 1"


def test_every_stage_is_told() -> None:
    decision = decide(snapshots()[-1], learned(), quick())
    k = int(np.argmax(decision.arbitration.chosen >= 0))
    text = explain(decision, decision.snapshot.market.names[k])
    for part in ("Horizons", "Families", "Cost", "Gates", "Size", "Risk"):
        assert f"\n{part}" in text
    place = int(decision.arbitration.chosen[k])
    row = next(line for line in text.splitlines() if line.endswith("chosen"))
    assert row.split()[0] == decision.snapshot.forecasts.horizons[place].label
    for number, form in (
        (decision.blend.alpha[place, k], "+.2f"),
        (decision.arbitration.cost[place, k], ".2f"),
        (decision.arbitration.net[place, k], "+.2f"),
    ):
        assert format(number, form) in row.split()
    families = [
        line.split() for line in text.splitlines() if re.match(r"\S+ +(cluster|ridge) ", line)
    ]
    assert len(families) == 4
    assert families[1][2] == f"{decision.snapshot.forecasts.returns[0, 1, k]:+.4f}"
    assert f"{decision.sizes.shares[k]:,g} shares" in text
    assert decision.id in text


def test_costs_shown_add_up() -> None:
    decision = decide(snapshots()[-1], learned(), quick())
    text = explain(decision, "S001")
    block = text[text.index("Cost, bps") :].splitlines()[2:4]
    for line, cost in zip(block, decision.arbitration.cost[:, 1], strict=True):
        parts = [float(cell) for cell in line.split()[1:5]]
        assert sum(parts) == pytest.approx(cost, abs=0.02)


def test_nothing_is_known_yet() -> None:
    first = traded()[0]
    text = explain(first, "S000")
    assert "past forecasts, a score needs 20" in text
    assert "nan" not in text


def test_lines_are_aligned_and_without_tails() -> None:
    text = explain(traded()[-1], "S003")
    assert all(line == line.rstrip() for line in text.splitlines())
    rows = text[text.index("Families") :].split("\n\n")[0].splitlines()[1:]
    starts = [[match.start() for match in re.finditer(r"(?<=  )\S", row)] for row in rows]
    assert all(start == starts[0] for start in starts)


def test_an_unknown_symbol_names_what_is_near() -> None:
    with pytest.raises(DataError, match=r"'S00'.*S00"):
        explain(traded()[0], "S00")
    with pytest.raises(DataError, match=r"'@@@@'.*S000"):
        traded()[0].explain("@@@@")


def test_families_left_out_are_named() -> None:
    last = snapshots()[-1]
    returns = last.forecasts.returns.copy()
    returns[:] = np.nan
    late = replace(last.forecasts, returns=returns, left_out={"ridge": "not done within 500 ms"})
    decision = decide(type(last)(last.market, late), learned(), quick())
    assert "left out" in explain(decision, "S000")
    assert why(decision, 0).endswith("ridge (not done within 500 ms)") or (
        decision.sizes.reason[0] == Reason.NO_FORECAST
    )
