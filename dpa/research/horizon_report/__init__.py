"""The report of a run of predictors: one HTML file that opens offline."""

from dpa.research.horizon_report.page import write_horizon_report
from dpa.research.horizon_report.words import verdict

__all__ = ["verdict", "write_horizon_report"]
