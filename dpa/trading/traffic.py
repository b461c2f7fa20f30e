"""What goes over a connection to a broker, counted for whoever likes to read it."""

from collections.abc import Callable
from dataclasses import dataclass


def _nobody(_: float) -> None:
    return None


@dataclass
class Traffic:
    """Messages so far, over all connections there were.

    Parameters
    ----------
    sent, received : int
    round_trip : callable
        Told the seconds of each question of liveness that was answered.
    code : callable
        Told the code of each notice.
    """

    sent: int = 0
    received: int = 0
    round_trip: Callable[[float], None] = _nobody
    code: Callable[[int], None] = _nobody
    _of_this: tuple[int, int] = (0, 0)

    def see(self, sent: int, received: int) -> None:
        """So many messages went over the connection that is open."""
        sent_before, received_before = self._of_this
        self.sent += sent - sent_before
        self.received += received - received_before
        self._of_this = sent, received

    def end(self) -> None:
        """The connection is closed; the next one counts from 0."""
        self._of_this = 0, 0
