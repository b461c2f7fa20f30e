"""Every fault does what it says, ends when it says, and is written down strictly."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError
from dpa.simulation.tws.faults import KINDS
from dpa.simulation.tws.script import Script, read_fault, read_script
from dpa.simulation.tws.venue import SimVenue
from tests.simulation.tws import clients
from tests.simulation.tws.venues import (
    Ear,
    flat_market,
    market,
    open_venue,
    order,
    place,
    run_for,
)


def strike(venue, **fault):
    venue.faults.add(read_fault(fault))


@pytest.fixture
def flat():
    return flat_market(price=49.995)


def test_disconnect_and_reset(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="disconnect", reset=True)
    assert ear.cut is True
    assert venue.outlet.everyone == []


@pytest.mark.parametrize(
    ("fault", "trait", "value"),
    [
        ({"do": "mute"}, "mute", True),
        ({"do": "lag", "lag_seconds": 0.5}, "lag_seconds", 0.5),
        ({"do": "withhold", "messages": [55]}, "withhold", {55}),
        ({"do": "swallow", "requests": [3]}, "swallow", {3}),
        ({"do": "limits", "lines": 2}, "lines", 2),
        ({"do": "delayed_data"}, "subscribed", False),
        ({"do": "read_only"}, "read_only", True),
        ({"do": "accounts", "accounts": ["U7", "DU1"]}, "accounts", ("U7", "DU1")),
    ],
)
def test_traits_change_and_come_back(fault, trait, value):
    venue, _ = open_venue(flat_market())
    before = getattr(venue.traits, trait)
    before = set(before) if isinstance(before, set) else before
    strike(venue, seconds=30, **fault)
    assert getattr(venue.traits, trait) == value
    run_for(venue, 31)
    assert getattr(venue.traits, trait) == before


def test_overlapping_faults_end_one_by_one(flat):
    venue, _ = open_venue(flat)
    strike(venue, do="lag", lag_seconds=1, seconds=20)
    run_for(venue, 10)
    strike(venue, do="lag", lag_seconds=2, seconds=20)
    run_for(venue, 11)
    assert venue.traits.lag_seconds == 2
    run_for(venue, 11)
    assert venue.traits.lag_seconds == 0


def test_duplicates(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="duplicate")
    place(venue, 1)
    assert len(ear.heard("execution")) == len(ear.heard("commission")) == 2
    assert len({e.exec_id for (e,) in ear.heard("execution")}) == 1
    assert order(venue, 1).filled == 100


def test_reordered_words_end_with_an_old_status(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="reorder")
    place(venue, 1)
    words = [(name, said[0]) for name, said in ear.said[2:8]]
    assert [name for name, _ in words[:4]] == [
        "order_status",
        "order_status",
        "open_order",
        "execution",
    ]
    assert words[0][1].status == "Filled"
    assert (words[4][0], words[4][1].status) == ("order_status", "Submitted")


@pytest.mark.parametrize("code", [203, 460, 110, 10289])
def test_rejects_that_leave_no_order(flat, code):
    venue, _ = open_venue(flat)
    strike(venue, do="reject", code=code, symbol="N0", times=2)
    assert [getattr(place(venue, n), "code", None) for n in (1, 2, 3)] == [code, code, None]


def test_a_rejected_order_is_inactive(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="reject", code=201)
    place(venue, 1)
    assert (order(venue, 1).status, ear.codes) == ("Inactive", [201])
    assert venue.open_orders(None) == ()


def test_what_if_can_fail(flat):
    venue, _ = open_venue(flat)
    strike(venue, do="reject", code=201)
    assert place(venue, 1, whatIf="1") is None
    strike(venue, do="reject", code=201, what_if=True)
    assert place(venue, 1, whatIf="1").code == 201


@pytest.mark.parametrize("code", [10349, 161, 10148, 399])
def test_a_false_cancel_leaves_the_order_alive(flat, code):
    venue, ear = open_venue(flat)
    place(venue, 1, limit="1.00")
    strike(venue, do="false_cancel", code=code)
    assert ear.codes == [code]
    assert order(venue, 1).status == "Submitted"


def test_an_order_without_tif_is_told_10349_and_lives(flat):
    venue, ear = open_venue(flat)
    place(venue, 1, limit="1.00", tif="")
    assert ear.codes == [10349]
    assert (order(venue, 1).status, order(venue, 1).tif) == ("Submitted", "DAY")


@pytest.mark.parametrize(("lost", "code"), [(True, 1101), (False, 1102)])
def test_connectivity_fills_go_on_and_data_do_not(lost, code):
    venue, ear = open_venue(ear=Ear(markets=True))
    strike(venue, do="connectivity", seconds=120, data_lost=lost)
    assert ear.codes == [1100]
    heard = len(ear.heard("quote"))
    place(venue, 1)
    run_for(venue, 100)
    assert len(ear.heard("quote")) == heard
    assert order(venue, 1).status == "Filled"
    run_for(venue, 60)
    assert ear.codes == [1100, code]
    assert ("data_lost" in ear.words) == lost
    assert len(ear.heard("quote")) > heard


@pytest.mark.skipif(not clients.CLIENT, reason="no client library is installed")
def test_a_client_has_to_subscribe_anew_after_1101():
    async def talk():
        venue = clients.planted_venue(traits=clients.lively())
        async with clients.gateway_of(venue) as gateway, clients.connected(gateway) as api:
            library = clients.client_library()
            (contract,) = await api.qualifyContractsAsync(library.Stock("N0", "SMART", "USD"))
            ticker = api.reqMktData(contract)
            strike(venue, do="connectivity", seconds=30, data_lost=True)
            await clients.step(venue, gateway, api, 10)
            assert [code for _, code in api.codes if code in (1100, 1101)] == [1100, 1101]
            stood = ticker.time, ticker.bidSize
            await clients.step(venue, gateway, api, 10)
            assert (ticker.time, ticker.bidSize) == stood
            again = api.reqMktData(contract)
            await clients.step(venue, gateway, api, 10)
            assert again.time > stood[0]

    clients.run(talk())


def test_farms_go_and_come(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="farm", seconds=10)
    run_for(venue, 11)
    assert ear.codes == [2103, 2104]


def test_a_nightly_restart_rolls_ids_back_and_keeps_orders():
    night = {"do": "restart", "at": "23:45", "seconds": 120, "ids_rolled_back": True}
    venue, ear = open_venue(market(sessions=2), night)
    place(venue, 7, limit="0.01", tif="GTC")
    while ear.cut is None:
        venue.advance()
    assert venue.clock.now().astimezone(venue.hours.zone).strftime("%H:%M") == "23:45"
    assert venue.attach(ear).code == 502
    run_for(venue, 121)
    assert venue.attach(ear) is None
    assert venue.next_order_id(1) == 1
    assert [o.order_id for o in venue.open_orders(1)] == [7]
    assert place(venue, 7, "N1").code == 105  # the number of a live order


def test_lost_orders_and_cancels(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="lose")
    assert place(venue, 1) is None
    assert (ear.words, venue.truth()["orders"]) == ([], [])
    place(venue, 2, limit="1.00")
    strike(venue, do="lose", what="cancel")
    assert venue.cancel(1, 2) is None
    assert order(venue, 2).status == "Submitted"


def test_a_hidden_order_is_worked_without_a_word(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="hide")
    place(venue, 1)
    assert set(ear.words) == {"position", "portfolio", "account_values"}
    assert [e.order_id for e, _ in venue.executions()] == [1]
    place(venue, 2)
    assert len(ear.heard("execution")) == 1


def test_corrections_and_busts_restate_the_books(flat):
    venue, ear = open_venue(flat)
    place(venue, 1)
    price = order(venue, 1).average_price
    strike(venue, do="correct", price_change="0.10")
    books = venue.truth()["accounts"]["DU1234567"]
    assert Decimal(books["cash"]) == 1_000_000 - 100 * (price + Decimal("0.10")) - 1
    strike(venue, do="bust")
    books = venue.truth()["accounts"]["DU1234567"]
    assert Decimal(books["cash"]) == 1_000_000
    assert Decimal(books["positions"]["N0"]["shares"]) == 0
    ids = [e.exec_id[-3:] for (e,) in ear.heard("execution")]
    assert ids == [".01", ".02", ".03"]
    assert ear.heard("execution")[-1][0].shares == 0
    assert [c.amount for (c,) in ear.heard("commission")] == [1, 1, 0]
    assert [e.exec_id[-3:] for e, _ in venue.executions()] == ids


def test_a_margin_jump_shows_in_what_if_and_rejects(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="margin", factor=100, seconds=60)
    place(venue, 1, shares=1_000)
    assert ear.codes == [201]
    run_for(venue, 61)
    place(venue, 2, shares=1_000)
    assert 201 not in ear.codes[1:]


def test_a_held_id_is_refused_until_it_is_free(flat):
    venue, _ = open_venue(flat)
    strike(venue, do="hold_id", client_id=17, seconds=30)
    assert venue.attach(Ear(client_id=17)).code == 326
    run_for(venue, 31)
    assert venue.attach(Ear(client_id=17)) is None


def test_a_halt_stops_trading_and_shows(flat):
    venue, ear = open_venue(flat, ear=Ear(markets=True))
    strike(venue, do="halt", symbol="N0", seconds=60)
    assert ear.heard("quote")[-1][1].halted
    place(venue, 1)
    run_for(venue, 50)
    assert order(venue, 1).filled == 0
    run_for(venue, 11)
    assert order(venue, 1).status == "Filled"


@pytest.mark.parametrize("how", ["crossed", "zero", "none"])
def test_bad_quotes_are_shown_and_not_traded_on(flat, how):
    venue, ear = open_venue(flat, ear=Ear(markets=True))
    strike(venue, do="quotes", how=how, seconds=60)
    quote = ear.heard("quote")[-1][1]
    assert {
        "crossed": quote.bid is not None and quote.ask is not None and quote.bid > quote.ask,
        "zero": quote.bid == 0,
        "none": quote.bid is None,
    }[how]
    place(venue, 1)
    assert order(venue, 1).filled == 0
    run_for(venue, 65)
    assert order(venue, 1).status == "Filled"


def test_stale_quotes_stand_still():
    venue, ear = open_venue(market(names=2), ear=Ear(markets=True))
    strike(venue, do="quotes", how="stale", symbol="N0")
    ear.said.clear()
    run_for(venue, 300)
    assert {contract.symbol for contract, _ in ear.heard("quote")} == {"N1"}


def test_sizes(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="sizes", size=7)
    place(venue, 1, limit=venue.quote(venue.find(0, "N0")).ask, shares=20)
    assert order(venue, 1).filled == 7
    run_for(venue, 30)
    assert [e.shares for (e,) in ear.heard("execution")] == [7, 7, 6]


def test_a_short_sale_waits_for_its_shares(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="locate", symbol="N0", seconds=60)
    assert venue.quote(venue.find(0, "N0")).shortable == 0
    place(venue, 1, action="SELL")
    assert (order(venue, 1).status, order(venue, 1).why_held) == ("PreSubmitted", "locate")
    assert ear.codes == [404]
    place(venue, 2)  # now it holds some, and may sell those
    place(venue, 3, action="SELL")
    assert order(venue, 3).status == "Filled"
    run_for(venue, 61)
    assert (order(venue, 1).status, order(venue, 1).why_held) == ("Filled", "")


def test_orders_of_people_are_found_only_by_asking(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="manual", symbol="N0", side="buy", shares=50)
    strike(venue, do="manual", symbol="N0", side="sell", shares=50, limit=90)
    assert "execution" not in ear.words
    assert [(e.client_id, e.order_id, e.shares) for e, _ in venue.executions()] == [(0, 0, 50)]
    assert [o.client_id for o in venue.open_orders(None)] == [0]
    assert len({o["perm_id"] for o in venue.truth()["orders"]}) == 2


def test_liquidation(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="liquidate")  # nothing held: nothing happens
    place(venue, 1)
    strike(venue, do="liquidate")
    execution = venue.executions()[-1][0]
    assert (execution.liquidation, execution.side, execution.shares) == (1, "SLD", 100)
    assert venue.positions()[0].shares == 0
    assert len(ear.heard("execution")) == 1


def test_commissions_late_never_and_early(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="commission", how="early", seconds=5)
    place(venue, 1)
    assert ear.words.index("commission") < ear.words.index("execution")
    run_for(venue, 6)
    strike(venue, do="commission", how="late", late_seconds=30, seconds=5)
    place(venue, 2)
    assert len(ear.heard("commission")) == 1
    run_for(venue, 31)
    assert len(ear.heard("commission")) == 2
    strike(venue, do="commission", how="never")
    place(venue, 3)
    run_for(venue, 300)
    assert len(ear.heard("commission")) == 2
    assert [fee is None for _, fee in venue.executions()] == [False, False, True]


def test_a_fill_can_come_between_a_cancel_and_its_end(flat):
    venue, ear = open_venue(flat)
    strike(venue, do="slow_cancel", cancel_seconds=30)
    for number in (1, 2):
        place(venue, number, limit="49.90" if number == 1 else "1.00")
        venue.cancel(1, number)
        assert order(venue, number).status == "PendingCancel"
    assert venue.cancel(1, 2).code == 161
    quote = venue.quote(venue.find(0, "N0"))
    cheaper = replace(quote, bid=Decimal("49.89"), ask=Decimal("49.90"))
    venue.tape.set_quote(0, venue.clock.now(), cheaper)
    venue.changed(0)
    assert order(venue, 1).status == "Filled"
    run_for(venue, 31)
    assert (order(venue, 1).status, order(venue, 2).status) == ("Filled", "Cancelled")
    assert ear.codes == [202]


def test_triggers():
    venue, ear = open_venue(
        flat_market(names=2, price=49.995),
        {"do": "say", "code": 1, "when": "order", "count": 2},
        {"do": "say", "code": 2, "when": "order", "every": 2},
        {"do": "say", "code": 3, "when": "fill", "only": "N1"},
        {"do": "say", "code": 4, "when": "cancel"},
        {"do": "say", "code": 5, "at": "2024-06-17 10:00"},
        {"do": "say", "code": 6, "when": "bar", "count": 2},
    )
    for number, symbol in ((1, "N0"), (2, "N0"), (3, "N1"), (4, "N0")):
        place(venue, number, symbol)
    assert ear.codes == [1, 2, 3, 2]
    venue.cancel_all()
    assert ear.codes[4:] == [4]
    run_for(venue, 1900)
    assert ear.codes[5:] == [6, 5]
    assert venue.faults.begun["say"] == 7


def test_chances_are_those_of_the_seed():
    def fired(seed):
        fault = {"do": "say", "code": 1, "when": "order", "chance": 0.3}
        venue, ear = open_venue(flat_market(), fault, seed=seed)
        hits = []
        for number in range(1, 101):
            place(venue, number, limit="1.00")
            hits.append(len(ear.codes))
        return hits

    assert fired(1) == fired(1) != fired(2)
    assert 15 <= fired(1)[-1] <= 45


def test_after_seconds_counts_from_the_beginning():
    script = Script(faults=(read_fault({"do": "say", "code": 9, "after_seconds": 60}),))
    venue, ear = SimVenue(market(), script=script), Ear()
    began = venue.clock.now()
    venue.attach(ear)
    venue.advance()
    assert (ear.codes, venue.clock.now() - began) == ([9], timedelta(seconds=60))


def test_a_script_is_read_from_yaml(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(
        "seed: 3\nfaults:\n  - {do: reject, code: 201, when: order, count: 3}\n"
        '  - {do: halt, symbol: N3, at: "10:15", seconds: 300}\n'
    )
    script = read_script(path)
    assert (script.seed, [type(f).__name__ for f in script.faults]) == (3, ["Reject", "Halt"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("faults:\n - {do: reject, cod: 3}", r"faults\.1\.cod \(reject\): is not known; it has at"),
        ("faults:\n - {do: rejct}", r"faults\.1: 'do' names no fault; use one of disconnect"),
        ("fault: []", "fault: is not known; it has faults, seed"),
        ("faults:\n - {do: halt, symbol: N1, at: '9:99'}", "neither HH:MM"),
        ("faults:\n - {do: mute, at: '10:00', when: order}", "give one of at, after_seconds"),
        ("faults:\n - {do: mute, count: 2}", "belong to when"),
        ("faults:\n - {do: mute, when: order, count: 2, chance: 0.1}", "one of count, every"),
        ("faults:\n - {do: mute, seconds: -1}", "greater than 0"),
        ("- 1", "holds no mapping"),
        ("{", "is not YAML"),
    ],
)
def test_a_mistake_in_a_script_is_named_with_its_cure(tmp_path, text, what):
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        read_script(path)
    assert str(path) in str(caught.value)
    assert caught.value.cure


def test_a_script_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_script(tmp_path / "none.yaml")


def test_symbols_and_accounts_are_checked_before_anything_trades():
    with pytest.raises(ConfigError, match="'ZZ' is not listed"):
        open_venue(market(), {"do": "halt", "symbol": "ZZ", "when": "fill"})
    with pytest.raises(ConfigError, match="'2030-01-01 10:00' is no moment of this venue"):
        open_venue(market(), {"do": "mute", "at": "2030-01-01 10:00"})
    with pytest.raises(ConfigError, match="'DU9' is not known"):
        open_venue(market(), {"do": "liquidate", "account": "DU9", "at": "10:00"})


def test_every_kind_is_described():
    assert len(KINDS) == 31
    assert all(kind.__doc__ for kind in KINDS.values())


ANY = [
    {"do": "disconnect"},
    {"do": "mute", "seconds": 20},
    {"do": "duplicate", "seconds": 60},
    {"do": "reorder", "seconds": 60},
    {"do": "reject"},
    {"do": "reject", "code": 203},
    {"do": "false_cancel"},
    {"do": "connectivity", "seconds": 30, "data_lost": True},
    {"do": "restart", "seconds": 5, "ids_rolled_back": True},
    {"do": "lose"},
    {"do": "hide"},
    {"do": "correct", "price_change": "-0.05"},
    {"do": "correct", "shares": 3},
    {"do": "bust"},
    {"do": "margin", "factor": 9, "seconds": 60},
    {"do": "halt", "symbol": "N0", "seconds": 40},
    {"do": "quotes", "how": "crossed", "seconds": 20},
    {"do": "quotes", "how": "stale", "seconds": 60},
    {"do": "sizes", "size": 30, "seconds": 60},
    {"do": "locate", "symbol": "N1", "seconds": 60},
    {"do": "manual", "symbol": "N0", "side": "sell", "shares": 40},
    {"do": "liquidate"},
    {"do": "commission", "how": "late", "late_seconds": 15, "seconds": 60},
    {"do": "commission", "how": "never", "seconds": 60},
    {"do": "slow_cancel", "cancel_seconds": 8, "seconds": 60},
]
doings = st.lists(
    st.tuples(
        st.sampled_from(ANY),
        st.sampled_from(["N0", "N1"]),
        st.sampled_from(["BUY", "SELL"]),
        st.integers(1, 900),
        st.none() | st.integers(-10, 10),
        st.booleans(),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=15,
)


def folded(executions):
    """Cash spent and shares held, of the newest revision of each fill."""
    newest = {row["exec_id"].rpartition(".")[0]: row for row in executions}
    cash, held = Decimal(0), {}
    for row in newest.values():
        sign = 1 if row["side"] == "BOT" else -1
        shares = sign * Decimal(row["shares"])
        cash -= shares * Decimal(row["price"]) + Decimal(row["commission"])
        held[row["symbol"]] = held.get(row["symbol"], Decimal(0)) + shares
    return cash, held


@settings(max_examples=60, deadline=None)
@given(doings)
def test_whatever_goes_wrong_the_books_are_the_sum_of_the_fills(doings):
    venue, ear = open_venue(market(names=2))
    for fault, symbol, action, shares, cents, cancel, wait in doings:
        strike(venue, **fault)
        if ear.cut is not None and venue.attach(ear) is None:
            ear.cut = None
        number = venue.next_order_id(1)
        quote = venue.quote(venue.find(0, symbol))
        limit = None
        if cents is not None and quote.bid:
            limit = quote.bid + Decimal(cents) / 100
        place(venue, number, symbol, action=action, shares=shares, limit=limit)
        if cancel:
            venue.cancel(1, number)
        run_for(venue, wait)
    truth = venue.truth()
    books = truth["accounts"]["DU1234567"]
    cash, held = folded(truth["executions"])
    assert Decimal(books["cash"]) - Decimal(books["deposit"]) == cash
    shown = {name: Decimal(each["shares"]) for name, each in books["positions"].items()}
    assert shown == held
    assert all(Decimal(o["filled"]) <= Decimal(o["quantity"]) for o in truth["orders"])
    assert len({o["perm_id"] for o in truth["orders"]}) == len(truth["orders"])
    told = {e.exec_id for (e,) in ear.heard("execution")}
    assert told <= {row["exec_id"] for row in truth["executions"]}
