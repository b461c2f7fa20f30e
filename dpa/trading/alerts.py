"""Tells people: on the console, in the log, to a webhook, by mail.

A critical alert never waits behind others, and is left out only where one of its kind and words
waits already; the newest of it is sent, with how many there were. Of the rest, those of one kind
are limited for each target; how many were left out is said with the next one.
"""

import asyncio
import json
import logging
import os
import smtplib
import ssl
import sys
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from dpa.clock import Clock
from dpa.config import AlertsConfig
from dpa.errors import ConfigError, TransientError
from dpa.trading.events import Alert, Severity

PASSWORD = "DPA_SMTP_PASSWORD"
TIMEOUT_SECONDS = 10.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts; doubled each time
ATTEMPTS = {Severity.INFO: 3, Severity.WARNING: 4, Severity.CRITICAL: 12}
MOST_WAITING = 1000  # alerts for one target; critical ones are not counted
MOST_OF_KIND = 20  # critical ones of a kind, with different words, for one target
MINUTE = timedelta(minutes=1)
SMTPS_PORT = 465
log = logging.getLogger("dpa.trading.alerts")


@dataclass(frozen=True)
class Message:
    """An alert as it is sent.

    Parameters
    ----------
    alert : Alert
    left_out : int
        Alerts of its kind that were left out before it, the same or others.
    """

    alert: Alert
    left_out: int = 0

    @property
    def line(self) -> str:
        """In a line, control characters replaced."""
        alert = self.alert
        more = f" (and {self.left_out} more like it before)" if self.left_out else ""
        text = f"{alert.severity.name} {alert.kind}: {alert.what}{more}"
        return "".join(c if c.isprintable() else " " for c in text)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        alert = self.alert
        return {
            "source": "dpa",
            "text": self.line,
            "at": alert.at.isoformat(),
            "severity": alert.severity.name.lower(),
            "kind": alert.kind,
            "what": alert.what,
            "facts": {name: str(value) for name, value in alert.facts.items()},
            "left_out": self.left_out,
        }


class Channel(Protocol):
    """Somewhere alerts are sent."""

    @property
    def name(self) -> str:
        """For reports; holds no secret."""
        ...

    async def send(self, message: Message) -> None:
        """Hand a message over.

        Raises
        ------
        TransientError
            When it did not get there, and may the next time.
        ConfigError
            When it never will.
        """
        ...


class Console:
    """Lines on standard error, or another stream."""

    name = "console"

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    async def send(self, message: Message) -> None:
        """Write a line."""
        stream = self._stream or sys.stderr
        try:
            print(f"{message.alert.at:%H:%M:%S} {message.line}", file=stream, flush=True)
        except (OSError, ValueError) as e:
            raise ConfigError(f"the console is closed ({e})") from e


class Log:
    """Lines in the log, at the level of the alert."""

    name = "log"
    _levels: Mapping[Severity, int] = {
        Severity.INFO: logging.INFO,
        Severity.WARNING: logging.WARNING,
        Severity.CRITICAL: logging.CRITICAL,
    }

    async def send(self, message: Message) -> None:
        """Write a line."""
        log.log(self._levels[message.alert.severity], "%s", message.line)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook:
    """A JSON document by POST.

    Parameters
    ----------
    url : str
        http or https. Who knows it may write there, so only its host is ever shown.
    timeout_seconds : float

    Raises
    ------
    ConfigError
        When the address is none.
    """

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("alerts.alert_webhook is no http address", "write https://...")
        self._url, self._timeout = url, timeout_seconds
        self._host = parts.hostname
        self._opener = urllib.request.build_opener(_NoRedirects())

    @property
    def name(self) -> str:
        """``webhook`` and the host."""
        return f"webhook {self._host}"

    async def send(self, message: Message) -> None:
        """See :class:`Channel`."""
        await asyncio.to_thread(self._send, message)

    def _send(self, message: Message) -> None:
        body = json.dumps(message.to_dict()).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "dpa"}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as e:
            e.close()
            again = e.code in (408, 425, 429) or e.code >= 500
            kind = TransientError if again else ConfigError
            raise kind(f"{self.name} answers {e.code}", "check alerts.alert_webhook") from None
        except (OSError, ValueError) as e:  # its text may hold the address
            raise TransientError(f"{self.name}: {type(e).__name__}") from None


class Mail:
    """A mail through a server.

    Parameters
    ----------
    config : AlertsConfig
        ``alert_email`` and ``smtp_*`` of it.
    password : str, optional
        Of the user; never shown.
    timeout_seconds : float
    context : SSLContext, optional
        Whom to trust; the system's authorities by default.

    Raises
    ------
    ConfigError
        When there is no address, or a user without a password.
    """

    def __init__(
        self,
        config: AlertsConfig,
        password: str | None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if not config.alert_email:
            raise ConfigError("alerts.alert_email is not set")
        if config.smtp_user and not password:
            raise ConfigError(
                f"alerts.smtp_user is {config.smtp_user!r}, and no password is known",
                f"set {PASSWORD} in the environment",
            )
        self._to: str = config.alert_email
        self._config, self._password = config, password
        self._timeout, self._context = timeout_seconds, context

    @property
    def name(self) -> str:
        """``mail`` and the address."""
        return f"mail {self._to}"

    async def send(self, message: Message) -> None:
        """See :class:`Channel`."""
        await asyncio.to_thread(self._send, message)

    def _send(self, message: Message) -> None:
        where = f"{self._config.smtp_host}:{self._config.smtp_port}"
        try:
            with self._connect() as server:
                server.send_message(self._mail(message))
        except smtplib.SMTPAuthenticationError:
            cure = f"check alerts.smtp_user and {PASSWORD}"
            raise ConfigError(f"{where} refuses user and password", cure) from None
        except smtplib.SMTPNotSupportedError as e:
            cure = "use another port, or set alerts.smtp_tls to false"
            raise ConfigError(f"{where} cannot do what is needed: {e}", cure) from None
        except (OSError, smtplib.SMTPException) as e:
            raise TransientError(f"mail through {where}: {type(e).__name__}: {e}") from None

    def _connect(self) -> smtplib.SMTP:
        config, context = self._config, self._context or ssl.create_default_context()
        host, port = config.smtp_host, config.smtp_port
        server: smtplib.SMTP
        if config.smtp_tls and port == SMTPS_PORT:
            server = smtplib.SMTP_SSL(host, port, timeout=self._timeout, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=self._timeout)
        try:
            if config.smtp_tls and port != SMTPS_PORT:
                server.starttls(context=context)
            if config.smtp_user and self._password:
                server.login(config.smtp_user, self._password)
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        alert, mail = message.alert, EmailMessage()
        mail["Subject"] = f"[dpa] {message.line}"[:200]
        mail["From"], mail["To"] = self._config.smtp_from, self._to
        lines = [message.line, "", f"at {alert.at.isoformat()}"]
        lines += [f"{name}: {value}" for name, value in alert.facts.items()]
        mail.set_content("\n".join(lines))
        return mail


@dataclass(eq=False)
class _Outbox:
    """What waits for one channel."""

    channel: Channel
    critical: dict[tuple[str, str], Message] = field(default_factory=dict)  # by kind and words
    others: deque[Message] = field(default_factory=deque)
    sent_at: dict[str, deque[datetime]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    task: "asyncio.Task[None] | None" = None

    @property
    def waits(self) -> bool:
        return bool(self.critical or self.others)

    def next(self) -> Message:
        if self.critical:
            return self.critical.pop(next(iter(self.critical)))
        return self.others.popleft()

    def keep_critical(self, alert: Alert) -> None:
        """Let it wait; in the place of the same one, or, of too many, of the newest of its kind."""
        left_out = self.left_out.pop(alert.kind, 0)
        key = alert.kind, alert.what
        of_kind = [waiting for waiting in self.critical if waiting[0] == alert.kind]
        if key not in self.critical and len(of_kind) >= MOST_OF_KIND:
            left_out += 1 + self.critical.pop(of_kind[-1]).left_out
        elif key in self.critical:
            left_out += 1 + self.critical[key].left_out
        self.critical[key] = Message(alert, left_out)


class Alerts:
    """Sends alerts to all channels, each at its own pace.

    Subscribe :meth:`take` to the bus for :class:`~dpa.trading.events.Alert`.

    Parameters
    ----------
    channels : sequence of Channel
    config : AlertsConfig
        ``alert_level`` and ``alerts_per_minute`` of it.
    clock : Clock
    sleep : callable
        Waits so many seconds.
    uniform : callable
        A random number between two.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        config: AlertsConfig,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._least = Severity[config.alert_level.upper()]
        self._most, self._clock = config.alerts_per_minute, clock
        self._sleep, self._uniform = sleep, uniform
        self._outboxes = tuple(_Outbox(channel) for channel in channels)
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def take(self, alert: Alert) -> None:
        """Send an alert on to every channel; never waits and never raises."""
        if alert.severity < self._least:
            return
        for outbox in self._outboxes:
            if alert.severity is Severity.CRITICAL:
                outbox.keep_critical(alert)
            elif self._passes(outbox, alert):
                outbox.others.append(Message(alert, outbox.left_out.pop(alert.kind, 0)))
            else:
                outbox.left_out[alert.kind] += 1
            self._work(outbox)

    def _passes(self, outbox: _Outbox, alert: Alert) -> bool:
        if len(outbox.others) >= MOST_WAITING:
            return False
        now = self._clock.now()
        times = outbox.sent_at.setdefault(alert.kind, deque())
        while times and now - times[0] >= MINUTE:
            times.popleft()
        if len(times) >= self._most:
            return False
        times.append(now)
        return True

    def _work(self, outbox: _Outbox) -> None:
        if outbox.task is not None and not outbox.task.done():
            return
        try:
            outbox.task = asyncio.get_running_loop().create_task(self._empty(outbox))
        except RuntimeError:  # no loop runs yet: drain() sends them
            return

    async def _empty(self, outbox: _Outbox) -> None:
        while outbox.waits:
            message = outbox.next()
            await self._deliver(outbox, message)

    async def _deliver(self, outbox: _Outbox, message: Message) -> None:
        name, severity = outbox.channel.name, message.alert.severity
        wait, most = FIRST_WAIT, ATTEMPTS[severity]
        for attempt in range(1, most + 1):
            try:
                await outbox.channel.send(message)
            except TransientError as e:
                why = str(e)
            except Exception as e:  # whatever a channel raises, the others go on
                self._gave_up(name, message, str(e) or type(e).__name__)
                return
            else:
                self.sent[name] += 1
                return
            if attempt == most or (outbox.critical and severity < Severity.CRITICAL):
                self._gave_up(name, message, why)
                return
            await self._sleep(self._uniform(0.5 * wait, wait))
            wait = min(2 * wait, LONGEST_WAIT)

    def _gave_up(self, name: str, message: Message, why: str) -> None:
        self.failed[name] += 1
        log.error("alert not sent to %s (%s): %s", name, why, message.line)

    async def drain(self) -> None:
        """Wait until all that was taken has been sent or given up."""
        for outbox in self._outboxes:
            while outbox.waits or (outbox.task is not None and not outbox.task.done()):
                self._work(outbox)
                if outbox.task is not None:
                    await outbox.task

    async def test(self) -> dict[str, str]:
        """Send a test to every channel, once; ``ok`` or what went wrong by channel."""
        alert = Alert(
            self._clock.now(), Severity.INFO, "test", "this is a test of dpa's alerts; all is well"
        )
        found = {}
        for outbox in self._outboxes:
            try:
                await outbox.channel.send(Message(alert))
                found[outbox.channel.name] = "ok"
            except Exception as e:  # whatever a channel raises is what the test is for
                found[outbox.channel.name] = str(e) or type(e).__name__
        return found


def channels_of(config: AlertsConfig, environment: Mapping[str, str] = os.environ) -> list[Channel]:
    """The channels of the settings; the log always.

    Parameters
    ----------
    config : AlertsConfig
    environment : mapping of str to str
        Holds the password of the mail server under ``DPA_SMTP_PASSWORD``.

    Raises
    ------
    ConfigError
        When one cannot be used as it is set.
    """
    found: list[Channel] = [Log()]
    if config.alert_console:
        found.append(Console())
    if config.alert_webhook:
        found.append(Webhook(config.alert_webhook))
    if config.alert_email:
        found.append(Mail(config, environment.get(PASSWORD)))
    return found
