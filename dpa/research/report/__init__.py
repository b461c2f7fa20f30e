"""The report of a run: one HTML file that opens offline."""

from dpa.research.report.page import write_report
from dpa.research.report.words import verdict

__all__ = ["verdict", "write_report"]
