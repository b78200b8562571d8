"""Fine-tuning on pictures of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from diffopd.check import ConfigError, check_config
from diffopd.files.picture import read_picture
from diffopd.randomness import normal_rows
from support.pictures import picture_file
from support.tiny_runs import randomise, relative_distance, run_rounds


@pytest.fixture
def build(world, tmp_path):
    """``build(folder, *overrides)`` builds a run in a new folder."""

    def built(folder, *overrides):
        return world.build("sft_pairs", tmp_path / folder, *overrides)

    return built


def test_a_round_worked_by_hand(build):
    """Two noise levels per picture, logit-normal and shifted by 3."""
    run = build("run", "trainer.max_epochs=1", "phase.num_timesteps=2", "data.group_size=2")
    phase, prompts = run.phase, run.data.batch(0)
    model = phase.model
    randomise(model, "student", 7)
    images = torch.stack([read_picture(picture) for picture in prompts.targets])
    clean = model.encode_images(images).double()
    assert len({row.sum().item() for row in clean}) == 2  # two pictures, each twice
    texts, total = model.encode(prompts.texts), torch.zeros((), dtype=torch.float64)
    for number in range(2):
        normal = normal_rows(0, f"sft/sigma/{number}", 0, range(4), (1,)).double()
        level = normal.sigmoid()[:, :, None, None]
        sigma = 3 * level / (1 + 2 * level)
        noise = normal_rows(0, f"sft/noise/{number}", 0, range(4), model.latent_shape).double()
        latent = (1 - sigma) * clean + sigma * noise
        velocity = model.velocity(latent.float(), sigma.flatten().float(), texts, "student").double()
        total = total + (velocity - (noise - clean)).square().mean() / 2
    gradient = torch.autograd.grad(total, list(phase.policies["student"].weights().values()))
    expected = torch.cat([part.flatten() for part in gradient])
    rounds = run_rounds(run)
    assert rounds.metrics["train/loss/sft"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert relative_distance(rounds.flat_gradient(), expected) < 1e-4
    assert "train/cost/images" not in rounds.metrics  # nothing was sampled


def test_a_picture_is_encoded_once(build, monkeypatch):
    run = build("run", "trainer.max_epochs=4")
    model, encoded = run.phase.model, []
    encode = model.encode_images
    monkeypatch.setattr(
        model, "encode_images", lambda images: (encoded.append(len(images)), encode(images))[1]
    )
    run_rounds(run)
    assert encoded == [1] * 4  # of eight rows; each alone, so that none depends on others


def test_the_student_learns_the_pictures(build):
    settings = ("trainer.max_epochs=10", "data.prompts_per_round=4", "phase.num_timesteps=2")
    run = build("run", *settings, "optimizer.lr=3e-2")
    run_rounds(run, student_seed=None)
    phase, prompts = run.phase, run.data.batch(0)
    given = phase.conditioning(prompts)
    clean = phase.examples(prompts, given)
    noise, sigma = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)), torch.full((4,), 0.7)
    with torch.no_grad():
        losses = [
            (policy.velocity(0.3 * clean + 0.7 * noise, sigma, given, 1.0) - (noise - clean)).square().mean()
            for policy in (phase.base, phase.student)
        ]
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["phase.examples=teacher"],
            r"phase\.examples=teacher needs a teacher and none is chosen; .*\+teacher=",
        ),
        (
            ["+teacher=self", "+context=reference"],
            r"a teacher is chosen, and phase\.examples=pictures learns from none",
        ),
        (["phase.best_of_n=2"], r"phase\.best_of_n=2 chooses among a teacher's samples"),
        (
            ["phase.score_every_n_rounds=5"],
            r"phase\.score_every_n_rounds=5 scores samples with a reward, and none is chosen; .*\+reward=",
        ),
        (["data.background=[0,0]"], r"data\.background=.* must be a list of 3 numbers"),
        (["data.background=[0,0,256]"], r"data\.background\.2=256 must be a whole number from 0 to 255"),
        (["data.caption_key=[]"], r"data\.caption_key=.* must be a list of texts .*, or one text, or null"),
        (["phase.examples=picture"], r"phase\.examples=picture must be one of teacher, base, pictures"),
        (["data.path=/absent"], r"data\.path=/absent: there is no such folder"),
        (["data.caption_key=short_en"], r"metadata\.jsonl: no caption 'short_en' in line 1"),
        (
            ["phase._target_=diffopd.phase.NFTPhase", "data.image_size=[8]"],
            r"data\.image_size=\[8\] must be a whole number from 1 to 16384, or \[height, width\]",
        ),
        (["data.buckets=some"], r"data\.buckets=some must be one of none, area, released"),
        (["trainer.devices=3"], r"data\.prompts_per_round=2 must be a multiple of the number of processes"),
    ],
)
def test_errors_come_before_weights_load(build, monkeypatch, overrides, message):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("diffopd.model.SD3Model.__init__", load)
    with pytest.raises(ConfigError, match=message):
        build("run", *overrides)


def test_pictures_of_several_shapes_in_one_round(world, build, tmp_path):
    """A round's gradient is the mean of the rows' own, each from noise of its own shape."""
    shapes = {0: (64, 64), 1: (60, 100), 2: (100, 60), 3: (60, 100)}
    sizes = ("model.image_size=24", "data.bucket_step=8")  # 24 x 24, 16 x 32, 32 x 16
    for number, (height, width) in shapes.items():
        name = Path(picture_file(tmp_path / "pairs", number, height, width).path).stem
        (tmp_path / "pairs" / f"{name}.txt").write_text(f"thing {number}")
    settings = ("trainer.max_epochs=1", "data.prompts_per_round=4", f"data.path={tmp_path / 'pairs'}")
    run = build("run", *settings, *sizes, "phase.micro_batch_size=3")
    phase, prompts = run.phase, run.data.batch(0)
    model = phase.model
    randomise(model, "student", 7)
    total, seen = torch.zeros((), dtype=torch.float64), set()
    for row, picture in enumerate(prompts.targets):
        clean = model.encode_images(read_picture(picture)[None]).double()
        seen.add(tuple(clean.shape[2:]))
        normal = normal_rows(0, "sft/sigma/0", 0, [row], (1,)).double()
        level = normal.sigmoid()[:, :, None, None]
        sigma = 3 * level / (1 + 2 * level)
        noise = normal_rows(0, "sft/noise/0", 0, [row], clean.shape[1:]).double()
        latent, given = (1 - sigma) * clean + sigma * noise, model.encode([prompts.texts[row]])
        velocity = model.velocity(latent.float(), sigma.flatten().float(), given, "student").double()
        total = total + (velocity - (noise - clean)).square().mean() / 4
    assert len(seen) == 3
    expected = torch.autograd.grad(total, list(phase.policies["student"].weights().values()))
    rounds = run_rounds(run)
    assert rounds.metrics["train/loss/sft"] == pytest.approx(float(total.detach()), rel=1e-4)
    assert relative_distance(rounds.flat_gradient(), torch.cat([g.flatten() for g in expected])) < 1e-4


def test_a_size_that_the_model_cannot_take_is_told_before_the_first_round(build):
    with pytest.raises(ConfigError, match=r"data\.image_size, .*=\[36, 32\] does not fit .*multiples of"):
        build("run", "data.image_size=[36,32]", "data.buckets=none").run()


def test_the_student_may_be_scored_for_the_log(build):
    run = build("run", "trainer.max_epochs=1", "phase.score_every_n_rounds=1", "+reward=picture_quality")
    assert "train/reward/pictures" in run_rounds(run).metrics


def test_examples_are_pictures_of_data_that_has_some(conf_dir):
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        cfg = compose("train", overrides=["+experiment=sft_pairs", "data=ocr"])
    with pytest.raises(
        ConfigError, match=r"phase\.examples=pictures .* the data has none; choose data=pairs"
    ):
        check_config(cfg)
