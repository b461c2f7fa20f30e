"""Alerts through a real HTTP server and a real mail server on this machine."""

import asyncio
import contextlib
import io
import json
import logging
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.clock import FixedClock
from dpa.config import AlertsConfig
from dpa.errors import ConfigError, TransientError
from dpa.trading.alerts import (
    ATTEMPTS,
    MOST_OF_KIND,
    Alerts,
    Console,
    Log,
    Mail,
    Message,
    Webhook,
    channels_of,
)
from dpa.trading.events import Alert, Severity

NOW = datetime(2024, 7, 1, 13, 35, tzinfo=UTC)
SECRET = "s3cret-password"


def make_alert(severity=Severity.WARNING, kind="graph-away", what="no answer", **facts) -> Alert:
    return Alert(NOW, severity, kind, what, facts)


class Kept:
    """A channel that keeps what it is sent, and fails as told."""

    def __init__(self, failures=(), name="kept"):
        self.name, self.failures, self.messages, self.tries = name, list(failures), [], 0

    async def send(self, message):
        self.tries += 1
        if self.failures:
            error = self.failures.pop(0)
            if error is not None:
                raise error
        self.messages.append(message)


def make_alerts(*channels, **config):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    clock = FixedClock(NOW)
    alerts = Alerts(channels, AlertsConfig(**config), clock, sleep, lambda low, high: high)
    return alerts, clock, slept


def send(alerts, *made):
    async def go():
        for alert in made:
            alerts.take(alert)
        await alerts.drain()

    asyncio.run(go())


# routing, limits, retries


@pytest.mark.parametrize(("level", "passed"), [("info", 3), ("warning", 2), ("critical", 1)])
def test_only_what_is_severe_enough_is_sent(level, passed):
    kept = Kept()
    alerts, _, _ = make_alerts(kept, alert_level=level)
    send(alerts, *(make_alert(severity) for severity in Severity))
    assert len(kept.messages) == passed


@given(st.lists(st.tuples(st.sampled_from(Severity), st.sampled_from("ab"),
                          st.integers(0, 30)), max_size=60),
       st.integers(1, 4))  # fmt: skip
def test_the_limit_never_swallows_a_critical_one(made, most):
    kept = Kept()
    alerts, clock, _ = make_alerts(kept, alert_level="info", alerts_per_minute=most)
    times, passed = {"a": [], "b": []}, 0
    for severity, kind, seconds in made:
        clock.advance(seconds)
        send(alerts, make_alert(severity, kind))
        recent = [t for t in times[kind] if clock.elapsed() - t < 60]
        if severity is not Severity.CRITICAL and len(recent) < most:
            times[kind].append(clock.elapsed())
            passed += 1
    critical = sum(severity is Severity.CRITICAL for severity, _, _ in made)
    got = [m.alert.severity is Severity.CRITICAL for m in kept.messages]
    assert got.count(True) == critical
    assert got.count(False) == passed
    told = sum(m.left_out for m in kept.messages)
    assert told <= len(made) - len(kept.messages)


def test_a_storm_of_one_critical_alert_is_one_with_a_count_and_delays_no_other():
    kept = Kept([TransientError("no")])
    alerts, _, slept = make_alerts(kept)
    storm = [make_alert(Severity.CRITICAL, "step-failed", "disk", n=n) for n in range(3600)]
    send(alerts, *storm, make_alert(Severity.CRITICAL, "halted", "positions differ"))
    assert [m.alert.what for m in kept.messages] == ["disk", "positions differ"]
    assert kept.messages[0].alert == storm[-1]
    assert "and 3599 more like it" in kept.messages[0].line
    assert slept == [1.0]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=200))
def test_every_critical_alert_is_sent_or_counted(made):
    kept = Kept()
    alerts, _, _ = make_alerts(kept)
    send(alerts, *(make_alert(Severity.CRITICAL, kind, str(n)) for kind, n in made))
    assert sum(1 + m.left_out for m in kept.messages) == len(made)
    for kind in "ab":
        words = [m.alert.what for m in kept.messages if m.alert.kind == kind]
        assert len(words) == len(set(words)) <= MOST_OF_KIND
        mine = [str(n) for k, n in made if k == kind]
        assert not mine or mine[-1] in words


def test_how_many_were_left_out_is_said_with_the_next():
    kept = Kept()
    alerts, clock, _ = make_alerts(kept, alerts_per_minute=2)
    send(alerts, *(make_alert() for _ in range(7)))
    clock.advance(61)
    send(alerts, make_alert())
    assert [m.left_out for m in kept.messages] == [0, 0, 5]
    assert "and 5 more like it" in kept.messages[-1].line


def test_an_alert_is_tried_again_with_growing_pauses():
    kept = Kept([TransientError("no")] * 2)
    alerts, _, slept = make_alerts(kept)
    send(alerts, make_alert())
    assert len(kept.messages) == 1
    assert slept == [1.0, 2.0]
    assert alerts.sent == {"kept": 1}


def test_what_never_gets_there_is_logged_and_the_next_one_is_sent(caplog):
    kept = Kept([TransientError("no")] * ATTEMPTS[Severity.CRITICAL])
    alerts, _, _ = make_alerts(kept)
    send(alerts, make_alert(Severity.CRITICAL, what="lost"), make_alert(what="next"))
    assert [m.alert.what for m in kept.messages] == ["next"]
    assert alerts.failed == {"kept": 1}
    assert "lost" in caplog.text


def test_a_channel_that_is_set_wrongly_is_not_tried_again(caplog):
    kept = Kept([ConfigError("bad address")])
    alerts, _, slept = make_alerts(kept)
    send(alerts, make_alert())
    assert (kept.tries, slept, alerts.failed) == (1, [], {"kept": 1})


def test_a_critical_one_does_not_wait_behind_others(caplog):
    async def go():
        gate = asyncio.Event()
        order = []

        class Slow:
            name = "slow"

            async def send(self, message):
                order.append(message.alert.what)
                await gate.wait()

        alerts, _, _ = make_alerts(Slow())
        for number in range(5):
            alerts.take(make_alert(what=str(number)))
        await asyncio.sleep(0)
        alerts.take(make_alert(Severity.CRITICAL, what="now"))
        gate.set()
        await alerts.drain()
        assert order == ["0", "now", "1", "2", "3", "4"]

    asyncio.run(go())


def test_a_broken_channel_leaves_the_others_alone(caplog):
    broken, kept = Kept([ValueError("boom")], "broken"), Kept()
    alerts, _, _ = make_alerts(broken, kept)
    send(alerts, make_alert())
    assert len(kept.messages) == 1
    assert alerts.failed == {"broken": 1}


def test_alerts_taken_before_a_loop_runs_are_sent_by_drain():
    kept = Kept()
    alerts, _, _ = make_alerts(kept)
    alerts.take(make_alert())
    assert kept.messages == []
    asyncio.run(alerts.drain())
    assert len(kept.messages) == 1


def test_a_test_tells_of_every_channel():
    alerts, _, _ = make_alerts(Kept(), Kept([TransientError("nobody there")], "other"))
    assert asyncio.run(alerts.test()) == {"kept": "ok", "other": "nobody there"}


# console and log


def test_the_console_gets_a_line_without_control_characters():
    stream = io.StringIO()
    asyncio.run(Console(stream).send(Message(make_alert(what="a\nb\x1b[2J"))))
    assert stream.getvalue() == "13:35:00 WARNING graph-away: a b [2J\n"


def test_the_log_gets_the_level_of_the_alert(caplog):
    with caplog.at_level(logging.INFO):
        for severity in Severity:
            asyncio.run(Log().send(Message(make_alert(severity))))
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING", "CRITICAL"]


# webhook


@contextlib.contextmanager
def http_server(answers=(200,)):
    """A server that answers with statuses in turn; gives its address and what it was sent."""
    found, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            found.append((self.path, self.headers["Content-Type"], self.rfile.read(length)))
            status = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/{SECRET}", found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_webhook_gets_the_alert_as_json():
    with http_server() as (url, found):
        alerts, _, _ = make_alerts(Webhook(url))
        send(alerts, make_alert(Severity.CRITICAL, bars=3))
    ((path, kind, body),) = found
    assert (path, kind) == (f"/hook/{SECRET}", "application/json")
    assert json.loads(body) == {
        "source": "dpa",
        "text": "CRITICAL graph-away: no answer",
        "at": "2024-07-01T13:35:00+00:00",
        "severity": "critical",
        "kind": "graph-away",
        "what": "no answer",
        "facts": {"bars": "3"},
        "left_out": 0,
    }


def test_a_webhook_that_is_overloaded_is_tried_again():
    with http_server((503, 429, 204)) as (url, found):
        alerts, _, slept = make_alerts(Webhook(url))
        send(alerts, make_alert())
    assert len(found) == 3
    assert len(slept) == 2
    assert sum(alerts.sent.values()) == 1


@pytest.mark.parametrize("status", [400, 404, 302])
def test_a_webhook_that_refuses_is_not_and_its_address_is_not_shown(status, caplog):
    with http_server((status,)) as (url, found):
        alerts, _, _ = make_alerts(Webhook(url))
        send(alerts, make_alert())
    assert len(found) == 1
    assert alerts.failed == {"webhook 127.0.0.1": 1}
    assert SECRET not in caplog.text
    assert str(status) in caplog.text


def test_a_webhook_where_nobody_listens_fails_without_its_address(caplog):
    with http_server() as (url, _):
        pass
    alerts, _, _ = make_alerts(Webhook(url, timeout_seconds=5))
    send(alerts, make_alert())
    assert "ConnectionRefusedError" in caplog.text or "URLError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "hook", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="alert_webhook"):
        Webhook(url)


# mail


class MailServer:
    """A small SMTP server on a free port, with STARTTLS where it has a certificate."""

    def __init__(self, context=None, refuses=()):
        self.context, self.refuses = context, set(refuses)
        self.mails, self.commands, self.encrypted = [], [], False

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        def say(text):
            writer.write(text.encode() + b"\r\n")

        say("220 test")
        try:
            while line := await reader.readline():
                command = line.decode().strip()
                word = command.split(" ")[0].upper()
                self.commands.append(command)
                if word in self.refuses:
                    say("535 no" if word == "AUTH" else "451 later")
                elif word == "EHLO":
                    offers = ["AUTH PLAIN"] + (["STARTTLS"] if self.context else [])
                    lines = ["test", *offers]
                    for k, offer in enumerate(lines):
                        say(f"250{' ' if k == len(lines) - 1 else '-'}{offer}")
                elif word == "STARTTLS":
                    say("220 go")
                    await writer.drain()
                    await writer.start_tls(self.context)
                    self.encrypted = True
                elif word == "AUTH":
                    say("235 ok")
                elif word == "DATA":
                    say("354 go")
                    lines = []
                    while (part := await reader.readline()) != b".\r\n":
                        lines.append(part.decode())
                    self.mails.append("".join(lines))
                    say("250 ok")
                elif word == "QUIT":
                    say("221 bye")
                    break
                else:
                    say("250 ok")
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of localhost: contexts of the server, and of a client that trusts it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "cert.pem"))


def mail_config(port, **changes):
    given = {"alert_email": "ann@example.com", "smtp_host": "localhost", "smtp_port": port}
    return AlertsConfig(**{**given, **changes})


def deliver(server, make_config, alert=None, context=None, password=None, failing=False):
    async def go():
        async with server:
            mail = Mail(make_config(server.port), password, 5, context)
            alerts, _, _ = make_alerts(mail)
            alerts.take(alert or make_alert())
            await alerts.drain()
            assert bool(alerts.failed) == failing

    asyncio.run(go())


def test_a_mail_goes_out_encrypted_with_the_users_name(certificate, caplog):
    server_context, client_context = certificate
    server = MailServer(server_context)
    deliver(server, lambda port: mail_config(port, smtp_user="ann"),
            make_alert(Severity.CRITICAL, what="halted\nby the graph", level="HALTED"),
            client_context, SECRET)  # fmt: skip
    (mail,) = server.mails
    assert "Subject: [dpa] CRITICAL graph-away: halted by the graph" in mail
    assert "To: ann@example.com" in mail
    assert "level: HALTED" in mail
    assert server.encrypted
    words = [command.split(" ")[0].upper() for command in server.commands]
    assert words.index("STARTTLS") < words.index("AUTH")
    assert SECRET not in caplog.text
    assert SECRET not in mail


def test_without_encryption_nothing_is_said_to_it(caplog):
    server = MailServer()
    deliver(server, lambda port: mail_config(port, smtp_user="ann"), password=SECRET, failing=True)
    assert server.mails == []
    assert not any(c.upper().startswith(("AUTH", "MAIL")) for c in server.commands)
    assert "smtp_tls" in caplog.text


def test_a_server_nobody_vouches_for_is_not_trusted(certificate, caplog):
    server = MailServer(certificate[0])
    loop_errors = logging.getLogger("asyncio")
    loop_errors.setLevel(logging.CRITICAL)
    try:
        deliver(server, mail_config, failing=True)
    finally:
        loop_errors.setLevel(logging.NOTSET)
    assert server.mails == []
    assert "certificate verify failed" in caplog.text.lower()


def test_without_tls_where_that_was_allowed():
    server = MailServer()
    deliver(server, lambda port: mail_config(port, smtp_tls=False))
    assert len(server.mails) == 1
    assert not server.encrypted


def test_a_wrong_password_is_said_once_and_not_shown(caplog):
    server = MailServer(refuses=("AUTH",))
    deliver(server, lambda port: mail_config(port, smtp_tls=False, smtp_user="ann"),
            password=SECRET, failing=True)  # fmt: skip
    assert sum(c.upper().startswith("EHLO") for c in server.commands) == 1
    assert "DPA_SMTP_PASSWORD" in caplog.text
    assert SECRET not in caplog.text


def test_a_server_that_says_later_is_asked_again(caplog):
    server = MailServer(refuses=("MAIL",))
    deliver(server, lambda port: mail_config(port, smtp_tls=False), failing=True)
    tries = sum(c.upper().startswith("MAIL") for c in server.commands)
    assert tries == ATTEMPTS[Severity.WARNING]


# settings


def test_channels_are_those_of_the_settings():
    assert [c.name for c in channels_of(AlertsConfig(alert_console=False), {})] == ["log"]
    config = AlertsConfig(alert_webhook="https://x.example/y", alert_email="a@b.example",
                          smtp_user="ann")  # fmt: skip
    names = [c.name for c in channels_of(config, {"DPA_SMTP_PASSWORD": SECRET})]
    assert names == ["log", "console", "webhook x.example", "mail a@b.example"]
    with pytest.raises(ConfigError, match="DPA_SMTP_PASSWORD"):
        channels_of(config, {})
