"""What a run leaves for people: a table, a grid of samples, a curve."""

from diffopd.png import save_png
from diffopd.report.cascade import report_cascade
from diffopd.report.compared import ComparedRow, Cost
from diffopd.report.comparison import write_comparison
from diffopd.report.curve import reward_curve
from diffopd.report.distillation import ReportFiles, report_distillation
from diffopd.report.grid import image_sheet, sample_grid
from diffopd.report.images import ImageCollector
from diffopd.report.results import results_table
from diffopd.report.table import FinalTable, Row, gain_kept

__all__ = [
    "ComparedRow",
    "Cost",
    "FinalTable",
    "ImageCollector",
    "ReportFiles",
    "Row",
    "gain_kept",
    "image_sheet",
    "report_cascade",
    "report_distillation",
    "results_table",
    "reward_curve",
    "sample_grid",
    "save_png",
    "write_comparison",
]
