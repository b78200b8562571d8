"""What a run leaves for people: a table, a grid of samples, a curve."""

from diffopd.report.curve import reward_curve
from diffopd.report.distillation import ReportFiles, report_distillation
from diffopd.report.grid import image_sheet, sample_grid
from diffopd.report.images import ImageCollector, save_png
from diffopd.report.results import results_table
from diffopd.report.table import FinalTable, Row, gain_kept

__all__ = [
    "FinalTable",
    "ImageCollector",
    "ReportFiles",
    "Row",
    "gain_kept",
    "image_sheet",
    "report_distillation",
    "results_table",
    "reward_curve",
    "sample_grid",
    "save_png",
]
