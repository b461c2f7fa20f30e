"""What goes over a connection to TWS is counted, over all connections there were."""

from tests.trading.ibkr.rig import BOUND, rig, run


def test_messages_answers_and_codes_are_counted_also_after_the_connection_was_lost() -> None:
    async def scenario() -> None:
        async with rig() as r:
            traffic, seconds, heard = r.broker.client.traffic, list[float](), list[int]()
            traffic.round_trip, traffic.code = seconds.append, heard.append
            assert await r.broker.alive(BOUND)
            first = r.broker.client.traffic
            sent, received = first.sent, first.received
            assert sent > 0
            assert received > 0
            assert len(seconds) == 1
            assert 0 < seconds[0] < BOUND
            r.broker.client.close()
            assert r.broker.client.traffic.sent == sent
            await r.broker.client.open()
            assert await r.broker.client.round_trip(BOUND)
            again = r.broker.client.traffic
            assert again.sent > sent
            assert again.received > received
            assert len(seconds) == 2
            assert {2104, 2106} & set(heard)

    run(scenario)
