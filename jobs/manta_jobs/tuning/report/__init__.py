"""The results of a search as one self-contained page with its plots: `write_search_report`."""

from manta_jobs.tuning.report.report import write_search_report
from manta_jobs.tuning.report.savings import Savings, savings

__all__ = ["Savings", "savings", "write_search_report"]
