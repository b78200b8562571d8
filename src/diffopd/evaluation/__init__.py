"""Images of benchmark prompts, scored: the same prompts, seeds and sampler for every model compared."""

from diffopd.evaluation.benchmark import Benchmark, BenchmarkTask, file_benchmark
from diffopd.evaluation.conditions import (
    Conditions,
    all_disagreements,
    conditions_of,
    disagreements,
    held_out_conditions_of,
)
from diffopd.evaluation.generate import generate, generate_batches
from diffopd.evaluation.processes import Processes
from diffopd.evaluation.progress import ImageProgress
from diffopd.evaluation.records import FolderRecords, MemoryRecords, Records
from diffopd.evaluation.result import EvaluationResult, TaskResult
from diffopd.evaluation.scoring import evaluate, measure, result_of
from diffopd.evaluation.trust import UntrustedError, check_benchmark, check_scorer, read_pair, scorers_of

__all__ = [
    "Benchmark",
    "BenchmarkTask",
    "Conditions",
    "EvaluationResult",
    "FolderRecords",
    "ImageProgress",
    "MemoryRecords",
    "Processes",
    "Records",
    "TaskResult",
    "UntrustedError",
    "all_disagreements",
    "check_benchmark",
    "check_scorer",
    "conditions_of",
    "disagreements",
    "evaluate",
    "file_benchmark",
    "generate",
    "generate_batches",
    "held_out_conditions_of",
    "measure",
    "read_pair",
    "result_of",
    "scorers_of",
]
