"""Paper money only, unless an account number is written out: who may be traded, and where.

Asked before each connection and again after it, so that a changed account or a live port is
refused before the first order.
"""

import ipaddress
import re
from collections.abc import Sequence

from dpa.config import IbkrConfig
from dpa.errors import HaltError

LIVE_PORTS = frozenset({7496, 4001})
_PAPER = "DU"
_ADVISER = re.compile("D?F[A-Z]?[0-9]+")


def check_address(settings: IbkrConfig) -> None:
    """Refuse a live port, and any host but this machine, unless real money is armed.

    Raises
    ------
    HaltError
        In words, with the setting to change.
    """
    if settings.arm_live is not None:
        return
    if settings.ibkr_port in LIVE_PORTS:
        raise HaltError(
            f"ibkr.ibkr_port: {settings.ibkr_port} is where TWS trades real money",
            "use 7497 (TWS) or 4002 (gateway) of a paper account",
        )
    if not _is_loopback(settings.ibkr_host):
        raise HaltError(
            f"ibkr.ibkr_host: {settings.ibkr_host!r} is not this machine",
            "run TWS or its gateway here, or forward its port to 127.0.0.1",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def choose_account(settings: IbkrConfig, managed: Sequence[str], before: str | None = None) -> str:
    """The account to trade, out of those a connection manages.

    Parameters
    ----------
    settings : IbkrConfig
        `account` and `arm_live` are used.
    managed : sequence of str
        All account numbers, as TWS told them.
    before : str, optional
        The account of an earlier connection, which must not change.

    Raises
    ------
    HaltError
        When none may be traded, or it is not clear which.
    """
    account = settings.account or settings.arm_live or _only(managed)
    if account not in managed:
        raise HaltError(
            f"ibkr.account: {account} is not among the accounts of this login: {_list(managed)}",
            "log in to the right account, or change ibkr.account",
        )
    if before is not None and account != before:
        raise HaltError(
            f"the account was {before} and is {account} after connecting again",
            "find out who logged in; then start trading anew",
        )
    if settings.arm_live is None:
        _check_paper(settings, account, managed)
    elif settings.arm_live != account:
        raise HaltError(
            f"ibkr.arm_live: {settings.arm_live!r} is not the account to trade, {account}",
            "write that account number in full to trade real money, or leave arm_live out",
        )
    return account


def is_ours(settings: IbkrConfig, account: str) -> bool:
    """Whether orders of an account can be dpa's: it is the one named, or a paper account."""
    named = settings.account or settings.arm_live
    return account == named if named is not None else account.startswith(_PAPER)


def _only(managed: Sequence[str]) -> str:
    traded = [account for account in managed if not _ADVISER.fullmatch(account)]
    if len(traded) == 1:
        return traded[0]
    raise HaltError(
        f"this login manages {_list(managed)}: it is not clear which account to trade",
        "name one in ibkr.account",
    )


def _check_paper(settings: IbkrConfig, account: str, managed: Sequence[str]) -> None:
    real = [a for a in managed if not a.startswith(_PAPER)]
    advisers = [a for a in real if _ADVISER.fullmatch(a)]
    if not real:
        return
    if real != advisers or not account.startswith(_PAPER):
        other = [a for a in real if a not in advisers] or real
        raise HaltError(
            f"{_list(other)}: no paper account (theirs begin with DU)",
            "log in to paper trading, or write the number in ibkr.arm_live to trade real money",
        )
    if settings.account is None:
        raise HaltError(
            f"{_list(advisers)}: an adviser's login",
            "name the paper account to trade in ibkr.account",
        )


def _list(accounts: Sequence[str]) -> str:
    return ", ".join(accounts) or "no account"
