"""Prior preservation: class pictures are drawn once by the base model and learned beside the pictures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from diffopd.check import ConfigError
from diffopd.phase.class_pictures import ClassPictures
from diffopd.randomness import normal_rows
from support.tiny_runs import randomise, relative_distance, run_rounds

NUMBER = 19  # one file of 16 and one of 3


@pytest.fixture
def build(world, tmp_path):
    def built(folder, *overrides):
        number = f"phase.num_class_pictures={NUMBER}"
        return world.build("dreambooth_pairs", tmp_path / folder, number, "trainer.max_epochs=1", *overrides)

    return built


def test_a_round_worked_by_hand(build):
    """The pictures' loss and 0.5 of the class pictures', each row with one of them."""
    run = build("run", "phase.prior_weight=0.5")
    phase, prompts = run.phase, run.data.batch(0)
    model, sigmas = phase.model, phase.sampler.sigmas()
    randomise(model, "student", 7)

    latents = normal_rows(0, "class/start", 0, range(NUMBER), model.latent_shape)
    told = model.encode(["a thing"]).expand(NUMBER)
    for step in range(4):
        with torch.no_grad():
            velocity = model.velocity(latents, sigmas[step].expand(NUMBER), told)
        latents = latents + (sigmas[step + 1] - sigmas[step]) * velocity

    rounds = run_rounds(run, student_seed=None)
    kept = phase.class_pictures
    assert relative_distance(kept._latents, latents) < 1e-5
    randomise(model, "student", 7)
    phase.trainer.fit_loop.epoch_progress.current.reset()
    assert phase.round == 0  # as when it was taken
    part, chosen = kept.beside(prompts, len(prompts))
    assert set(part.texts) == {"a thing"}
    assert part.targets == (None, None)

    total = {}
    for name, clean, given in (
        ("sft", phase.examples(prompts, model.condition(prompts)), model.condition(prompts)),
        ("prior", chosen, told.select([0, 1])),
    ):
        sigma, noise = phase.sigmas(0, prompts, name), phase.noise(f"{name}/noise/0", prompts)
        level = sigma[:, None, None, None]
        velocity = model.velocity((1 - level) * clean + level * noise, sigma, given, "student")
        total[name] = (velocity - (noise - clean)).square().mean()
        assert rounds.metrics[f"train/loss/{name}"] == pytest.approx(float(total[name].detach()), rel=1e-4)
    loss = total["sft"] + 0.5 * total["prior"]
    gradient = torch.autograd.grad(loss, list(phase.student.weights().values()))
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in gradient])) < 1e-4


def test_what_is_there_is_read_and_what_is_missing_or_damaged_is_drawn_again(
    build, tmp_path, monkeypatch, caplog
):
    run = build("run")
    run.fit()
    first, second = sorted((tmp_path / "run" / "class_pictures").rglob("*.safetensors"))
    damaged, whole = first.read_bytes(), [load_file(file)["latents"].clone() for file in (first, second)]
    drawn, draw = [], ClassPictures._draw
    monkeypatch.setattr(
        ClassPictures, "_draw", lambda self, rows: (drawn.append(len(rows)), draw(self, rows))[1]
    )

    pictures = run.phase.class_pictures
    pictures.prepare(tmp_path / "run")
    assert drawn == []
    second.unlink()  # as if it had been killed before
    first.write_bytes(damaged[:-4] + b"\0\0\0\1")
    pictures.prepare(tmp_path / "run")
    assert drawn == [16, 3]
    assert "is not what was written; its pictures are drawn again" in caplog.text
    for file, latents in zip((first, second), whole, strict=True):
        assert torch.equal(load_file(file)["latents"], latents)
    first.write_bytes(damaged[:20])
    pictures.prepare(tmp_path / "run")
    assert drawn == [16, 3, 16]
    pictures.prompt = "another thing"  # other settings have other files
    pictures.prepare(tmp_path / "run")
    assert drawn == [16, 3, 16, 16, 3]
    assert len(list((tmp_path / "run" / "class_pictures").iterdir())) == 2


def test_every_picture_comes_once_before_any_comes_again():
    pictures = ClassPictures(SimpleNamespace(seed=0), "a thing", 3)
    orders = [pictures._order(number) for number in range(4)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(map(tuple, orders))) > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["phase.num_class_pictures=0"], r"phase\.num_class_pictures=0 must be a whole number from 1"),
        (["phase.prior_weight=-1"], r"phase\.prior_weight=-1 must be a number in \[0, 1000000\]"),
        (["phase.examples=base"], r"phase\.class_prompt=a thing has class pictures learned beside pictures"),
    ],
)
def test_settings_that_make_no_sense(build, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build("run", *overrides)
