"""Nan and infinite numbers in a training: where they came up, what is kept of them, doing it again."""

from diffopd.non_finite.error import NonFiniteError, Suspect
from diffopd.non_finite.record import RoundRecord, check_gradient
from diffopd.non_finite.report import FOLDER, Report, find_report, write_report

__all__ = [
    "FOLDER",
    "NonFiniteError",
    "Report",
    "RoundRecord",
    "Suspect",
    "check_gradient",
    "find_report",
    "write_report",
]
