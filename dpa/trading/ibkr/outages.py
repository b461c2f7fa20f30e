"""When TWS is known to be away: nightly and weekly maintenance in North America."""

from datetime import datetime, time
from zoneinfo import ZoneInfo

_ZONE = ZoneInfo("America/New_York")
_FRIDAY, _SATURDAY = 4, 5
_NIGHTLY = (time(0, 15), time(1, 45))
_WEEKEND = (time(23, 0), time(3, 0))  # Friday to Saturday
_RESTART = (time(23, 45), time(23, 50))  # TWS and its gateway restart themselves


def expected_outage(moment: datetime) -> str:
    """Which maintenance `moment` falls into, in words; empty: none."""
    local = moment.astimezone(_ZONE)
    clock, day = local.time(), local.weekday()
    friday = day == _FRIDAY and clock >= _WEEKEND[0]
    saturday = day == _SATURDAY and clock < _WEEKEND[1]
    if friday or saturday:
        return "weekly maintenance, Friday 23:00 to Saturday 03:00 New York"
    if _NIGHTLY[0] <= clock < _NIGHTLY[1]:
        return "nightly maintenance, 00:15 to 01:45 New York"
    if _RESTART[0] <= clock < _RESTART[1]:
        return "daily restart, 23:45 New York"
    return ""
