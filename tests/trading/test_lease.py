"""There is one trader an account, and one that lost its place can write no more."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpa.clock import FixedClock
from dpa.errors import HaltError, TransientError
from dpa.trading.journal import Journal
from dpa.trading.lease import Lease
from tests.trading.bookkeeping import a_clock, an_intent, an_order

HOLD = """
import sys
from pathlib import Path
from dpa.clock import SystemClock
from dpa.trading.journal import Journal
from dpa.trading.lease import Lease

folder = Path(sys.argv[1])
lease = Lease(folder / "lease", SystemClock())
print(lease.take(Journal(folder / "journal.sqlite", SystemClock()), "other"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def clock() -> FixedClock:
    return a_clock()


@pytest.fixture
def journal(tmp_path: Path, clock: FixedClock) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite", clock) as made:
        yield made


def test_a_living_holder_keeps_its_place(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    first, second = (Lease(tmp_path / "lease", clock, 15) for _ in range(2))
    assert first.take(journal, "one") == 1
    for _ in range(10):
        clock.advance(7)
        first.renew()
        with pytest.raises(HaltError, match=f"one .process {os.getpid()} on .*; let one"):
            second.take(journal, "two")
    assert first.held
    assert not second.held
    assert second.token == 0
    journal.note("alive", {})


def test_a_silent_holder_is_followed_and_can_write_no_more(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    first, second = (Lease(tmp_path / "lease", clock, 15) for _ in range(2))
    first.take(journal, "one")
    clock.advance(16)
    with Journal(tmp_path / "journal.sqlite", clock) as other:
        assert second.take(other, "two") == 2
        assert not first.held
        with pytest.raises(HaltError, match="lease was lost"):
            first.renew()
        with pytest.raises(HaltError, match="another process wrote"):
            journal.commit_intents([an_intent()], [an_order()])
        assert other.intents() == ()
        first.release()
        assert second.held
        other.note("alive", {})
        assert other.verify() == ()


def test_a_dead_holder_is_followed_at_once_and_tokens_only_grow(
    tmp_path: Path, clock: FixedClock
) -> None:
    for number in (1, 2):
        held = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert held.stdout is not None
        assert held.stdin is not None
        assert int(held.stdout.readline()) == number
        assert Lease.is_locked(tmp_path / "lease")
        held.send_signal(signal.SIGKILL)
        held.wait(30)
        held.stdin.close()
        held.stdout.close()
    assert not Lease.is_locked(tmp_path / "lease")
    said = Lease.holder(tmp_path / "lease")
    assert said is not None
    assert (said.name, said.token) == ("other", 2)
    with Journal(tmp_path / "journal.sqlite", clock) as journal:
        lease = Lease(tmp_path / "lease", clock)
        assert lease.take(journal, "this") == 3
        lease.release()
        assert not lease.held
        assert lease.take(journal, "this") == 4
        lease.release()


def test_a_lock_file_without_a_name_is_not_taken_from_a_living_process(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    lease = Lease(tmp_path / "lease", clock)
    lease.take(journal, "one")
    (tmp_path / "lease").write_text("")
    clock.advance(1000)
    with pytest.raises(HaltError, match="no name yet"):
        Lease(tmp_path / "lease", clock).take(journal, "two")
    lease.release()


def test_a_holder_on_another_machine_keeps_a_shared_file_while_it_speaks(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    path = tmp_path / "lease"
    lease = Lease(path, clock, 15)
    lease.take(journal, "far")
    said = Lease.holder(path)
    assert said is not None
    far = path.read_text().replace(said.host, "elsewhere.example")
    lease.release()
    path.write_text(far)
    for _ in range(2):
        with pytest.raises(TransientError, match="elsewhere"):
            lease.take(journal, "near")
        clock.advance(5)
    renewed = said.renewed_at.isoformat()
    path.write_text(far.replace(renewed, clock.now().isoformat()))
    with pytest.raises(HaltError, match="elsewhere"):
        lease.take(journal, "near")
    clock.advance(16)
    assert lease.take(journal, "near") == 2
    lease.release()


def test_a_holder_on_another_machine_that_gave_it_up_is_followed_at_once(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    path = tmp_path / "lease"
    lease = Lease(path, clock, 15)
    lease.take(journal, "far")
    lease.release()
    said = Lease.holder(path)
    assert said is not None
    assert said.released
    path.write_text(path.read_text().replace(said.host, "elsewhere.example"))
    assert lease.take(journal, "near") == 2
    lease.release()


def test_nobody_ever_held_it(tmp_path: Path, clock: FixedClock) -> None:
    assert Lease.holder(tmp_path / "lease") is None
    assert not Lease.is_locked(tmp_path / "lease")
    assert not Lease(tmp_path / "lease", clock).held


def test_a_lease_is_renewed_on_the_disk_only_now_and_then(
    tmp_path: Path, clock: FixedClock, journal: Journal
) -> None:
    lease = Lease(tmp_path / "lease", clock, 15)
    lease.take(journal, "one")
    seen = set()
    for _ in range(30):
        clock.advance(1)
        lease.renew()
        said = Lease.holder(tmp_path / "lease")
        assert said is not None
        seen.add(said.renewed_at)
    assert len(seen) <= 7
    lease.release()
