"""The probe before a run that teaches itself, and the leak test after it, on a tiny pipeline."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffopd.callbacks import ContextProbe, LeakTest
from diffopd.check import ConfigError
from diffopd.evaluation import generate
from diffopd.files.picture import read_picture
from diffopd.files.sample_row import list_rows, read_row
from diffopd.flow import velocity_to_clean
from diffopd.metric.leak import nearest_layout
from diffopd.randomness import derived_seed, normal_rows

ONE = ("trainer.max_epochs=1",)
OFF = ("~callbacks.context_probe", "~callbacks.leak_test")
LEAK = ("callbacks.leak_test.num_draws=1", "callbacks.leak_test.templates=${domain.unseen_prompts}")


@pytest.fixture
def build(world, tmp_path):
    def built(folder, *overrides):
        return world.build("dopsd", tmp_path / folder, *overrides)

    return built


def weights(run):
    return {name: value.clone() for name, value in run.phase.student.weights().items()}


def kept(run, name):
    return json.loads((run.folder / f"{name}.json").read_text())


def distance(a, b):
    return (a - b).square().flatten(1).mean(1)


def test_the_probe_compares_both_on_the_students_states_and_the_run_does_not_notice(
    build, caplog, tmp_path, monkeypatch
):
    (tmp_path / "pixels.py").write_text(
        "class Distance:\n    def __call__(self, a, b):\n        return (a - b).abs().flatten(1).mean(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = build("run", *ONE, "callbacks.context_probe.perceptual={_target_: pixels.Distance}")
    with caplog.at_level(logging.INFO):
        run.fit()
    found = kept(run, "context_probe")
    assert all(0 < value < 1 for seen in found["states"][0]["perceptual"].values() for value in seen)
    assert (found["num_pictures"], found["num_draws"], found["helps"]) == (2, 1, False)  # weights are random
    assert [state["step"] for state in found["states"]] == [0, 1, 2, 3]
    assert sum("context: state" in line for line in caplog.messages) == 4
    assert sum("the context does not help: the teacher" in line for line in caplog.messages) == 1

    again = build("again", *ONE, *OFF)
    phase, rows = again.phase, again.data.batch(0)  # whose pictures are the first that the probe sees
    clean = torch.stack([phase.model.encode_picture(target) for target in rows.targets])
    given, sigma = phase.conditioning(rows), phase.sampler.sigmas()
    told = phase.conditioning(phase.teacher.context(rows))
    latent = normal_rows(phase.seed, "context_probe/start", 0, (0, 1), phase.model.latent_shape)
    for step in range(2):
        at = sigma[step].expand(2)
        with torch.no_grad():
            own, its = (phase.model.velocity(latent, at, each, None) for each in (given, told))
        for name, velocity in (("student", own), ("teacher", its)):
            expected = distance(velocity_to_clean(latent, velocity, at), clean)
            torch.testing.assert_close(
                torch.tensor(found["states"][step][name]), expected, rtol=1e-4, atol=1e-5
            )
        latent = latent + (sigma[step + 1] - sigma[step]) * own
    again.fit()
    assert not (again.folder / "context_probe.json").exists()
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(run).items())


@pytest.mark.slow
def test_a_resumed_run_is_not_measured_again(build):
    run = build("run", *ONE)
    run.fit()
    (run.folder / "context_probe.json").unlink()
    resumed = build("run", "trainer.max_epochs=2")
    assert resumed.checkpoint is not None
    resumed.fit()
    assert not (run.folder / "context_probe.json").exists()


def test_a_run_whose_context_does_not_help_ends_before_its_first_round_if_asked(build, monkeypatch):
    refusing = (*ONE, "callbacks.context_probe.if_no_help=refuse")
    run = build("run", *refusing)
    with pytest.raises(
        ConfigError, match=r"if_no_help=refuse asks: the context does not help, see .*probe\.json"
    ):
        run.fit()
    assert not (run.folder / "adapter").exists()
    run = build("helped", *refusing, "model.image_size=128")
    model = run.phase.model
    view = torch.tensor([[1 / 1.15, 0, 0], [0, 1 / 1.15, 0]]).expand(2, 2, 3)

    def zooms(prompts, conditioning):  # a teacher that sees the pictures, and points at them enlarged
        clean = torch.stack([model.encode_picture(target) for target in prompts.targets])
        cells = model.to_vae(clean)
        grid = F.affine_grid(view[: len(cells)], list(cells.shape), align_corners=False)
        large = model.from_vae(F.grid_sample(cells, grid, mode="bicubic", align_corners=False))
        return lambda latent, sigma: (latent - large) / sigma.view(-1, 1, 1, 1)

    monkeypatch.setattr(run.phase.target, "given", zooms)
    run.fit()
    found = kept(run, "context_probe")
    assert found["helps"]
    assert found["share"] > 0.5
    (problem,) = found["problems"]
    assert problem.startswith("the teacher's layout is zoomed in: what it draws is 1.1")


@pytest.mark.slow
def test_the_leak_test_compares_other_prompts_with_the_pictures_and_the_base_model(build):
    prompts = ["a house", "a tree", "a sea"]
    run = build("run", *ONE, *LEAK, f"callbacks.samples.prompts=[{','.join(prompts)}]")
    run.fit()
    found = kept(run, "leak_test")
    assert [entry["prompt"] for entry in found["prompts"]] == prompts
    pictures = torch.stack([read_picture(entry.picture) for entry in run.data.tasks["pictures"].entries])
    callback = next(c for c in run.trainer.callbacks if isinstance(c, LeakTest))
    asked = callback.leak
    assert asked is not None
    images = generate(
        run.phase.model,
        run.data.batch(0).select([0]).with_texts(["a house"]),
        sampler=run.phase.sampler,
        guidance_scale=1.0,
        adapters=None,
        seed=derived_seed(run.phase.seed, "leak_test", 0),
        batch_size=1,
    )
    expected = nearest_layout(images, pictures)
    assert found["prompts"][0]["layout"]["base"] == pytest.approx(float(expected), abs=1e-4)
    assert asked.layout[0][0] != asked.layout[1][0]  # something was learned
    again = build("run", *ONE, *LEAK, f"callbacks.samples.prompts=[{','.join(prompts)}]")
    again.fit()  # nothing is left to train, and nothing to measure
    assert next(c for c in again.trainer.callbacks if isinstance(c, LeakTest)).leak is None


@pytest.mark.slow
def test_without_prompts_both_take_those_that_suit_pictures(build):
    """What a user types is ``+experiment=dopsd model=flux2_klein data.path=my_pictures``."""
    run = build("run", *ONE, *LEAK, "callbacks.samples.shares=[0]", "callbacks.samples.num_prompts=3")
    run.fit()
    assert [entry["prompt"] for entry in kept(run, "leak_test")["prompts"]] == [
        "a lighthouse on a cliff by the sea at sunset",
        "a bowl of fruit on a wooden table",
        "a portrait of an old fisherman",
        "a red car parked in front of a house",
    ]
    row, images = read_row(list_rows(run.folder / "samples")[0])
    assert row.prompts == tuple(
        f"{who}: {text}"
        for text in (
            "thing 0, in the snow",
            "thing 0, on a city street at night",
            "a lighthouse on a cliff by the sea at sunset",
        )
        for who in ("student", "teacher")
    )
    pixels = [np.array(image).astype(int) for image in images]
    assert np.abs(pixels[0] - pixels[1]).max() > 0


@pytest.mark.slow
def test_nothing_is_measured_of_other_runs(world, tmp_path):
    run = world.build("sft_pairs", tmp_path / "run", *ONE)
    run.fit()
    assert next(c for c in run.trainer.callbacks if isinstance(c, ContextProbe)).gain is None
    assert not list(run.folder.glob("*.json"))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ContextProbe, {"num_draws": 0}, r"callbacks\.context_probe\.num_draws must be at least 1, got 0"),
        (ContextProbe, {"least_gain": 1}, r"least_gain=1 must be at least 0 and less than 1"),
        (ContextProbe, {"if_no_help": "stop"}, r"if_no_help=stop must be one of warn, refuse"),
        (LeakTest, {"most_pictures": 0}, r"callbacks\.leak_test\.most_pictures must be at least 1, got 0"),
        (LeakTest, {"least_rise": 3}, r"callbacks\.leak_test\.least_rise=3 must be in \[0, 2\]"),
    ],
)
def test_settings_that_cannot_be_meant(kind, settings, message):
    fine = {
        ContextProbe: {"num_pictures": 1, "num_draws": 1, "least_gain": 0, "if_no_help": "warn"}
        | {"perceptual": None, "file": "x"},
        LeakTest: {"prompts": None, "templates": None, "num_draws": 1, "most_pictures": 1}
        | {"least_rise": 0.1, "file": "x"},
    }[kind]
    with pytest.raises(ValueError, match=message):
        kind(**{**fine, **settings})
