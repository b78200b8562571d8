"""Every name that a run logs is on the page of metrics, and every name there is logged by some run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import metrics_page
import pytest
from omegaconf import OmegaConf

from diffopd.config.aliases import aliases
from diffopd.report.methods.measured import QUANTITIES
from support.slow import slow_but
from support.tiny_runs import run_rounds

ROOT = Path(__file__).parents[2]
OFTEN = ("phase.conflict_every_n_rounds=1", "phase.lr_schedule=cosine")
SIGNAL = ("callbacks=[default,gradient_signal]", "callbacks.gradient_signal.num_rounds=2", *OFTEN)
SCORED = ("phase.score_every_n_rounds=1", *SIGNAL)
FILTERED = ("data.prompt_filter.min_range=0.1",)
RUNS = {
    "distill": [
        (
            "mopd_ode",
            ("balance=remaining_gap", "balance.update_every_n_rounds=1", "regulariser=anchor", *SCORED),
        ),
        ("mopd_ppo", SCORED),
        ("sopd_aesthetic", ("regulariser=distribution",)),
    ],
    "sft": [("mopd_sft", ("phase.kl_weight=1", *SCORED)), ("dreambooth_pairs", ())],
    "preference": [("pso_pairs", ("+reward=picture_quality", *SCORED))],
    "dmd": [("mopd_dmd", SCORED)],
    "tdm": [("mopd_tdm", SCORED)],
    "nft": [
        ("multi_nft", SIGNAL),
        ("ram_aesthetic", FILTERED),
        ("rvm_aesthetic", ()),
        ("few_step_aesthetic", ()),
    ],
    "grpo": [("multi_guard", ("loss.kl_weight=0.04", *FILTERED, *SIGNAL))],
    "self_opd": [("self_opd", SIGNAL)],
    "online_dpo": [("multi_online_dpo", SIGNAL)],
    "gradient_variance": [
        (
            "gradient_variance",
            (
                "phase.noise_levels=[0.3,1.0]",
                "phase.steps=[1]",
                "phase.num_draws=4",
                "phase.group_sizes=[1,2]",
            ),
        )
    ],
    "pretrain": [
        ("mini_pretrain", ("phase.sign_share=1",)),
        (
            "mini_klein_pretrain",
            ("phase.copy_share=0.34", "phase.same_figure_share=0.33", "data.batch_size=3"),
        ),
    ],
    "autoencoder": [("mini_autoencoder", ())],
}
"""Phase -> experiments that log all that it can, with what makes them do so."""

ELSEWHERE = ("train/memory/peak_cuda_gib", "train/communication/", "train/skipped_updates")
"""What needs a GPU, several processes or a number that is not finite."""


def of_phase(phase):
    return [entry for entry in metrics_page.logged() if phase in entry.phases]


@pytest.mark.parametrize("phase", slow_but(metrics_page.ALL_PHASES, "dmd", rest=pytest.mark.slow))
def test_a_phase_logs_what_the_page_says(phase, world, tmp_path):
    names = set()
    for number, (experiment, overrides) in enumerate(RUNS[phase]):
        run = world.build(experiment, tmp_path / str(number), *overrides)
        if phase in ("gradient_variance", "pretrain", "autoencoder"):
            run.fit()
        else:
            run_rounds(run)
        names |= set(run.trainer.callback_metrics)
    entries = of_phase(phase)
    assert [name for name in sorted(names) if sum(entry.is_name_of(name) for entry in entries) != 1] == []
    unseen = [entry.name for entry in entries if not any(map(entry.is_name_of, names))]
    assert [name for name in unseen if not name.startswith(ELSEWHERE)] == []


def logged_in_source():
    """Every text in the source that begins with ``train/``, as a pattern."""
    for file in sorted((ROOT / "src" / "diffopd").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Constant, ast.JoinedStr)):
                parts = getattr(node, "values", [node])
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "\0" for p in parts)
                if re.fullmatch(r"train/[\w/\0]+", text):
                    yield file.name, text.replace("\0", "[^/]+")


def test_no_name_in_the_source_is_missing():
    found = list(logged_in_source())
    names = [entry.name for entry in metrics_page.logged()]
    assert len(found) > 40
    missing = [
        (file, pattern)
        for file, pattern in found
        if not any(re.match(pattern, name) for name in names)  # a name, or what names begin with
    ]
    assert missing == []


def test_entries_are_whole():
    for entry in metrics_page.logged():
        assert entry.better in metrics_page.BETTER
        assert set(entry.phases) <= set(metrics_page.ALL_PHASES)
        assert entry.text.endswith(".")
    pairs = [(entry.name, phase) for entry in metrics_page.logged() for phase in entry.phases]
    assert len(set(pairs)) == len(pairs)
    phases = {file.stem for file in (ROOT / "conf" / "phase").glob("*.yaml")}
    assert set(metrics_page.ALL_PHASES) == phases


def test_a_name_stands_for_one_part():
    entry = metrics_page.Logged("train/gap/<task>", "", "lower", (), "")
    assert entry.is_name_of("train/gap/ocr")
    assert not entry.is_name_of("train/gap/ocr/0")
    assert not entry.is_name_of("train/gap")


def test_scores_are_those_of_the_metrics():
    named = {entry["name"] for entry in metrics_page.read()["score"]}
    wanted = {"value", "num_images", "frechet_distance"}
    nodes = [OmegaConf.load(file) for file in (ROOT / "conf" / "metric").glob("*.yaml")]
    nodes += [node for alias, node in aliases().items() if alias.startswith("metric/")]
    wanted |= {part for node in nodes for part in node.get("parts") or ()}
    assert named == wanted


def test_claims_are_those_of_the_report():
    better = {entry["name"]: entry["better"] for entry in metrics_page.read()["claim"]}
    found = {name: "higher" if q.higher_is_better else "lower" for name, q in QUANTITIES.items()}
    assert better == found
    assert "`rounds_to_level`" in metrics_page.page()
