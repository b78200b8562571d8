"""The result of a cascade of runs: one adapter with one card.json, and what each stage gained and forgot."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffopd.files.atomic import atomic_produce, replacing
from diffopd.report.run.figure import save_figure
from diffopd.report.run.known_scores import Measured, base_held_out, base_scores, comparable, unlike
from diffopd.report.run.page import PageTable, Plot, RunPage, print_end
from diffopd.report.run.table import FinalTable, Row
from diffopd.teacher import CARD, Recipe, TeacherCard


def report_cascade(folder: Path, stages: Mapping[str, Path], *, name: str, model_path: str) -> None:
    """Copy the last stage's adapter to ``adapter`` and ``lora``; scores by stage as table, figure, page.

    The card of the copy names all tasks, and adds up what all stages cost.

    Args:
        folder: The cascade's folder.
        stages: Name -> the stage's run, in order; without cards (``~report``) the adapter alone is copied.
        name: The cascade's name.
        model_path: The base model's folder, as in the config; its card gives the base's scores.
    """
    last = list(stages.values())[-1]
    for part in ("adapter", "lora"):
        shutil.copytree(last / part, folder / part, dirs_exist_ok=True, copy_function=_copy_whole)
    print(f"{'adapter:':<14} {folder / 'adapter'}", flush=True)
    if not all((run / "adapter" / CARD).is_file() for run in stages.values()):
        return
    cards = {stage: TeacherCard.load(run / "adapter") for stage, run in stages.items()}
    card = dataclasses.replace(
        final_card := list(cards.values())[-1],
        name=name,
        task="+".join(dict.fromkeys(card.task for card in cards.values())),
        recipe=_total([card.recipe for card in cards.values()]),
    ).save(folder / "adapter")
    tables: list[PageTable] = []
    plots: list[Plot] = []
    for benchmark in final_card.scores:
        conditions = {task: score.conditions for task, score in final_card.scores[benchmark].items()}
        wanted = {name: value.conditions for name, value in final_card.held_out.get(benchmark, {}).items()}
        scale = final_card.guidance_scale
        of_base = Measured(
            base_scores(model_path, benchmark, scale), base_held_out(model_path, benchmark, scale)
        )
        known = {"base": (scale, of_base)} | {
            f"after {stage}": (
                card.guidance_scale,
                Measured(card.scores.get(benchmark, {}), card.held_out.get(benchmark, {})),
            )
            for stage, card in cards.items()
        }
        rows: list[Row] = []
        for label, (at, measured) in known.items():
            if measured.scores and (why := unlike(measured.scores, conditions, base=model_path)):
                print(f"{label}: not shown, because it was scored with other settings: {'; '.join(why)}")
            elif measured.scores:
                held_out = comparable(measured.held_out, wanted, whose=label, tell=print)
                rows.append(Row(label, at, measured.scores, held_out))
        final = FinalTable(f"{benchmark}: reward by task, stage after stage", rows, {})
        table = final.to_markdown()
        with replacing(folder / f"{benchmark}.md") as temporary:
            temporary.write_text(table, encoding="utf-8")
        print(table)
        figure = stage_figure(rows, folder / f"{benchmark}.png", benchmark)
        print(f"{'figure:':<14} {figure}")
        tables.extend(PageTable.of(final, own=list(known)[-1], heading=f"Scores on {benchmark}"))
        plots.append(Plot.of_png(figure, f"Scores on {benchmark} stage after stage"))
    print(f"{'card:':<14} {card}", flush=True)
    recipe = TeacherCard.load(folder / "adapter").recipe
    minutes = {"training of all stages": recipe.minutes}
    page = RunPage(
        title=f"{name}, seed {recipe.seed}",
        lead=[f"One model, trained in stages, each with a page of its own: {', '.join(stages)}."],
        tables=tables,
        plots=plots,
        plots_heading="Stage after stage",
        plots_note="Bars: 95 % CI over prompts.",
        pictures=[],
        minutes=minutes,
        command=recipe.command,
        commit=recipe.commit,
        seed=recipe.seed,
    ).write(folder / "report")
    print_end(page, minutes)


def stage_figure(rows: Sequence[Row], path: Path, benchmark: str) -> Path:
    """Each task's score after each stage, with 95 % intervals.

    Args:
        rows: The base, if it is known, and then the stages.
        path: The PNG to write.
        benchmark: What the scores are of.

    Returns:
        ``path``.
    """
    figure = Figure(figsize=(1.6 + 1.5 * len(rows), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for task in dict.fromkeys(task for row in rows for task in row.scores):
        found = [(place, row.scores[task]) for place, row in enumerate(rows) if task in row.scores]
        axis.errorbar(
            [place for place, _ in found],
            [score.mean for _, score in found],
            yerr=[[_reach(s.mean, s.low) for _, s in found], [_reach(s.mean, s.high) for _, s in found]],
            marker="o",
            capsize=3,
            label=task,
        )
    axis.set_xticks(range(len(rows)), [row.name for row in rows])
    axis.set_xlim(-0.3, len(rows) - 0.7)
    axis.set_ylabel(f"reward, {benchmark}")
    axis.set_ylim(0, 1)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return save_figure(figure, path)


def _reach(mean: float, end: float | None) -> float:
    """Length of an error bar; none is drawn where the interval is not known."""
    return 0.0 if end is None else abs(end - mean)


def _copy_whole(source: str, target: str) -> None:
    atomic_produce(target, lambda temporary: shutil.copyfile(source, temporary))


def _total(recipes: Sequence[Recipe]) -> Recipe:
    return Recipe(
        command=" && ".join(recipe.command for recipe in recipes),
        seed=recipes[0].seed,
        minutes=round(sum(recipe.minutes for recipe in recipes), 1),
        images=sum(recipe.images for recipe in recipes),
        reward_calls=sum(recipe.reward_calls for recipe in recipes),
        commit=recipes[-1].commit,
    )
