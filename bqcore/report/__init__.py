"""The HTML report of a study: one file, no remote assets."""

from __future__ import annotations

from bqcore.report.page import report_html, write_report

__all__ = ["report_html", "write_report"]
