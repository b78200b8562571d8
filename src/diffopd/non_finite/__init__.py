"""Nan and infinite numbers in a training: where they came up, what is kept of them, doing it again."""

from diffopd.non_finite.error import NonFiniteError, Suspect
from diffopd.non_finite.record import RoundRecord
from diffopd.non_finite.report import FOLDER, Report, find_report, write_report

__all__ = ["FOLDER", "NonFiniteError", "Report", "RoundRecord", "Suspect", "find_report", "write_report"]
