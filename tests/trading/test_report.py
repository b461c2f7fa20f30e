"""The report of a session: figures by hand, unknowns that stay unknown, nothing unescaped."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.config import Settings
from dpa.trading.bus import Bus
from dpa.trading.events import (
    Alert,
    BarTaken,
    Decided,
    LeftOut,
    LevelChanged,
    NotDecided,
    Severity,
    Valued,
)
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.ledger import Ledger
from dpa.trading.recorder import KINDS, Recorder
from dpa.trading.report import SessionFacts, SessionReport, lines, read_facts, write_report
from dpa.trading.report.facts import Note
from dpa.trading.report.write import to_dict
from dpa.trading.types import (
    Commission,
    Execution,
    Intent,
    Order,
    OrderState,
    Purpose,
    Side,
    Style,
)
from tests.html_page import Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
BEGUN = datetime(2024, 7, 1, 13, 30, tzinfo=UTC)
ENDED = BEGUN + timedelta(hours=7)
D = Decimal


def at(minutes: float) -> datetime:
    return BEGUN + timedelta(minutes=minutes)


def make_intent(minutes, symbol, side, shares, reference, expected=3.0, purpose=Purpose.ENTER):
    decision = f"d{minutes}"
    return Intent(
        intent_id("DU1", decision, symbol, side, purpose), "DU1", decision, symbol, side, shares,
        Style.ADAPTIVE, purpose, at(minutes), at(minutes + 1), D(reference),
        expected_cost_bps=expected,
    )  # fmt: skip


def make_fill(number, minutes, intent, shares, price):
    return Execution(
        f"0000.{number:04d}.01", "DU1", intent.symbol, intent.side, D(shares), D(price),
        at(minutes), intent.id,
    )  # fmt: skip


def make_facts(intents, executions, fees, **changes):
    ledger = Ledger("DU1", None, executions, [Commission(e, D(f)) for e, f in fees.items()])
    orders = tuple(Order(i, 1, n, OrderState.FILLED) for n, i in enumerate(intents, 1))
    given = {
        "account": "DU1", "begun": BEGUN, "ended": ENDED, "intents": tuple(intents),
        "orders": orders, "fills": tuple(f for f in ledger.fills if f.execution.time >= BEGUN),
        "earlier": tuple(f for f in ledger.fills if f.execution.time < BEGUN),
        "positions": dict(ledger.positions),
    }  # fmt: skip
    return SessionFacts(**{**given, **changes})


def planted(fees=True, expected=3.0):
    """Bought 100 AAA at 100.02 against a mid of 100, sold at 101; sold 50 BBB short, kept."""
    buy = make_intent(5, "AAA", Side.BUY, 100, "100.00", expected)
    short = make_intent(5, "BBB", Side.SELL, 50, "40.00", expected)
    sell = make_intent(60, "AAA", Side.SELL, 100, "101.01", 2.0, Purpose.EXIT)
    executions = [
        make_fill(1, 5.1, buy, 60, "100.01"),
        make_fill(2, 5.2, buy, 40, "100.035"),
        make_fill(3, 5.3, short, 50, "39.99"),
        make_fill(4, 60.1, sell, 100, "101.00"),
    ]
    charged = {e.exec_id: "0.50" for e in executions}
    if not fees:
        del charged[executions[2].exec_id]
    return make_facts([buy, short, sell], executions, charged, marks={"BBB": D("39.50")})


def report_of(facts) -> SessionReport:
    return SessionReport.of(facts, Settings())


def test_trades_and_profit_by_hand():
    report = report_of(planted())
    closed, kept = report.trades
    assert (closed.symbol, closed.side, closed.shares) == ("AAA", Side.BUY, 100)
    assert (closed.entry, closed.exit, closed.fees) == (D("100.02"), D("101"), D("1.50"))
    assert closed.realised == D(98)
    assert (closed.opened, closed.closed) == (at(5.1), at(60.1))
    assert (kept.symbol, kept.side, kept.entry, kept.exit, kept.closed) == (
        "BBB", Side.SELL, D("39.99"), None, None,
    )  # fmt: skip
    assert (report.realised, report.fees, report.unrealised) == (D(98), D(2), D("24.50"))
    assert {n.symbol: (n.realised, n.unrealised, n.held) for n in report.names} == {
        "AAA": (D(98), D(0), D(0)),
        "BBB": (D(0), D("24.50"), D(-50)),
    }


def test_costs_by_hand_beside_the_models():
    report = report_of(planted())
    buy, short, sell = report.costs
    assert buy.shortfall_bps == pytest.approx(2.0)  # 100.02 for 100.00
    assert buy.fee_bps == pytest.approx(1.0 / 10_000 * 1e4)
    assert short.shortfall_bps == pytest.approx(2.5)  # 39.99 for 40.00
    assert sell.shortfall_bps == pytest.approx(0.01 / 101.01 * 1e4)
    value = 100 * 100 + 50 * 40 + 100 * 101.01
    total = (2.0 + 1.0) * 10_000 + (2.5 + 0.5 / 2000 * 1e4) * 2000
    total += (0.01 / 101.01 * 1e4 + 0.5 / 10101 * 1e4) * 10101
    assert report.measured.total_bps == pytest.approx(total / value)
    expected = (3.0 * 12_000 + 2.0 * 10101) / value
    assert report.compared.expected_bps == pytest.approx(expected)
    assert report.compared.total_bps == report.measured.total_bps


def test_a_fee_that_was_not_told_is_unknown_and_stays_so():
    report = report_of(planted(fees=False))
    assert report.fees is None
    assert report.measured.total_bps is None
    assert report.measured.shortfall_bps is not None
    assert report.compared.orders == 2
    text = "\n".join(lines(report))
    assert "unknown: those of 1 fills were not told" in text
    assert "1 orders are left out" in text
    found = to_dict(report)
    assert found["fees_usd"] is None
    assert found["trades"][1]["fees"] is None


def test_an_estimate_that_was_not_made_is_unknown():
    report = report_of(planted(expected=math.nan))
    assert [c.expected_bps for c in report.costs] == [None, None, 2.0]
    assert report.compared.orders == 1
    assert json.dumps(to_dict(report), allow_nan=False)


def test_a_position_without_a_price_has_no_profit():
    report = report_of(replace(planted(), marks={}))
    assert report.unrealised is None
    assert "unrealised  unknown" in "\n".join(lines(report))


def test_nothing_at_all_is_all_unknown():
    report = report_of(make_facts([], [], {}))
    text = "\n".join(lines(report))
    assert "NAV         unknown; since the prior close unknown" in text
    assert "link up     unknown" in text
    assert report.measured.total_bps is None
    assert report.trades == ()
    assert {limit.most for limit in report.limits[:5]} == {None}


def test_a_trade_begun_before_is_told_with_its_beginning():
    buy = make_intent(-2000, "AAA", Side.BUY, 10, "50")
    sell = make_intent(10, "AAA", Side.SELL, 10, "60", purpose=Purpose.EXIT)
    executions = [make_fill(1, -2000, buy, 10, "50"), make_fill(2, 10, sell, 10, "60")]
    (trade,) = report_of(make_facts([sell], executions, {})).trades
    assert (trade.entry, trade.exit, trade.realised, trade.fees) == (D(50), D(60), D(100), None)


@given(st.lists(st.tuples(st.integers(-300, 300).filter(bool), st.integers(90, 110)), max_size=25))
def test_trades_add_up_to_the_ledger(moves):
    intents, executions = [], []
    for number, (shares, price) in enumerate(moves, 1):
        side = Side.BUY if shares > 0 else Side.SELL
        intents.append(make_intent(number, "AAA", side, abs(shares), "100"))
        executions.append(make_fill(number, number, intents[-1], abs(shares), str(price)))
    facts = make_facts(intents, executions, {e.exec_id: "1" for e in executions})
    report = report_of(facts)
    ledger = Ledger("DU1", None, executions, [])
    assert sum((t.realised for t in report.trades), D(0)) == ledger.realised
    assert sum((t.fees for t in report.trades), D(0)) == len(executions)
    assert sum(t.closed is None for t in report.trades) <= 1
    assert report.realised == ledger.realised


def test_limits_and_how_near_they_came():
    def valued(minutes, nav, gross, net, largest):
        facts = {
            "nav": str(nav),
            "prior_nav": "1000000",
            "gross": gross,
            "net": net,
            "largest": largest,
        }
        return Note(at(minutes), "valued", facts)

    notes = (
        valued(5, 1_000_000, 0.2, -0.1, 0.05),
        valued(10, 1_010_000, 0.4, 0.2, 0.1),
        valued(15, 989_800, 0.3, -0.25, 0.08),
    )
    adds = [make_intent(m, f"S{m}", Side.BUY, 100, "10") for m in (0.1, 0.5, 1.0, 1.05, 1.2)]
    settings = Settings()
    report = SessionReport.of(make_facts(adds, [], {}, notes=notes), settings)
    most = {limit.name: limit.most for limit in report.limits}
    assert most["risk.max_gross"] == 0.4
    assert most["risk.max_net"] == 0.25
    assert most["risk.max_name_weight"] == 0.1
    assert most["risk.daily_loss_limit"] == pytest.approx(0.0102)
    assert most["risk.drawdown_limit"] == pytest.approx(0.02)
    assert most["risk.max_order_usd"] == 1000
    assert most["risk.max_orders_per_minute"] == 4
    share = {limit.name: limit.share for limit in report.limits}
    assert share["risk.daily_loss_limit"] == pytest.approx(0.0102 / settings.risk.daily_loss_limit)
    assert report.change == D(-10_200)


def test_gains_are_no_losses():
    facts = {"nav": "1100000", "prior_nav": "1000000", "gross": 0.0, "net": 0.0, "largest": 0.0}
    notes = (Note(at(5), "valued", facts),)
    report = report_of(make_facts([], [], {}, notes=notes))
    assert {n.most for n in report.limits if "loss" in n.name or "drawdown" in n.name} == {0.0}


def test_the_link_counts_by_time():
    words = ((0, True), (30, False), (40, True))
    links = [Note(at(m), "link", {"up": up, "why": ""}) for m, up in words]
    notes = (*links, Note(at(100), "bar", {"time": "x"}))
    assert report_of(make_facts([], [], {}, notes=notes)).link_share == pytest.approx(0.9)


# from events to a report


def test_what_the_bus_told_is_in_the_report(tmp_path):
    clock = FixedClock(BEGUN)
    with Journal(tmp_path / "journal", clock) as journal:
        journal.set_baseline("DU1", (), D(1_000_000), "a test")
        bus, recorder = Bus(clock), Recorder(journal)
        bus.subscribe(recorder.take, KINDS, on_order_path=True)
        clock.advance(300)
        now = clock.now()
        bus.publish(BarTaken(now, now, 500, ("AAA",)))
        bus.publish(Valued(now, "DU1", "2024-07-01", D("1000000"), D("999000"), D("5"), 0.3, 0.1,
                           0.02))  # fmt: skip
        bus.publish(Decided(now, "DU1", "d1", now, "NORMAL", "", "reductions", "late", {}))
        for k in range(300):
            bus.publish(LeftOut(now, "d1", f"S{k}", 10, "it was late"))
        bus.publish(LeftOut(now, "d1", "T", 10, "no quote"))
        before = journal.last_event
        bus.publish(NotDecided(now, now, "nobody answers", 1))
        bus.publish(Alert(now, Severity.CRITICAL, "graph-away", "no decision", {"bars": 3}))
        bus.publish(LevelChanged(now, "PAUSED", "ann", "lunch"))
        assert journal.last_event == before + 5
        facts = read_facts(journal, "DU1", BEGUN, ENDED)
    report = report_of(facts)
    assert (report.bars, report.without_decision, report.bound) == (1, 1, {"reductions": 1})
    assert report.left_out == {"it was late": 300, "no quote": 1}
    assert report.change == D(1000)
    assert report.levels[0].facts["by"] == "ann"
    text = "\n".join(lines(report))
    assert "PAUSED by ann: lunch" in text
    assert "CRITICAL no decision" in text
    with Journal.reader(tmp_path / "journal") as reader:
        assert read_facts(reader, "DU1", BEGUN, ENDED) == facts
        assert read_facts(reader, "DU1", ENDED, ENDED + timedelta(days=1)).notes == ()


# the files


def test_the_page_escapes_everything_and_needs_nothing_from_outside(tmp_path):
    nasty = "<script>alert(1)</script>"
    notes = (
        Note(at(5), "alert", {"severity": "critical", "kind": "x", "what": nasty}),
        Note(at(5), "refusal", {"code": "quote", "what": f"AAA: {nasty}", "ref": "dpa-1"}),
        Note(at(5), "level", {"level": "PAUSED", "by": nasty, "why": nasty}),
        Note(at(5), "valued", {"nav": "1000000", "prior_nav": "1000000", "gross": 0.1,
                               "net": 0.1, "largest": 0.1}),
    )  # fmt: skip
    report = report_of(replace(planted(), notes=notes))
    document, page = write_report(report, tmp_path / "new")
    found = json.loads(document.read_text())
    assert found["refusals"] == [
        {"at": at(5).isoformat(), "code": "quote", "what": f"AAA: {nasty}", "ref": "dpa-1"}
    ]
    assert D(found["realised_usd"]) == 98
    html = page.read_text()
    assert nasty not in html
    assert "&lt;script&gt;alert(1)" in html
    assert 'src="http' not in html
    assert '<link rel="stylesheet"' not in html
    for title in ("What orders cost", "Limits, and how near they came", "Refused", "Trades"):
        assert title in html


def test_a_report_of_nothing_is_a_page_too(tmp_path):
    _, page = write_report(report_of(make_facts([], [], {})), tmp_path)
    assert "unknown" in page.read_text()


def test_a_name_cannot_break_out_of_a_picture(tmp_path):
    bad = make_intent(5, "</script><b>", Side.BUY, 1, "10")
    facts = make_facts([bad], [make_fill(1, 5, bad, 1, "10")], {"0000.0001.01": "0.1"})
    _, page = write_report(report_of(facts), tmp_path)
    assert "</script><b>" not in page.read_text()


def test_every_picture_draws_offline_in_a_browser(tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium to open the report with")
    worth = [
        Note(at(m), "valued", {"nav": str(10**6 + m), "prior_nav": "1000000", "gross": 0.1,
                               "net": 0.1, "largest": 0.1})
        for m in range(5, 100, 5)
    ]  # fmt: skip
    report = report_of(replace(planted(), notes=tuple(worth)))
    page = write_report(report, tmp_path)[1]
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
        "--enable-logging=stderr", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = done.stdout.count('class="plot js-plotly-plot"')
    assert drawn == done.stdout.count('<div id="picture-') == 4
    found = Page(page.read_text(encoding="utf-8"))
    assert [row[0] for row in found.tables["trades"][1:]] == ["AAA", "BBB"]
    assert found.tables["limits"][0] == ["limit", "most", "allowed", "share", "when"]
