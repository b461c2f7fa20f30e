"""The page at ``/`` in headless Chromium, fed with decisions of the pure function."""

import contextlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dpa.config import Settings
from dpa.decision.records import plain
from dpa.serving.page import page_html, page_policy
from tests.serving.planted_decisions import FAMILIES, HORIZONS, decisions

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = Settings.model_validate({"serving": {"page_seconds": 0.1}})
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
ALPHAS = [f"alpha{label}" for label in HORIZONS]
COLUMNS = ["symbol", *ALPHAS, "horizon", "cost", "net", "gate", "spread", "age", "held", "target",
           "shares", "action", "why"]  # fmt: skip


def recorded(place: int = -1, seconds_old: float = 3.0) -> dict[str, Any]:
    """A decision as JSON, dated so that its bar closed a moment ago."""
    answer = json.loads(json.dumps(plain(decisions()[place].to_dict())))
    closed = datetime.now(UTC) - timedelta(seconds=seconds_old)
    answer["time"], answer["moment"] = closed.isoformat(), closed.isoformat()
    return answer


def bundle_of(answer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": answer["bundle"][:12],
        "fingerprint": answer["bundle"],
        "interval": "5m",
        "calendar": "XNYS",
        "trained_until": "2024-06-28T20:00:00+00:00",
        "refused": None,
        **changes,
    }


class Service:
    """Serves the page and recorded answers; notes what is asked."""

    def __init__(self, page: str, policy: str) -> None:
        self.page, self.policy = page, policy
        answer = recorded()
        self.answers: dict[str, tuple[int, Any]] = {
            "/v1/decisions/latest": (200, answer),
            "/v1/bundle": (200, bundle_of(answer)),
            "/readyz": (200, {"ready": True, "stages": {"market": "ok"}}),
            "/v1/trading": (204, None),
        }
        self.asked: list[str] = []
        self.reads_need = ""  # the token without which nothing is shown
        self.posted: list[tuple[str, str | None, Any]] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                service.asked.append(self.path)
                if self.path == "/":
                    self._send(200, service.page.encode(), "text/html; charset=utf-8")
                    return
                status, body = service.answers.get(self.path.partition("?")[0], (404, None))
                header = self.headers["Authorization"]
                if service.reads_need and header != f"Bearer {service.reads_need}":
                    status, body = 401, {"error": {"what": "a token is needed", "cure": "send it"}}
                content = b"" if status in (204, 304) else json.dumps(body).encode()
                self._send(status, content, "application/json")

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                said = json.loads(self.rfile.read(length))
                service.posted.append((self.path, self.headers["Authorization"], said))
                status, body = service.answers[f"POST {self.path}"]
                self._send(status, json.dumps(body).encode(), "application/json")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Security-Policy", service.policy)
                self.end_headers()
                with contextlib.suppress(OSError):  # the page may have gone
                    self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def decide(self, answer: dict[str, Any]) -> None:
        self.answers["/v1/decisions/latest"] = (200, answer)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    decisions()
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def service() -> Iterator[Service]:
    page = page_html(SETTINGS)
    running = Service(page, page_policy(page))
    yield running
    running.stop()


class Window:
    """A tab that keeps what went wrong in it and what it asked of others."""

    def __init__(self, browser: Any, service: Service, **options: Any) -> None:
        self._context = browser.new_context(viewport={"width": 1500, "height": 900}, **options)
        self.page = self._context.new_page()
        self.page.set_default_timeout(10_000)
        self.errors: list[str] = []
        self.foreseen: tuple[str, ...] = ()
        self.elsewhere: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)
        self._url = service.url

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    @property
    def unforeseen(self) -> list[str]:
        """Errors without the browser's own words for each refused or failed question."""
        return [error for error in self.errors if not any(w in error for w in self.foreseen)]

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self._url, "data:")):
            self.elsewhere.append(request.url)

    def open(self, hash_: str = "") -> Any:
        self.page.goto(self._url + hash_)
        return self.page

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def window(browser: Any, service: Service) -> Iterator[Window]:
    """A tab; afterwards nothing went wrong in it, and it asked nobody else."""
    opened = Window(browser, service)
    yield opened
    opened.close()
    assert opened.unforeseen == []
    assert opened.elsewhere == []


def expect(locator: Any) -> Any:
    return playwright.expect(locator)


def cells(page: Any) -> list[dict[str, str]]:
    """The table's rows as text by column."""
    rows = page.eval_on_selector_all(
        "#rows > tr.row", "rows => rows.map(r => [...r.children].map(c => c.textContent))"
    )
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def symbols(page: Any) -> list[str]:
    return [row["symbol"] for row in cells(page)]


def ready(page: Any, n_symbols: int = 20) -> None:
    expect(page.locator("#rows > tr.row")).to_have_count(n_symbols)


def shown(value: float | None, digits: int, sign: bool = False) -> str:
    """A number as the page writes it."""
    if value is None:
        return "-"
    text = f"{abs(value):,.{digits}f}"
    if not re.search("[1-9]", text):
        return text
    return ("−" if value < 0 else "+" if sign else "") + text


def test_every_symbol_has_its_numbers_with_unknown_ones_as_dashes(window, service):
    page = window.open()
    ready(page)
    answer = service.answers["/v1/decisions/latest"][1]
    trace = answer["trace"]
    for k, (row, record) in enumerate(zip(cells(page), answer["symbols"], strict=True)):
        for h, label in enumerate(HORIZONS):
            assert row[f"alpha{label}"] == shown(trace["alpha"][h][k], 1, sign=True)
        assert row["symbol"] == record["symbol"]
        assert row["horizon"] == (record["horizon"] or "-")
        assert row["cost"] == shown(record["cost_bps"], 1)
        assert row["net"] == shown(record["net_bps"], 1, sign=True)
        assert row["gate"] == shown(record["gate"], 2)
        assert row["spread"] == shown(trace["spread_bps"][k], 1)
        assert row["age"] == shown(trace["quote_age_ms"][k], 0)
        assert row["held"] == shown(100 * record["held_weight"], 2, sign=True)
        assert row["target"] == shown(100 * record["target_weight"], 2, sign=True)
        assert row["shares"] == shown(record["target_shares"], 0, sign=True)
        assert row["action"] == record["action"]
        assert row["why"] == (record["why"] or "-")
    assert cells(page)[1]["spread"] == "-"
    assert {"enter", "hold"} <= {row["action"] for row in cells(page)}


def test_the_head_says_what_when_with_what_and_what_is_wrong(window, service):
    answer = service.answers["/v1/decisions/latest"][1]
    answer["risk"] = {"level": "REDUCE_ONLY", "why": "the day lost 1.6 %"}
    refused = {"reference": "promoted", "fingerprint": "f", "reason": "model ridge is altered"}
    service.answers["/v1/bundle"] = (200, bundle_of(answer, version="v123", refused=refused))
    page = window.open()
    ready(page)
    traded = sum(1 for record in answer["symbols"] if record["trade_shares"])
    expect(page.locator("#headline")).to_have_text(f"{traded} of 20 symbols to trade")
    expect(page.locator("#bundle")).to_have_text("v123")
    expect(page.locator("#bar")).to_contain_text(" UTC")
    expect(page.locator("#bar-note")).to_contain_text(" ago")
    expect(page.locator("#risk")).to_have_text("reduce only")
    expect(page.locator("#risk-note")).to_have_text("the day lost 1.6 %")
    expect(page.locator("#families")).to_have_text("3 of 4")
    banners = page.locator("#banners")
    expect(banners).to_contain_text("Family gbdt is left out: not done within 500 ms.")
    expect(banners).to_contain_text("promoted: model ridge is altered")


def test_columns_sort_both_ways_with_unknown_values_last(window, service):
    page = window.open()
    ready(page)
    records = service.answers["/v1/decisions/latest"][1]["symbols"]
    trace = service.answers["/v1/decisions/latest"][1]["trace"]
    places = {label: place for place, label in enumerate(HORIZONS)} | {None: None}
    wanted = {
        "net": [record["net_bps"] for record in records],
        "alpha1d": trace["alpha"][places["1d"]],
        "symbol": [record["symbol"] for record in records],
        "why": [record["why"] or None for record in records],
        "spread": trace["spread_bps"],
        "horizon": [places[record["horizon"]] for record in records],
    }
    for key, values in wanted.items():
        head = page.locator(f"th[data-key={key}]")
        expect(head).to_have_attribute("aria-sort", "none")
        known = [k for k in range(20) if values[k] is not None]
        unknown = [k for k in range(20) if values[k] is None]
        seen = []
        for _ in range(2):
            head.locator("button").click()
            seen.append(head.get_attribute("aria-sort"))
            known.sort()
            known.sort(key=lambda k: values[k], reverse=seen[-1] == "descending")
            assert symbols(page) == [records[k]["symbol"] for k in known + unknown]
        assert sorted(seen) == ["ascending", "descending"]


def test_the_keyboard_sorts_and_opens_a_trace(window):
    page = window.open()
    ready(page)
    page.locator("th[data-key=net] button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th[data-key=net]")).to_have_attribute("aria-sort", "descending")
    row = page.locator("#rows > tr.row").first.locator("button")
    row.focus()
    page.keyboard.press("Space")
    expect(row).to_have_attribute("aria-expanded", "true")
    expect(page.locator("tr.trace")).to_have_count(1)


def test_choices_survive_a_new_decision_and_a_reload(window, service):
    page = window.open()
    ready(page)
    page.locator("th[data-key=net] button").click()
    page.locator("#filter").fill("S0")
    page.locator("#traded").check()
    answer = recorded(place=-2)
    traded = [r for r in answer["symbols"] if r["trade_shares"]]
    wanted = [r["symbol"] for r in sorted(traded, key=lambda r: -r["net_bps"])]
    assert wanted != symbols(page)
    opened = next(name for name in symbols(page) if name in wanted)
    page.locator("#rows > tr.row button", has_text=opened).click()
    service.decide(answer)
    expect(page.locator("#count")).to_have_text(f"{len(wanted)} of 20 symbols")
    assert symbols(page) == wanted
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == opened
    expect(page.locator("tr.trace h2")).to_have_text(opened)
    page.reload()
    expect(page.locator("#count")).to_have_text(f"{len(wanted)} of 20 symbols")
    assert symbols(page) == wanted
    expect(page.locator("tr.trace h2")).to_have_text(opened)
    expect(page.locator("#filter")).to_have_value("S0")


def test_the_filter_finds_reasons_and_actions(window):
    page = window.open()
    ready(page)
    everything = cells(page)
    page.locator("#filter").fill("QUOTE")
    expect(page.locator("#count")).to_have_text("2 of 20 symbols")
    assert symbols(page) == ["S001", "S003"]
    page.locator("#filter").fill("hold")
    held = [row["symbol"] for row in everything if "hold" in row["action"] + row["why"]]
    expect(page.locator("#count")).to_have_text(f"{len(held)} of 20 symbols")
    assert symbols(page) == held


def test_the_families_parts_add_up_to_the_alpha(window, service):
    page = window.open()
    ready(page)
    answer = service.answers["/v1/decisions/latest"][1]
    page.locator("#rows > tr.row").nth(6).click()
    tables = page.locator("tr.trace table")
    rows = tables.nth(1).locator("tbody tr").all_inner_texts()
    split = [row.split("\t") for row in rows]
    assert [row[1] for row in split] == list(FAMILIES) * len(HORIZONS)
    number = lambda text: 0.0 if text == "-" else float(text.replace("−", "-"))  # noqa: E731
    for h in range(len(HORIZONS)):
        parts = sum(number(row[-1]) for row in split[4 * h : 4 * h + 4])
        assert parts == pytest.approx(answer["trace"]["alpha"][h][6], abs=0.03)
    record = answer["symbols"][6]
    expect(page.locator("tr.trace")).to_contain_text(
        f"target {shown(100 * record['target_weight'], 2)} %: {record['action']}"
    )


def test_numbers_are_greyed_while_the_service_is_away_and_come_back(window, service):
    page = window.open()
    ready(page)
    expect(page.locator("body")).not_to_have_class("old")
    service.stop()
    banner = page.locator(".banner.bad")
    expect(banner).to_contain_text("The service does not answer since")
    expect(banner).to_contain_text("What is shown is old")
    expect(page.locator("body")).to_have_class("old")
    expect(page.locator("#numbers")).to_have_css("opacity", "0.42")
    expect(page.locator("#headline")).to_contain_text("as it was")
    service.decide(recorded(place=-2))
    service.start()
    expect(banner).to_have_count(0)
    expect(page.locator("#numbers")).to_have_css("opacity", "1")
    assert cells(page)[5]["net"] == shown(recorded(-2)["symbols"][5]["net_bps"], 1, sign=True)
    window.foreseen = ("ERR_", "Failed to load")


def test_a_service_that_says_nothing_is_old_too(browser, service):
    """A request that hangs is not fresh either; the page's clock is moved by hand."""
    window = Window(browser, service)
    window.page.clock.install()
    page = window.open()
    page.clock.run_for(500)
    ready(page)
    page.evaluate("() => { window.fetch = () => new Promise(() => {}); }")
    page.clock.run_for(2_000)
    expect(page.locator("body")).not_to_have_class("old")
    page.clock.run_for(8_000)
    expect(page.locator("body")).to_have_class("old")
    window.close()


def test_an_unchanged_decision_need_not_be_sent_again(window, service):
    page = window.open()
    ready(page)
    identity = service.answers["/v1/decisions/latest"][1]["id"]
    service.answers["/v1/decisions/latest"] = (304, None)
    with page.expect_request("**/v1/decisions/latest") as asked:
        pass
    assert asked.value.headers["if-none-match"] == f'"{identity}"'
    expect(page.locator("#asked")).to_have_text(re.compile("heard [01].s ago"))
    expect(page.locator("body")).not_to_have_class("old")
    assert len(cells(page)) == 20


def test_an_error_of_the_service_is_said_and_the_numbers_are_greyed(window, service):
    page = window.open()
    ready(page)
    error = {"what": "the market stage is away", "cure": "wait", "code": "not_ready", "field": ""}
    window.foreseen = ("503",)
    service.answers["/v1/decisions/latest"] = (503, {"error": error})
    expect(page.locator(".banner.bad")).to_contain_text("503: the market stage is away; wait")
    expect(page.locator("body")).to_have_class("old")


def test_where_reading_needs_the_token_the_page_asks_for_it_and_forgets_it(browser, service):
    service.reads_need = "right"
    opened = Window(browser, service)
    page = opened.open()
    for token in ("wrong", "right"):
        expect(page.locator("#ask-token")).to_be_visible()
        page.fill("#token", token)
        page.press("#token", "Enter")
    ready(page)
    expect(page.locator("#ask-token")).to_be_hidden()
    assert page.input_value("#token") == ""
    page.reload()
    expect(page.locator("#ask-token")).to_be_visible()
    opened.close()
    assert all("401" in error for error in opened.errors)
    assert opened.elsewhere == []


def test_before_the_first_decision_it_says_how_to_ask_for_one(window, service):
    service.answers["/v1/decisions/latest"] = (404, {"error": {"what": "there is none"}})
    service.answers["/readyz"] = (200, {"ready": False, "stages": {"market": "no bars on record"}})
    window.foreseen = ("404",)
    page = window.open()
    expect(page.locator("#headline")).to_have_text("Nothing is decided yet")
    expect(page.locator("#curl")).to_contain_text("curl ")
    expect(page.locator("#curl")).to_contain_text(f"{service.url}v1/decide")
    expect(page.locator("#banners")).to_have_text("Not ready: market: no bars on record.")
    expect(page.locator("#decision")).to_be_hidden()
    service.decide(recorded())
    ready(page)
    expect(page.locator("#nothing")).to_be_hidden()


def test_an_old_bar_is_called_old(window, service):
    service.decide(recorded(seconds_old=2 * 3600))
    page = window.open()
    ready(page)
    expect(page.locator("#banners")).to_contain_text("The newest bar closed 2\u00a0h ago")


def test_names_and_words_are_data_never_markup(window, service):
    answer = recorded()
    answer["symbols"][0] |= {"symbol": HOSTILE, "why": HOSTILE, "action": HOSTILE}
    answer["left_out"] = {HOSTILE: HOSTILE}
    answer["families"][0] = answer["account"] = HOSTILE
    answer["risk"]["why"] = HOSTILE
    service.decide(answer)
    service.answers["/v1/bundle"] = (200, bundle_of(answer, version=HOSTILE, refused={
        "reference": HOSTILE, "reason": HOSTILE}))  # fmt: skip
    page = window.open()
    ready(page)
    page.locator("#rows > tr.row").first.locator("button").click()
    expect(page.locator("tr.trace h2")).to_have_text(HOSTILE)
    assert cells(page)[0]["symbol"] == HOSTILE
    assert page.title() == "dpa decisions"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    page.reload()  # the symbol is in the address now
    expect(page.locator("tr.trace h2")).to_have_text(HOSTILE)
    assert page.locator("img").count() == 0


def test_a_halt_after_the_decision_is_shown_at_once(window, service):
    page = window.open()
    ready(page)
    expect(page.locator("#risk")).to_have_text("normal")
    answer = service.answers["/v1/decisions/latest"][1]
    accounts = {"default": {"level": "HALTED", "why": "Ada: prices look wrong"}, "other": {}}
    service.answers["/v1/bundle"] = (200, bundle_of(answer, accounts=accounts))
    expect(page.locator("#risk")).to_have_text("halted")
    expect(page.locator("#risk-note")).to_have_text("Ada: prices look wrong")
    expect(page.locator("#account option")).to_have_text(["newest of any", "default", "other"])


def test_an_account_can_be_picked_and_stays_picked(window, service):
    page = window.open()
    ready(page)
    with page.expect_request("**/v1/decisions/latest?account=default"):
        page.locator("#account").select_option("default")
    page.reload()
    ready(page)
    expect(page.locator("#account")).to_have_value("default")


def test_the_policy_allows_the_page_and_nothing_else(browser, service):
    service.page = service.page.replace("</main>", "</main><script>window.taken = 1</script>")
    window = Window(browser, service)
    page = window.open()
    ready(page)
    assert page.evaluate("window.taken") is None
    assert any("Content Security Policy" in error for error in window.errors)
    window.close()
    assert "unsafe" not in service.policy
    assert service.policy.startswith("default-src 'none'")


def test_the_page_is_one_script_one_style_and_no_inline_handlers():
    page = page_html(SETTINGS)
    assert len(re.findall("<script", page)) == len(re.findall("<style", page)) == 1
    assert not re.search(r"<[^>]+\s(on\w+|style)=", page)
    assert not re.search(r"(src|href)=\"(?!data:|docs\")", page)
    assert "https://" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes_and_on_a_phone(browser, service, scheme):
    window = Window(browser, service, color_scheme=scheme)
    page = window.open()
    page.set_viewport_size({"width": 390, "height": 800})
    ready(page)
    page.locator("#rows > tr.row").nth(4).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    contrast = page.evaluate(
        """() => {
          const rgb = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
          const light = (text) => rgb(text).map((x) => x / 255)
            .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
            .reduce((sum, x, k) => sum + x * [0.2126, 0.7152, 0.0722][k], 0);
          const back = light(getComputedStyle(document.getElementById("scroll")).backgroundColor);
          return ["#headline", ".note", "td.soft", "td.bad", ".warn", "#risk"].map((which) => {
            const ink = light(getComputedStyle(document.querySelector(which)).color);
            return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
          });
        }"""
    )
    assert min(contrast) > 4.5  # WCAG 2 AA
    window.close()


# --- the trader ------------------------------------------------------------------------------


def trading(**changes: Any) -> dict[str, Any]:
    """What a trader with two positions and an order says."""
    position = {"average_cost": 99.5, "price": 101.25, "value": 2.0, "weight": 0.042}
    return {
        "state": "trading",
        "why": "",
        "level": "RUNNING",
        "level_by": "",
        "level_why": "",
        "level_mark": "never set",
        "account": "DU1234567",
        "broker": "ibkr",
        "connected": True,
        "virtual": True,
        "now": "2024-09-23T14:10:00+00:00",
        "reconciled": {"at": "2024-09-23T14:09:00+00:00", "complete": True, "breaks": []},
        "nav": 1_003_108.46,
        "cash": 961_000.0,
        "pnl_today": 3_108.46,
        "pnl_total": -1_250.5,
        "fees": 56.0,
        "refused": {"collar": 2},
        "refusals": [{"symbol": "N07", "what": HOSTILE}],
        "alerts": [],
        "limits": [
            {"name": "daily loss", "value": 0.016, "limit": 0.02, "unit": "of NAV", "used": 0.8},
            {"name": "orders working", "value": 1, "limit": 1000, "unit": "orders", "used": 0.001},
            {"name": "drawdown", "value": None, "limit": 0.1, "unit": "of NAV", "used": None},
        ],
        "positions": [
            {"symbol": "N01", "shares": 400.0, "unrealised": 700.0, **position},
            {"symbol": HOSTILE, "shares": -250.0, "unrealised": -30.5, **position},
        ],
        "orders": [
            {"symbol": "N03", "side": "buy", "shares": 300, "filled": 100.0, "limit": 50.25,
             "state": "working", "purpose": "session_end"},
        ],
        **changes,
    }  # fmt: skip


def rows_of(page: Any, table: str) -> list[list[str]]:
    return page.eval_on_selector_all(
        f"#{table} > tr", "rows => rows.map(r => [...r.children].map(c => c.textContent))"
    )


def test_without_a_trader_nothing_is_said_of_one(window):
    page = window.open()
    ready(page)
    expect(page.locator("#trading")).to_be_hidden()


def test_what_a_trader_holds_works_earns_and_may_lose(window, service):
    service.answers["/v1/trading"] = (200, trading())
    page = window.open()
    expect(page.locator("#level")).to_have_text("running")
    expect(page.locator("#trading-title")).to_contain_text("account DU1234567")
    expect(page.locator("#pnl-today")).to_have_text("+3,108.46\xa0USD")
    expect(page.locator("#pnl-total")).to_contain_text("\u22121,250.50")
    assert rows_of(page, "positions") == [
        ["N01", "400", "99.50", "101.25", "4.20 %", "+700.00"],
        [HOSTILE, "\u2212250", "99.50", "101.25", "4.20 %", "\u221230.50"],
    ]
    assert rows_of(page, "orders") == [
        ["N03", "buy", "300", "100", "50.25", "working", "session end"]
    ]
    assert [row[:2] + row[3:] for row in rows_of(page, "limits")] == [
        ["daily loss", "1.60 % of 2.00 %", "80 %"],
        ["orders working", "1 of 1,000", "0 %"],
        ["drawdown", "- of 10.00 %", "-"],
    ]
    expect(page.locator("#limits .meter.warn")).to_have_count(1)
    assert page.title() == "dpa decisions"


def test_the_kill_button_asks_once_and_says_what_came_of_it(browser, service):
    service.answers["/v1/trading"] = (200, trading())
    refused = {"error": {"what": "the token is wrong", "cure": "send the right one"}}
    service.answers["POST /v1/trading/kill"] = (401, refused)
    opened = Window(browser, service)
    page = opened.open()
    page.click("#kill")
    page.click("#kill-no")
    expect(page.locator("#ask-kill")).to_be_hidden()
    assert service.posted == []
    page.click("#kill")
    page.fill("#kill-token", "wrong")
    page.click("#kill-yes")
    expect(page.locator("#kill-said")).to_contain_text("the token is wrong; send the right one")
    halted = trading(level="HALTED", level_by="the page", level_why="the kill button")
    service.answers["POST /v1/trading/kill"] = (200, halted)
    service.answers["/v1/trading"] = (200, halted)
    page.fill("#kill-token", "right")
    page.click("#kill-yes")
    expect(page.locator("#ask-kill")).to_be_hidden()
    expect(page.locator("#level")).to_have_text("halted")
    said = {"by": "the page", "why": "the kill button"}
    assert service.posted == [
        ("/v1/trading/kill", "Bearer wrong", said),
        ("/v1/trading/kill", "Bearer right", said),
    ]
    assert page.input_value("#kill-token") == ""
    opened.close()
    assert all("401" in error for error in opened.errors)
    assert opened.elsewhere == []


@pytest.mark.parametrize("verified", [True, False])
def test_after_a_kill_the_page_says_whether_orders_may_still_be_open(browser, service, verified):
    service.answers["/v1/trading"] = (200, trading())
    page = Window(browser, service).open()
    killed = {"verified": verified, "working": [] if verified else ["dpa-77"]}
    halted = trading(level="HALTED", level_by="the page", level_why="the kill button")
    service.answers["POST /v1/trading/kill"] = (200, halted | {"killed": killed})
    service.answers["/v1/trading"] = (200, halted)
    page.click("#kill")
    page.fill("#kill-token", "right")
    page.click("#kill-yes")
    if verified:
        expect(page.locator("#level-note")).to_contain_text("the broker has no open orders")
    else:
        expect(page.locator("#banners")).to_contain_text("may still be open at the broker (dpa-77)")


def test_books_that_differ_are_said_above_everything(browser, service):
    differs = "cash: the broker has 250.00 USD more than the ledger"
    service.answers["/v1/trading"] = (200, trading(differences=[differs]))
    page = Window(browser, service).open()
    expect(page.locator("#banners")).to_contain_text(
        f"The books differ from the broker's: {differs}"
    )
