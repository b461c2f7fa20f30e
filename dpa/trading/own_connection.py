"""A connection of its own to the broker that a trader trades at, for a kill without that trader."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from dpa.clock import Clock
from dpa.config import Settings
from dpa.errors import ConfigError, DpaError
from dpa.market.costs import CostModel
from dpa.trading.broker import Broker, OrderSaid
from dpa.trading.paper import PaperBroker
from dpa.trading.places import Places

KILL_CLIENTS = 500  # client id of a kill: the trader's and so many more


async def own_connection(settings: Settings, places: Places, clock: Clock) -> Broker:
    """A connected broker that only cancels; the caller closes it.

    Parameters
    ----------
    settings : Settings
        Those the trader was started with.
    places : Places
    clock : Clock

    Raises
    ------
    DpaError
        There is no broker, or it cannot be reached.
    """
    broker = _broker(settings, places, clock)
    try:
        await broker.connect()
    except DpaError:
        await broker.close()
        raise
    connected: Broker = broker
    return connected


def _broker(settings: Settings, places: Places, clock: Clock) -> Any:
    if settings.trading.broker == "paper":
        if not places.paper.exists():
            raise ConfigError(f"{places.paper}: there is no paper account", "give its --storage")
        cash = Decimal(str(settings.trading.paper_cash_usd))
        return PaperBroker(places.paper, clock, CostModel(settings.costs), {}, cash)
    from dpa.trading.ibkr.broker import IbkrBroker
    from dpa.trading.ibkr.client import TwsClient

    ibkr = settings.ibkr
    pace = settings.trading.messages_per_second
    client = TwsClient(ibkr, clock, pace, client_id=ibkr.client_id + KILL_CLIENTS)
    return IbkrBroker(ibkr, clock, client, only_cancels=True)


def may_be_ours(settings: Settings) -> Callable[[OrderSaid], bool]:
    """Whether an order at the broker can be dpa's, judged by its account."""
    if settings.trading.broker == "paper":
        return lambda word: True
    from dpa.trading.ibkr.safety import is_ours

    return lambda word: is_ours(settings.ibkr, word.account)
