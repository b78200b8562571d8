"""Rows of a comparison: which commands make each, and what they left."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from omegaconf import DictConfig

from diffopd.check import check_composed
from diffopd.config.arguments import quoted
from diffopd.files.fingerprint import sha256_of
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json
from diffopd.jobs.launch import Job, training_command
from diffopd.run.finished import FINISHED, read_finished

if TYPE_CHECKING:  # these bring diffusers and Lightning, which the check of all rows does without
    from diffopd.report.comparison.compared import ComparedRow, TrainingCost
    from diffopd.report.methods.runs import Run

log = logging.getLogger(__name__)

COMMANDS = ("train", "cascade")
MADE_OF = "made_of.json"
"""Beside an evaluation: what was scored, and how."""
RESULTS = "results.json"
_NOTED = ("adapter", "benchmark", "guidance_scale", "shared")


@dataclass(frozen=True, kw_only=True)
class RowRun:
    """One row with one seed.

    Attributes:
        row: Name of the row.
        seed: Its seed.
        command: ``train``, ``cascade``, or None for the base model.
        arguments: Of the command.
        teachers: task -> row whose adapter is that task's teacher.
        teacher_seeds: task -> seed of that: its own where that row has it, else its first.
        guidance: Scales it is scored at.
        note: What the row is, in a few words.
        folder: Its folder.
        evaluation: Overrides of its evaluations alone.
        adapters: Setting -> row whose adapter is its value.
    """

    row: str
    seed: int
    command: str | None
    arguments: Sequence[str]
    teachers: Mapping[str, str]
    guidance: Sequence[float]
    note: str
    folder: Path
    teacher_seeds: Mapping[str, int] = field(default_factory=dict)
    evaluation: Sequence[str] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, str]:
        """Setting -> name of the run whose adapter is its value, of the same seed."""
        return {setting: f"{row}/seed{self.seed}" for setting, row in self.adapters.items()}

    @property
    def taught_by(self) -> dict[str, str]:
        """Task -> name of the run that makes its teacher."""
        return {task: f"{row}/seed{self.teacher_seeds.get(task, 0)}" for task, row in self.teachers.items()}

    @property
    def name(self) -> str:
        """Row and seed."""
        return f"{self.row}/seed{self.seed}"

    @property
    def adapter(self) -> Path | None:
        """Where its adapter is, once it is trained."""
        return None if self.command is None else self.folder / "adapter"

    def scores_at(self, benchmark: str, scale: float) -> Path:
        """Folder of an evaluation."""
        return self.folder / "scores" / f"{benchmark}_guidance_{scale:g}"


def read_rows(cfg: DictConfig, folder: Path) -> list[RowRun]:
    """The rows of a composed ``conf/table.yaml``, each with its seeds.

    Raises:
        ValueError: If there is nothing to compare, or a row names a command or a teacher that is not there.
    """
    if not cfg.rows:
        raise ValueError("rows is empty, so there is no table; name some of conf/rows")
    runs: list[RowRun] = []
    seeds = {name: _seeds(cfg, row) for name, row in cfg.rows.items()}
    for name, row in cfg.rows.items():
        if row.command is not None and row.command not in COMMANDS:
            raise ValueError(
                f"rows.{name}.command={row.command} must be {' or '.join(COMMANDS)}, "
                "or null for the base model"
            )
        if unknown := [teacher for teacher in row.teachers.values() if teacher not in cfg.rows]:
            raise ValueError(f"rows.{name}.teachers names {', '.join(unknown)}, which is not among the rows")
        for setting, other in (row.get("adapters") or {}).items():
            if other not in cfg.rows or cfg.rows[other].command is None or {*seeds[name]} - {*seeds[other]}:
                raise ValueError(
                    f"rows.{name}.adapters.{setting}={other} must be a trained row that has its every seed"
                )
        for seed in seeds[name]:
            runs.append(
                RowRun(
                    row=str(name),
                    seed=seed,
                    command=row.command,
                    arguments=[*_shared(cfg, row.command), *row.arguments, f"seed={seed}"],
                    teachers=dict(row.teachers),
                    guidance=[float(scale) for scale in row.guidance],
                    note=row.note,
                    folder=folder / str(name) / f"seed{seed}",
                    teacher_seeds={
                        task: seed if seed in seeds[teacher] else seeds[teacher][0]
                        for task, teacher in row.teachers.items()
                    },
                    evaluation=list(row.get("evaluation") or []),
                    adapters=dict(row.get("adapters") or {}),
                )
            )
    return runs


def _seeds(cfg: DictConfig, row: DictConfig) -> range:
    if row.seeds is not None:  # the same on every machine
        return range(row.seeds)
    first = 0 if row.command is None else cfg.first_seed  # what is not trained is the same whatever the seed
    return range(first, first + cfg.seeds)


def _shared(cfg: DictConfig, command: str | None) -> list[str]:
    every = [f"trainer.num_threads={cfg.threads_each}", *cfg.shared, *cfg.overrides]
    if command == "train":
        return every
    return [f"overrides=[{','.join(quoted(override) for override in every)}]"] if command else []


def check_rows(rows: Sequence[RowRun]) -> None:
    """Check the config of each row before any is trained; a cascade checks its own stages.

    Raises:
        ConfigError: With the row's name.
    """
    first: dict[str, RowRun] = {}
    for run in rows:
        first.setdefault(run.row, run)
    for run in first.values():
        if run.command is None:
            continue
        if run.adapters:
            # It names what is not there yet, and is checked when its turn comes.
            compose(run.command, overrides=[*run.arguments, f"paths.run={quoted(str(run.folder))}"])
        else:
            check_composed(run.command, run.arguments, run.folder, setting=f"rows.{run.row}.arguments")


def jobs_of(rows: Sequence[RowRun], cfg: DictConfig) -> list[Job]:
    """For each row and seed a training, then for each whatever is not scored yet.

    What needs no training is scored first, so that an evaluation that cannot run is known before hours of
    run. Other scores wait only for their own run and come after all runs: no process then
    idles while the last of these, which are longer, continues.
    """
    trainings = [
        Job(
            name=run.name,
            needs=[*run.taught_by.values(), *run.given.values()],
            commands=lambda run=run: _training(run, rows),
            log=run.folder / "output.log",
        )
        for run in rows
        if run.command is not None
    ]
    scorings = [
        Job(
            name=f"{run.name}/scores",
            needs=[run.name] if run.command is not None else [],
            commands=lambda run=run: scoring(run, cfg.benchmarks, cfg.shared, cfg.threads_each),
            log=run.folder / "scores" / "output.log",
        )
        for run in rows
    ]
    at_once = [job for job in scorings if not job.needs]
    return [*at_once, *trainings, *(job for job in scorings if job.needs)]


def _training(run: RowRun, rows: Sequence[RowRun]) -> Iterator[Sequence[str]]:
    adapters = {other.name: other.adapter for other in rows}
    taught = [
        f"teacher.teachers.{task}.path={quoted(str(adapters[name]))}" for task, name in run.taught_by.items()
    ]
    taught += [f"{setting}={quoted(str(adapters[name]))}" for setting, name in run.given.items()]
    if run.command == "train":
        yield training_command(run.folder, [*run.arguments, *taught])
    else:
        yield ["diffopd.cascade", *run.arguments, f"hydra.run.dir={quoted(str(run.folder))}"]


def scoring(
    run: RowRun, benchmarks: Sequence[str], shared: Sequence[str], threads: int | str
) -> Iterator[Sequence[str]]:
    """Every evaluation of a run that is not there yet, as arguments of ``diffopd.worker``.

    Args:
        run: A trained model, or the base.
        benchmarks: Files of ``conf/benchmark``.
        shared: Overrides of every evaluation.
        threads: Torch threads of each, or ``auto``.
    """
    for benchmark in benchmarks:
        for scale in run.guidance:
            place = run.scores_at(benchmark, scale)
            overrides = [*shared, *run.evaluation]
            made_of = _made_of(run, benchmark, scale, overrides)
            note = place / MADE_OF
            scored = note.is_file()
            if scored and _is_intact(place / RESULTS) and _read_note(note) == made_of:
                continue
            yield [
                "diffopd.evaluate",
                f"benchmark={benchmark}",
                f"guidance_scale={scale:g}",
                f"adapter_path={quoted(str(run.adapter)) if run.adapter else 'null'}",
                "save_images=true",
                f"num_threads={threads}",
                *overrides,
                # never: the adapter is another one now
                f"resume={'never' if scored and _read_note(note) != made_of else 'auto'}",
                f"hydra.run.dir={quoted(str(place))}",
            ]
            write_sealed_json(note, made_of)


def _read_note(note: Path) -> dict[str, object] | None:
    """What was scored; None if the note is damaged, so that it is scored again."""
    try:
        return read_sealed_json(note, _NOTED)
    except DamagedFileError as error:
        log.warning("%s; it is scored again", error)
        return None


def _is_intact(results: Path) -> bool:
    """Whether an evaluation's results are there and are what was written."""
    from diffopd.evaluation import EvaluationResult

    try:
        EvaluationResult.load(results)
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        log.warning("%s; it is scored again", error)
        return False
    return True


def _made_of(run: RowRun, benchmark: str, scale: float, shared: Sequence[str]) -> dict[str, object]:
    from diffopd.adapter import find_place

    files = find_place(run.adapter, setting=f"rows.{run.row}").weights if run.adapter else []
    digests = [sha256_of(file) for file in files]
    weights = None if not digests else digests[0] if len(digests) == 1 else digests
    return {"adapter": weights, "benchmark": benchmark, "guidance_scale": scale, "shared": shared}


def collect(rows: Sequence[RowRun], benchmarks: Sequence[str]) -> list[ComparedRow]:
    """What every row and seed cost and scored."""
    from diffopd.evaluation import EvaluationResult
    from diffopd.report.comparison.compared import ComparedRow

    costs = {run.name: _cost(run) for run in rows}
    _check_alike(rows, benchmarks)

    def results(run: RowRun, scale: float) -> dict[str, EvaluationResult]:
        return {
            benchmark: EvaluationResult.load(run.scores_at(benchmark, scale) / RESULTS)
            for benchmark in benchmarks
        }

    return [
        ComparedRow(
            name=run.row,
            seed=run.seed,
            note=run.note,
            guidance_scale=scale,
            cost=costs[run.name],
            teachers=[costs[name] for name in run.taught_by.values()],
            scores={benchmark: result.estimates for benchmark, result in found.items()},
            held_out={benchmark: result.held_out_scores for benchmark, result in found.items()},
            images=run.scores_at(benchmarks[0], scale) / "images",
            trained=run.command is not None,
            taught_by=run.teachers,
        )
        for run in rows
        for scale in run.guidance
        for found in [results(run, scale)]
    ]


def runs_of(rows: Sequence[RowRun]) -> list[Run]:
    """One run for each row and seed, called by the row.

    In their settings a teacher is called by its row, whatever its seed, so that seeds of a student are one
    method.
    """
    return [_named_by_row(run) for run in rows]


def _named_by_row(run: RowRun) -> Run:
    from diffopd.report.methods.runs import read_run

    found = read_run(run.folder)
    settings = copy.deepcopy(dict(found.settings))
    known = settings.get("teacher", {}).get("teachers", {})
    for task, row in run.teachers.items():
        if task in known:
            known[task]["path"] = f"{row}/adapter"
    return dataclasses.replace(found, name=run.row, seed=run.seed, settings=settings)


def _check_alike(rows: Sequence[RowRun], benchmarks: Sequence[str]) -> None:
    """Refuse scores of other prompts, samplers or metrics beside each other, but where a row asks for them.

    Raises:
        ValueError: With the row to be scored again.
    """
    from diffopd.evaluation import EvaluationResult

    alike = {
        tuple(run.evaluation): [other for other in rows if other.evaluation == run.evaluation] for run in rows
    }
    for benchmark, same in itertools.product(benchmarks, alike.values()):
        places = [run.scores_at(benchmark, scale) for run in same for scale in run.guidance]
        results = [EvaluationResult.load(place / RESULTS) for place in places]
        for place, result in zip(places, results, strict=True):
            if lines := result.differences(results[0]):
                raise ValueError(
                    f"{place} and {places[0]} were scored with different settings: {'; '.join(lines)}. "
                    "Delete the older folder and run the same command again to score it again"
                )


def _notes(run: RowRun) -> list[Path]:
    """Where the notes of a row's finished training, or of all stages of its cascade, are."""
    if not run.command:
        return []
    return [run.folder / FINISHED] if run.command == "train" else sorted(run.folder.glob(f"*/{FINISHED}"))


def _cost(run: RowRun) -> TrainingCost:
    """Of a training, or of all stages of a cascade."""
    from diffopd.report.comparison.compared import TrainingCost

    finished = [(note.parent, read_finished(note.parent)) for note in _notes(run)]
    if lost := [folder for folder, note in finished if note is None]:
        raise ValueError(
            f"{lost[0]} is not finished, as its {FINISHED} is missing or damaged; run the same command again "
            "to finish it"
        )
    if silent := [folder for folder, note in finished if note is not None and not note.recipe]:
        raise ValueError(
            f"{silent[0]} has no metrics, so what it cost is not known; train it with logger=csv or a group "
            "of loggers that holds it"
        )
    recipes = [note.recipe for _, note in finished if note is not None]
    return TrainingCost(
        minutes=sum(recipe["minutes"] for recipe in recipes),
        images=sum(recipe["images"] for recipe in recipes),
        reward_calls=sum(recipe["reward_calls"] for recipe in recipes),
    )
