"""The dashboards: research, serving, trading; which panels they have, and why."""

from typing import Final

from dpa.telemetry.boards.research import RESEARCH
from dpa.telemetry.boards.serving import SERVING
from dpa.telemetry.boards.trading import TRADING

BOARDS: Final = (RESEARCH, SERVING, TRADING)
