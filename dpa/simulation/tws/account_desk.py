"""What one client is told of accounts: values, positions, profits."""

from dpa.simulation.tws import replies, requests
from dpa.simulation.tws.market_desk import PROCESSING, VALIDATING, Teller
from dpa.simulation.tws.replies import Message
from dpa.simulation.tws.wire import new_york
from dpa.simulation.tws.words import SimPosition, Venue

SUMMARIES = 2  # account summaries a client may have

Values = tuple[tuple[str, str, str], ...]


class AccountDesk:
    """Accounts as a client follows them.

    Parameters
    ----------
    teller : Teller
    venue : Venue
    """

    def __init__(self, teller: Teller, venue: Venue) -> None:
        self._teller = teller
        self._venue = venue
        self._positions = False
        self._portfolio = ""  # TWS follows one account at a time
        self._summaries: dict[int, tuple[str, ...]] = {}
        self._updates: dict[int, requests.OfAccount] = {}
        self._holdings: dict[int, requests.OfAccount] = {}
        self._profits: dict[int, requests.OfAccount] = {}

    def position(self, position: SimPosition) -> None:
        """A position changed; told to those who asked for positions."""
        if self._positions:
            self._teller.send(replies.position(position))
        for asked in self._holdings.values():
            if position.account in self._chosen(asked):
                self._hold(asked, position)

    def portfolio(self, position: SimPosition) -> None:
        """A position or its worth changed; told to those who follow its account."""
        if position.account == self._portfolio:
            self._teller.send(replies.portfolio(position))
        for asked in self._profits.values():
            if asked.con_id == position.contract.con_id and asked.account == position.account:
                self._teller.send(_profit_of_one(asked.id, position))

    def account_values(self, account: str) -> None:
        """Values of an account changed; told to those who follow them."""
        values = self._venue.account_values(account)
        if account == self._portfolio:
            self._tell(account, values)
        for asked in self._updates.values():
            if account in self._chosen(asked):
                self._update(asked, account, values)
        for number, tags in self._summaries.items():
            self._summary(number, account, tags, values)
        for asked in self._profits.values():
            if asked.account == account and not asked.con_id:
                self._profit(asked)

    def all_positions(self) -> None:
        """Tell all positions and follow them."""
        self._positions = True
        for position in self._venue.positions():
            self._teller.send(replies.position(position))
        self._teller.send((62, 1))

    def cancel_positions(self) -> None:
        """Follow positions no more."""
        self._positions = False

    def updates(self, request: requests.AccountUpdates) -> None:
        """Tell values and portfolio of an account and follow them, or stop following."""
        if not self._known(request.account):
            return
        account = request.account or self._venue.traits.accounts[0]
        if not request.subscribe:
            self._portfolio = "" if self._portfolio == account else self._portfolio
            return
        self._portfolio = account
        self._tell(account, self._venue.account_values(account))
        for position in self._venue.positions():
            if position.account == account:
                self._teller.send(replies.portfolio(position))
        self._teller.send((54, 1, account))

    def summary(self, request: requests.AccountSummary) -> None:
        """Tell some values of all accounts and follow them."""
        number = request.id
        if len(self._summaries) >= SUMMARIES and number not in self._summaries:
            words = "Maximum number of account summary requests exceeded"
            self._teller.error(number, 322, f"{PROCESSING}{words}")
            return
        self._summaries[number] = request.tags
        for account in self._venue.traits.accounts:
            values = self._venue.account_values(account)
            self._summary(number, account, request.tags, values)
        self._teller.send((64, 1, number))

    def of_account(self, request: requests.OfAccount) -> None:
        """Tell values, positions or profits of an account and follow them."""
        if not self._known(request.account, request.id):
            return
        if request.kind == "account updates":
            self._updates[request.id] = request
            for account in self._chosen(request):
                self._update(request, account, self._venue.account_values(account))
            self._teller.send((74, 1, request.id))
        elif request.kind == "positions":
            self._holdings[request.id] = request
            for position in self._venue.positions():
                if position.account in self._chosen(request):
                    self._hold(request, position)
            self._teller.send((72, 1, request.id))
        else:
            self._profits[request.id] = request
            self._profit(request)

    def cancel(self, kind: str, number: int) -> None:
        """Follow no more what a request asked for."""
        kinds: dict[str, dict[int, requests.OfAccount]] = {
            "cancel account updates multi": self._updates,
            "cancel positions multi": self._holdings,
            "cancel pnl": self._profits,
        }
        if kind == "cancel account summary":
            self._summaries.pop(number, None)
        else:
            kinds[kind].pop(number, None)

    def _known(self, account: str, number: int = -1) -> bool:
        known = account in ("", *self._venue.traits.accounts)
        if not known:
            self._teller.error(number, 321, f"{VALIDATING}Invalid account code")
        return known

    def _chosen(self, request: requests.OfAccount) -> tuple[str, ...]:
        return (request.account,) if request.account else self._venue.traits.accounts

    def _tell(self, account: str, values: Values) -> None:
        for tag, value, currency in values:
            self._teller.send((6, 2, tag, value, currency, account))
        self._teller.send((8, 1, f"{new_york(self._venue.clock.now()):%H:%M}"))

    def _update(self, request: requests.OfAccount, account: str, values: Values) -> None:
        for tag, value, currency in values:
            told = (account, request.model, tag, value, currency)
            self._teller.send((73, 1, request.id, *told))

    def _summary(self, number: int, account: str, tags: tuple[str, ...], values: Values) -> None:
        for tag, value, currency in values:
            if tag in tags:
                self._teller.send((63, 1, number, account, tag, value, currency))

    def _hold(self, request: requests.OfAccount, position: SimPosition) -> None:
        self._teller.send(replies.position_multi(request.id, request.model, position))

    def _profit(self, request: requests.OfAccount) -> None:
        chosen = self._chosen(request)
        held = [each for each in self._venue.positions() if each.account in chosen]
        if request.con_id:
            for position in held:
                if position.contract.con_id == request.con_id:
                    self._teller.send(_profit_of_one(request.id, position))
            return
        unrealized = sum(replies.unrealized(position) for position in held)
        realized = sum(position.realized for position in held)
        self._teller.send((94, request.id, unrealized + realized, unrealized, realized))


def _profit_of_one(number: int, position: SimPosition) -> Message:
    unrealized = replies.unrealized(position)
    value = position.shares * position.market_price
    daily = unrealized + position.realized
    return (95, number, position.shares, daily, unrealized, position.realized, value)
