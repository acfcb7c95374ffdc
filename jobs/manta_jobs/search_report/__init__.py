"""What a search came to, as one self-contained page with its plots: `write_search_report`."""

from manta_jobs.search_report.report import write_search_report
from manta_jobs.search_report.savings import Savings, savings

__all__ = ["Savings", "savings", "write_search_report"]
