"""The report of a run: one offline page, made from the saved run alone."""

from pkedit.report.build import build_report

__all__ = ["build_report"]
