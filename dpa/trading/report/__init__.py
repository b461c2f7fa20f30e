"""What a session of trading came to: as text, as JSON, and as one page with pictures."""

from dpa.trading.report.facts import SessionFacts, read_facts
from dpa.trading.report.session import SessionReport
from dpa.trading.report.text import lines
from dpa.trading.report.write import write_report

__all__ = ["SessionFacts", "SessionReport", "lines", "read_facts", "write_report"]
