"""Samples drawn while a model trains: what is drawn, when, for whom, and that training does not notice."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from PIL import Image

sys.path.append(
    str(Path(__file__).parents[1] / "phase")
)  # after this folder, whose files have names of their own

from diffopd.callbacks import Samples, sample_source
from diffopd.checkpoint.folder import STATE, TENSORS
from diffopd.evaluation import generate
from diffopd.files.sample_row import list_rows, read_row
from support.slow import slow_but
from support.tiny_runs import FORKED

FEW_STEPS = ("~report", "sampler.num_steps=3", "benchmark.sampler.num_steps=2")
DRAWN = (*FEW_STEPS, "callbacks.samples.every_n_rounds=2")
SPECIALIST = (*DRAWN, "phase.num_timesteps=2", "phase.updates_per_round=1", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run of three rounds with samples and TensorBoard: ``(its folder, the experiment)``."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=3", "logger=default")
    draw = Samples._draw

    def watched(*arguments):
        random = torch.get_rng_state()
        draw(*arguments)
        assert torch.equal(torch.get_rng_state(), random)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "_draw", watched)
        run.run()
    return folder, run


@pytest.fixture
def drawn(monkeypatch):
    """Prompts and adapter of each call that makes images."""
    calls = []

    def counted(model, prompts, *, adapters, **settings):
        calls.append((prompts.texts, adapters))
        return generate(model, prompts, adapters=adapters, **settings)

    monkeypatch.setattr(sample_source, "generate", counted)
    return calls


def names(folder):
    return [path.stem for path in list_rows(folder / "samples")]


def pixels(folder, number):
    return [picture.tobytes() for picture in read_row(folder / "samples" / f"round_{number:06d}.png")[1]]


def test_rows_at_the_start_in_between_and_at_the_end(whole):
    folder, run = whole
    assert names(folder) == ["round_000000", "round_000002", "round_000003"]
    assert not [path for path in (folder / "samples").iterdir() if path.name.startswith(".")]
    unseen = run.benchmark.prompts()
    for number in (0, 2, 3):
        row, pictures = read_row(folder / "samples" / f"round_{number:06d}.png")
        assert row.round == number
        assert row.tasks == ("composition", "ocr", "aesthetic")  # in turn
        assert row.prompts == tuple(unseen[task].texts[0] for task in row.tasks)
        assert len(pictures) == 3
    first, second, last = (pixels(folder, number) for number in (0, 2, 3))
    assert first != second != last


def test_the_first_row_is_of_what_the_run_starts_from_and_the_last_of_what_it_exports(whole):
    folder, run = whole
    (callback,) = [c for c in run.trainer.callbacks if isinstance(c, Samples)]
    source = callback._source
    for adapter, number in ((None, 0), ("average", 3)):
        images = generate(
            run.phase.model,
            source.prompts,
            sampler=run.benchmark.sampler,
            guidance_scale=run.phase.sampler.guidance_scale,
            adapters=adapter,
            seed=run.benchmark.seed,
            batch_size=4,
        )
        row, _ = read_row(folder / "samples" / f"round_{number:06d}.png")
        with Image.open(folder / "samples" / row.file) as found:
            assert found.tobytes() == row.picture(images).tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_every_row_at_its_round(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = whole
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    shown = events.Images("samples")
    assert [event.step for event in shown] == [0, 2, 3]
    with Image.open(folder / "samples" / "round_000003.png") as picture:
        assert (shown[-1].width, shown[-1].height) == picture.size


def test_the_checkpoint_is_the_same_without_samples(whole, world, tmp_path):
    settings = (*FEW_STEPS, "trainer.max_epochs=3", "logger=default")
    world.build("mopd_ode", tmp_path / "run", *settings).run()
    assert not (tmp_path / "run" / "samples").exists()
    with_samples, without = (place / "checkpoints" / "round_000003" for place in (whole[0], tmp_path / "run"))
    assert (with_samples / TENSORS).read_bytes() == (without / TENSORS).read_bytes()
    states = [json.loads((place / STATE).read_text()) for place in (with_samples, without)]
    assert "Samples" not in states[0]["callbacks"]
    for state in states:
        for callback in state["callbacks"].values():
            if "unlogged" in callback:  # seconds and bytes of memory differ from run to run
                logged = callback["unlogged"]["metrics"]
                for name in [n for n in logged if n.startswith(("train/time", "train/memory"))]:
                    del logged[name]
    assert states[0] == states[1]


def test_a_resumed_run_repeats_and_misses_none(whole, world, tmp_path, drawn):
    folder = tmp_path / "run"
    world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=2").run()
    assert [texts for texts, _ in drawn] == [drawn[0][0]] * 2
    assert names(folder) == ["round_000000", "round_000002"]
    drawn.clear()
    world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=3").run()
    assert len(drawn) == 1
    for number in (0, 2, 3):
        assert pixels(folder, number) == pixels(whole[0], number)
    drawn.clear()
    last = folder / "samples" / "round_000003.png"
    last.write_bytes(last.read_bytes()[:-40])  # damaged
    world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=3").run()  # nothing is left to train
    assert len(drawn) == 1
    assert pixels(folder, 3) == pixels(whole[0], 3)


def test_rows_at_shares_of_the_run(world, tmp_path, drawn):
    shares = ("callbacks.samples.every_n_rounds=0", "callbacks.samples.shares=[0.25,0.5]")
    world.build("mopd_ode", tmp_path / "run", *FEW_STEPS, *shares, "trainer.max_epochs=5").run()
    # 0 and the end always; round(1.25) = 1, round(2.5) = 2
    assert names(tmp_path / "run") == [f"round_00000{number}" for number in (0, 1, 2, 5)]
    assert len(drawn) == 4


def test_a_row_of_other_settings_is_drawn_again(world, tmp_path, drawn):
    folder = tmp_path / "run"
    world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=2").run()
    drawn.clear()
    more = (*DRAWN, "trainer.max_epochs=2", "callbacks.samples.num_prompts=2")
    world.build("mopd_ode", folder, *more).run()
    assert [len(texts) for texts, _ in drawn] == [2]  # of the last round; how it began is gone
    assert len(read_row(folder / "samples" / "round_000002.png")[1]) == 2


def test_a_write_that_is_cut_leaves_no_picture_and_is_made_up_for(world, tmp_path, monkeypatch):
    folder, settings = tmp_path / "run", (*DRAWN, "trainer.max_epochs=2")
    save = Image.Image.save

    def cut(picture, file, *arguments, **settings):
        Path(file).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    run = world.build("mopd_ode", folder, *settings)
    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.run()
    assert names(folder) == []
    monkeypatch.setattr(Image.Image, "save", save)
    (folder / "samples" / ".round_000000.png.x.writing").write_bytes(b"of a process that was killed")
    world.build("mopd_ode", folder, *settings).run()
    found = sorted(path.name for path in (folder / "samples").iterdir())
    assert found == ["round_000000.png", "round_000002.png"]


class FakeWandb(WandbLogger):
    """As Lightning's, without the package."""

    def __init__(self):
        self.images = []

    def log_image(self, key, images, step=None, **kwargs):
        assert all(len(values) == len(images) for values in kwargs.values())
        self.images.append((key, images[0].size, step, kwargs["caption"]))

    def log_metrics(self, metrics, step=None):
        pass

    log_hyperparams = finalize = after_save_checkpoint = log_metrics
    experiment = property(lambda self: self)
    name = version = save_dir = ""


class FakeMlflow(MLFlowLogger):
    """The same; ``experiment`` is what MLflow calls a client."""

    def __init__(self):
        self.images = []

    experiment = property(lambda self: self)
    run_id = "a run"
    name = version = save_dir = ""

    def log_image(self, run_id, image, artifact_file=None):
        if artifact_file == "samples/round_000002.png":
            raise ConnectionError("nobody answers")
        self.images.append((run_id, image.size, artifact_file))

    def log_metrics(self, metrics, step=None):
        pass

    log_hyperparams = finalize = after_save_checkpoint = log_metrics


def test_wandb_and_mlflow_get_every_row_and_one_that_fails_costs_no_training(world, tmp_path, caplog):
    folder = tmp_path / "run"
    run = world.build("mopd_ode", folder, *DRAWN, "trainer.max_epochs=2")
    wandb, mlflow = FakeWandb(), FakeMlflow()
    run.trainer.loggers = [*run.trainer.loggers, wandb, mlflow]
    with caplog.at_level(logging.WARNING):
        run.run()
    with Image.open(folder / "samples" / "round_000002.png") as picture:
        size = picture.size
    assert [entry[:3] for entry in wandb.images] == [("samples", size, 0), ("samples", size, 2)]
    assert wandb.images[0][3][0].startswith("round 0: ")
    assert mlflow.images == [("a run", size, "samples/round_000000.png")]
    assert "the samples of round 2 are not in FakeMlflow (ConnectionError: nobody answers)" in caplog.text


def test_prompts_of_ones_own(world, tmp_path):
    own = "callbacks.samples.prompts=['a red cat', 'a sign that says \"CAT\"']"
    world.build("teacher_aesthetic", tmp_path / "run", *SPECIALIST, own).run()
    row, _ = read_row(tmp_path / "run" / "samples" / "round_000001.png")
    assert row.prompts == ("a red cat", 'a sign that says "CAT"')


def test_a_specialist_shows_the_task_it_is_trained_on(world, tmp_path):
    world.build("teacher_aesthetic", tmp_path / "run", *SPECIALIST).run()
    row, _ = read_row(tmp_path / "run" / "samples" / "round_000000.png")
    assert set(row.tasks) == {"aesthetic"}


def test_nothing_is_drawn_without_a_benchmark_or_prompts(world, tmp_path):
    settings = ("~report", "callbacks.samples.every_n_rounds=1", "trainer.max_epochs=1")
    settings += ("phase.noise_levels=[0.7]", "phase.num_draws=4", "phase.group_sizes=[1]", "phase.steps=[0]")
    world.build("gradient_variance", tmp_path / "run", *settings).run()
    assert not (tmp_path / "run" / "samples").exists()


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
@pytest.mark.parametrize("trainer", slow_but(["ddp", "sharded"], "sharded"))
def test_two_processes_draw_each_row_once(whole, world, tmp_path, trainer):
    settings = (*DRAWN, "trainer.max_epochs=2", f"trainer={trainer}", *FORKED[1:])
    for attempt in range(2):
        world.build("mopd_ode", tmp_path / "run", *settings).fit()
        rows = list_rows(tmp_path / "run" / "samples")
        assert [path.stem for path in rows] == ["round_000000", "round_000002"]
        if attempt == 0:
            times = [path.stat().st_mtime_ns for path in rows]
    assert [path.stat().st_mtime_ns for path in rows] == times
    close = torch.testing.assert_close
    for number in (0, 2):  # the sum of two gradients is rounded otherwise than that of one
        for mine, theirs in zip(pixels(tmp_path / "run", number), pixels(whole[0], number), strict=True):
            values = [torch.frombuffer(bytearray(p), dtype=torch.uint8).float() for p in (mine, theirs)]
            close(*values, rtol=0, atol=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_rounds": -1}, r"callbacks\.samples\.every_n_rounds must be at least 0, got -1"),
        ({"shares": [0.5, 50]}, r"callbacks\.samples\.shares=\[0\.5, 50\] must be a list of shares"),
        ({"num_prompts": 0}, r"callbacks\.samples\.num_prompts must be at least 1, got 0"),
        ({"prompts": []}, r"callbacks\.samples\.prompts=\[\] must be a list of prompts"),
        ({"prompts": "a cat"}, r"callbacks\.samples\.prompts='a cat' must be a list of prompts"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    fine = {"every_n_rounds": 1, "shares": [], "num_prompts": 1, "prompts": None, "folder": "x"}
    with pytest.raises(ValueError, match=message):
        Samples(**{**fine, **settings})
