"""What a run comes to: report.json, one self-contained report.html, a table in a terminal.

Importing this package imports neither torch nor matplotlib; plots load it when drawn.
"""

from __future__ import annotations

from splitfed.report.console import console_table, plain_lines
from splitfed.report.schema import Report, combine, validate
from splitfed.report.sentences import verdict_sentence
from splitfed.report.writing import read_report, write_combined, write_report

__all__ = [
    "Report",
    "combine",
    "console_table",
    "plain_lines",
    "read_report",
    "validate",
    "verdict_sentence",
    "write_combined",
    "write_report",
]
