"""The distillation baselines: rounds worked by hand, who learns, and that nothing else matters."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from diffopd.adapter import copy_adapter
from diffopd.check import ConfigError
from diffopd.checkpoint import latest_valid_checkpoint, read_checkpoint
from diffopd.phase.fake_score import Predicted
from diffopd.randomness import normal_rows, torch_generator, uniform_rows
from support.slow import EXHAUSTIVE
from support.tiny_runs import FORKED, GUIDANCE, TASKS, randomise, relative_distance, run_rounds

METHODS = ("sft", "dmd", "tdm")
ONE_ROUND = ("trainer.max_epochs=1", "reward=picture_quality", "phase.score_every_n_rounds=0")
ONE_TEACHER = (
    *("~teacher.teachers.ocr", "~teacher.teachers.aesthetic", "~data.tasks.ocr", "~data.tasks.aesthetic"),
    *("adapter.rank=3", "adapter.alpha=6"),
)


@pytest.fixture
def build_round(world, tmp_path):
    """``build_round(method, *overrides)`` builds a run of one round in a new folder."""
    count = iter(range(100))

    def make(method, *overrides):
        return world.build(f"mopd_{method}", tmp_path / f"run{next(count)}", *ONE_ROUND, *overrides)

    return make


class Hand:
    """The first round's parts, computed anew: guided velocities and the draws of every row."""

    def __init__(self, experiment):
        self.phase, self.prompts = experiment.phase, experiment.data.batch(0)
        self.model = self.phase.model
        randomise(self.model, "student", 7)
        self.texts = self.model.encode(self.prompts.texts)
        self.empty = self.model.encode([""] * len(self.prompts))
        self.grid = self.phase.sampler.sigmas().tolist()

    def velocity(self, latent, sigma, adapters):
        """Without guidance, in float64."""
        return self.model.velocity(latent.float(), sigma.float(), self.texts, adapters).double()

    @torch.no_grad()
    def teacher(self, latent, sigma):
        """Each row by its own teacher at its own guidance."""
        names = [f"teacher_{task}" for task in self.prompts.tasks]
        given = self.velocity(latent, sigma, names)
        without = self.model.velocity(latent.float(), sigma.float(), self.empty, names).double()
        return without + wide([GUIDANCE[task] for task in self.prompts.tasks]) * (given - without)

    def noise(self, purpose):
        return normal_rows(0, purpose, 0, self.prompts.indices, self.model.latent_shape)

    def uniform(self, purpose):
        return uniform_rows(0, purpose, 0, self.prompts.indices, (1,))[:, 0].double()

    def level(self, value):
        return torch.full((len(self.prompts),), float(value))

    @torch.no_grad()
    def states(self, velocity, purpose):
        """An Euler rollout from noise to clean, all states."""
        latents = [self.noise(purpose).double()]
        for t, t_next in pairwise(self.grid):
            latents.append(latents[-1] + (t_next - t) * velocity(latents[-1], self.level(t)))
        return latents

    def gradient(self, loss):
        """Of the student, as one vector."""
        parameters = list(self.phase.policies["student"].weights().values())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def wide(values):
    """One number per row beside latents."""
    return torch.as_tensor(values, dtype=torch.float64)[:, None, None, None]


def mean(values):
    """Over the latent, per row."""
    return values.flatten(1).mean(1)


def assert_agrees(experiment, method, loss, gradient):
    run = run_rounds(experiment)
    assert run.metrics[f"train/loss/{method}"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert gradient.norm() > 0
    assert relative_distance(run.flat_gradient(), gradient) < 1e-4
    return run


# One round by hand.


def test_sft_imitates_its_teachers_samples(build_round):
    """Two noise levels per sample, logit-normal and shifted by 3; a pull to the base model of weight 0.5."""
    experiment = build_round("sft", "phase.num_timesteps=2", "phase.kl_weight=0.5")
    hand, total = Hand(experiment), torch.zeros((), dtype=torch.float64)
    clean = hand.states(hand.teacher, "sft/candidate/0/start")[-1]
    pulls = []
    for number in range(2):
        normal = normal_rows(0, f"sft/sigma/{number}", 0, hand.prompts.indices, (1,))[:, 0].double()
        uniform = 1 / (1 + (-normal).exp())
        sigma, noise = 3 * uniform / (1 + 2 * uniform), hand.noise(f"sft/noise/{number}").double()
        latent = (1 - wide(sigma)) * clean + wide(sigma) * noise
        velocity = hand.velocity(latent, sigma, "student")
        with torch.no_grad():
            base = hand.velocity(latent, sigma, None)
        pulls.append(mean((velocity - base).square()).mean())
        total = total + mean((velocity - (noise - clean)).square()).mean() / 2
    pull = (pulls[0] + pulls[1]) / 2
    run = assert_agrees(experiment, "sft", total, hand.gradient(total + 0.5 * pull))
    assert run.metrics["train/loss/kl_reference"] == pytest.approx(float(pull.detach()), rel=1e-4)


def test_dmd_follows_the_difference_of_two_scores(build_round):
    """The prediction at the exit step, noised; its slope is (fake - real) / mean |clean - real|."""
    experiment = build_round("dmd", "phase.tau_shift=3", "phase.first_exit_step=4")
    randomise(experiment.phase.model, "fake", 9)
    hand = Hand(experiment)
    step = experiment.phase.exit_step()
    assert 4 <= step <= 8
    latent = hand.states(lambda x, s: hand.velocity(x, s, "student"), "rollout/start")[step].float()
    sigma = hand.level(hand.grid[step])
    clean = latent.double() - hand.grid[step] * hand.velocity(latent, sigma, "student")
    level = 0.02 + 0.96 * hand.uniform("dmd/student/tau")
    tau = 3 * level / (1 + 2 * level)
    noised = (1 - wide(tau)) * clean.detach() + wide(tau) * hand.noise("dmd/student/noise").double()
    with torch.no_grad():
        real = noised - wide(tau) * hand.teacher(noised, tau)
        fake = noised - wide(tau) * hand.velocity(noised, tau, "fake")
        slope = (fake - real) / wide(mean((clean - real).abs()))
    surrogate = mean(slope * clean).mean()
    assert_agrees(experiment, "dmd", 0.5 * mean(slope.square()).mean(), hand.gradient(surrogate))


def test_dmd_trains_the_fake_score_at_all_levels(build_round):
    """DMD2 draws the levels of the fake score from [0, 1), those of the comparison from [0.02, 0.98)."""
    experiment = build_round("dmd")
    phase, prompts = experiment.phase, experiment.data.batch(0)
    clean = torch.zeros(len(prompts), *phase.model.latent_shape)
    level = torch.zeros(len(prompts))
    predicted = Predicted(prompts, phase.conditioning(prompts), clean, level, clean)
    uniform = uniform_rows(0, "any/tau", 0, prompts.indices, (1,))[:, 0]
    assert torch.equal(phase.noised(predicted, "any", for_fake=True).sigma, uniform)
    compared = phase.noised(predicted, "any", for_fake=False).sigma
    torch.testing.assert_close(compared, 0.02 + 0.96 * uniform)


@pytest.mark.parametrize("midpoint", ["end", "random"])
def test_tdm_matches_distributions_on_segments(build_round, midpoint):
    """Five segments of two steps: the jump to ``middle``, forward to ``tau``, and the squared distance."""
    experiment = build_round("tdm", "loss.distance=squared", f"phase.midpoint={midpoint}")
    randomise(experiment.phase.model, "fake", 9)
    hand = Hand(experiment)
    rows, bounds = range(len(hand.prompts)), hand.grid[::2]
    drawn = [
        int(torch.randint(5, (), generator=torch_generator(0, "tdm/segment", 0, index)))
        for index in hand.prompts.indices
    ]
    assert len(set(drawn)) > 1
    states = hand.states(lambda x, s: hand.velocity(x, s, "student"), "rollout/start")
    latent = torch.stack([states[2 * drawn[row]][row] for row in rows])
    start, end = (torch.tensor([bounds[d + i] for d in drawn], dtype=torch.float64) for i in (0, 1))
    velocity = hand.velocity(latent, start, "student")
    clean = latent - wide(start) * velocity

    highest = start - 0.01
    share = hand.uniform("tdm/student/middle") if midpoint == "random" else 0
    middle = end + share * (highest - end)
    lowest = middle.clamp_min(0.02)
    tau = lowest + hand.uniform("tdm/student/tau") * (highest - lowest)
    kept = (1 - tau) / (1 - middle)
    added = (tau**2 - (kept * middle) ** 2).sqrt()
    reached = (latent + wide(middle - start) * velocity).detach()
    noised = wide(kept) * reached + wide(added) * hand.noise("tdm/student/noise").double()
    with torch.no_grad():
        real = noised - wide(tau) * hand.teacher(noised, tau)
        fake = noised - wide(tau) * hand.velocity(noised, tau, "fake")
        scale = mean((clean - real).abs())
    distance = clean - (clean.detach() + real - fake)
    loss = (mean(distance.square()) / scale).mean()
    assert_agrees(experiment, "tdm", loss, hand.gradient(loss))


@pytest.mark.parametrize("method", ["dmd", "tdm"])
def test_equal_scores_teach_nothing(build_round, method):
    """A fake score that is its teacher, which has no guidance."""
    assert GUIDANCE["composition"] == 1
    one_strength = "adapter.alpha=3"  # rank 3: strength 1, which saved teachers have
    experiment = build_round(method, *ONE_TEACHER, one_strength)
    copy_adapter(experiment.phase.model.transformer, "teacher_composition", "fake")
    run = run_rounds(experiment)
    assert run.metrics[f"train/loss/{method}"] == pytest.approx(0, abs=1e-6)
    assert (
        run.flat_gradient().norm()
        < 1e-3 * run_rounds(build_round(method, *ONE_TEACHER, one_strength)).flat_gradient().norm()
    )


# Who learns, and what is logged.


@pytest.fixture(scope="module", params=METHODS)
def two_rounds(request, world, tmp_path_factory):
    """Two rounds of a method: its name, parameters before, who received a gradient, the run."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = ("reward=picture_quality", "phase.score_every_n_rounds=1")
    experiment = world.build(f"mopd_{request.param}", folder, *settings)
    phase = experiment.phase
    for number, adapter in enumerate(name for name in phase.policies if name != "average"):
        randomise(phase.model, adapter, 7 + number)
    before = {name: value.clone() for name, value in phase.named_parameters()}
    received, clip = set(), phase.clip_gradient

    def watched(adapter):
        received.update(name for name, value in phase.named_parameters() if value.grad is not None)
        return clip(adapter)

    phase.clip_gradient = watched
    return request.param, before, received, run_rounds(experiment, student_seed=None)


def test_the_student_and_the_fake_score_alone_learn(two_rounds):
    method, before, received, run = two_rounds
    trained = ("student",) if method == "sft" else ("student", "fake")
    assert received == {name for name in before if any(f".{adapter}." in name for adapter in trained)}
    changed = {name for name, value in run.phase.named_parameters() if not torch.equal(value, before[name])}
    moved = {name for name in before if any(f".{a}." in name for a in (*trained, "average"))}
    assert changed == moved
    assert min(run.flat_gradient(update).norm() for update in (0, 1)) > 0


def test_student_updates_alone_are_counted(two_rounds):
    method, _, _, run = two_rounds
    saved = read_checkpoint(latest_valid_checkpoint(run.experiment.folder / "checkpoints"))
    assert len(run.gradients) == saved["global_step"] == 2
    steps = [int(next(iter(o["state"].values()))["step"]) for o in saved["optimizer_states"]]
    assert steps == {"sft": [2], "dmd": [2, 10], "tdm": [2, 2]}[method]
    held = {key.rsplit(".", 2)[1] for key in saved["state_dict"]}
    assert held == {"student", "average"} | (set() if method == "sft" else {"fake"})


def test_what_is_logged(two_rounds):
    method, _, _, run = two_rounds
    expected = {f"train/loss/{method}", "train/gradient_norm"}
    expected |= {f"train/cost/{kind}" for kind in ("images", "reward_calls", "forwards")}
    gap = "sample_gap" if method == "sft" else "score_gap"
    expected |= {f"train/{kind}/{task}" for kind in (gap, "reward") for task in TASKS}
    if method != "sft":
        expected |= {"train/loss/fake", "train/fake_gradient_norm"}
    if method == "tdm":
        expected.add("train/importance_weight")
    others = ("train/conflict/", "train/gradient_share/", "train/reward_part/")
    found = {name for name in run.metrics if not name.startswith(others)}
    assert found == expected
    assert all(math.isfinite(value) for value in run.metrics.values())
    assert run.metrics["train/cost/images"] == run.metrics["train/cost/reward_calls"] == 6


# What must not matter.


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_change_nothing(build_round, method):
    common = ["phase.score_every_n_rounds=1"]
    common += [] if method == "sft" else ["phase.fake_updates_per_round=1"]
    whole, parts = (
        run_rounds(build_round(method, *common, *more)) for more in ((), ("phase.micro_batch_size=4",))
    )
    assert relative_distance(parts.flat_gradient(), whole.flat_gradient()) < 1e-5
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-4)
    if method != "sft":
        one, other = (flat(run.phase.policies["fake"].weights().values()) for run in (parts, whole))
        assert relative_distance(one, other) < 1e-5


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="autograd keeps threads per GPU, which no fork survives"
)
@EXHAUSTIVE  # tests/phase/test_ddp.py has a distillation each time, and dmd among the slow ones
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_gradients_of_one(world, tmp_path, method):
    """Gradients through the second moments, as tdm keeps no first one; one update each."""
    saved = []
    for folder, processes in (("one", ()), ("two", FORKED)):
        settings = [*ONE_ROUND, *processes]
        settings += [] if method == "sft" else ["phase.fake_updates_per_round=1"]
        experiment = world.build(f"mopd_{method}", tmp_path / folder, *settings)
        for number, adapter in enumerate(a for a in experiment.phase.policies if a != "average"):
            randomise(experiment.phase.model, adapter, 7 + number)
        experiment.fit()
        assert experiment.trainer.world_size == (2 if processes else 1)
        saved.append(read_checkpoint(tmp_path / folder / "checkpoints" / "round_000001"))
    for one, two in zip(*(checkpoint["optimizer_states"] for checkpoint in saved), strict=True):
        moments = [flat(e["exp_avg_sq"].sqrt() for e in o["state"].values()) for o in (one, two)]
        assert moments[0].norm() > 0
        assert relative_distance(moments[1], moments[0]) < 1e-4
    weights = [flat(checkpoint["state_dict"].values()) for checkpoint in saved]
    assert relative_distance(weights[1], weights[0]) < 1e-5


def flat(tensors):
    """All of them as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


# Settings.


def test_the_best_of_several_samples_is_kept(build_round):
    """The reward is the brightness of the image; the kept sample of every row is the brightest of three."""
    experiment = build_round("sft", "phase.best_of_n=3", "phase.micro_batch_size=4", "phase.num_timesteps=1")
    phase, seen, kept = experiment.phase, [], []
    loss = phase.loss

    def brightness(images, prompts):
        value = images.mean(dim=(1, 2, 3))
        seen.append(value)
        return value

    def watched(velocity, clean, noise):
        kept.append(phase.images(clean).mean(dim=(1, 2, 3)))
        return loss(velocity, clean, noise)

    phase.reward, phase.loss = brightness, watched
    run = run_rounds(experiment)
    best = torch.cat([torch.stack(seen[:3]).amax(0), torch.stack(seen[3:]).amax(0)])
    torch.testing.assert_close(torch.cat(kept), best, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(best[:4], seen[0])
    assert run.metrics["train/cost/images"] == run.metrics["train/cost/reward_calls"] == 18


@pytest.mark.parametrize(("share", "empty_rows"), [(0.0, 0), (0.5, None), (1.0, 6)])
def test_captions_are_dropped_row_by_row(build_round, share, empty_rows):
    """Each row by its own draw; the teachers always see the prompts."""
    experiment = build_round("sft", f"phase.caption_dropout={share}", "phase.num_timesteps=1")
    phase, given = experiment.phase, []
    forward, prompts = phase.model.velocity, experiment.data.batch(0)

    def watched(latent, sigma, conditioning, adapters=None):
        if adapters == "student":
            given.append(conditioning)
        return forward(latent, sigma, conditioning, adapters)

    phase.model.velocity = watched
    experiment.fit()
    (used,) = given
    full, empty = phase.model.encode(prompts.texts), phase.model.encode([""])
    dropped = uniform_rows(0, "sft/dropout/0", 0, prompts.indices, (1,))[:, 0] < share
    assert int(dropped.sum()) == empty_rows or (empty_rows is None and 0 < dropped.sum() < 6)
    for row, drop in enumerate(dropped.tolist()):
        expected = empty.pooled[0] if drop else full.pooled[row]
        assert torch.equal(used.pooled[row], expected)


def test_exit_steps_are_uniform_over_the_range_and_one_for_all_rows(build_round, monkeypatch):
    phase = build_round("dmd", "phase.first_exit_step=6").phase
    drawn = Counter()
    for number in range(300):
        monkeypatch.setattr(type(phase), "round", number)
        drawn[phase.exit_step()] += 1
    assert set(drawn) == {6, 7, 8}
    assert min(drawn.values()) > 70  # 100 each, standard deviation 8


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("sft", ["phase.num_timesteps=0"], r"phase\.num_timesteps=0 must be"),
        ("sft", ["phase.best_of_n=0"], r"phase\.best_of_n=0 must be a whole number from 1"),
        ("sft", ["phase.sigma_scale=0"], r"phase\.sigma_scale=0 must be a number in \(0, 100\]"),
        ("sft", ["loss=opd"], r"loss=opd learns from .* choose loss=flow_matching"),
        ("dmd", ["loss=tdm"], r"loss=tdm learns from .* choose loss=dmd"),
        ("tdm", ["loss=dmd"], r"loss=dmd learns from .* choose loss=tdm"),
        (
            "dmd",
            ["phase.first_exit_step=9"],
            r"phase\.first_exit_step=9 and phase\.last_exit_step=None must be",
        ),
        ("dmd", ["phase.last_exit_step=10"], r"0 to sampler\.num_steps - 1 = 9"),
        ("dmd", ["phase.tau_max=1"], r"phase\.tau_max=1"),
        ("dmd", ["phase.fake_tau_min=1"], r"phase\.fake_tau_min=1 and phase\.fake_tau_max=1.0 must lie in"),
        (
            "dmd",
            ["phase.fake_updates_per_round=0"],
            r"phase\.fake_updates_per_round=0 must be a whole number",
        ),
        ("dmd", ["+phase.fake_optimizer.rate=1"], r"phase\.fake_optimizer\.rate is not a setting"),
        ("tdm", ["phase.num_segments=3"], r"phase\.num_segments=3 must divide sampler\.num_steps=10"),
        ("tdm", ["phase.num_segments=10"], r"segment 9 of phase\.num_segments=10 .* choose fewer segments"),
        ("tdm", ["phase.midpoint=start"], r"phase\.midpoint=start must be one of end, random"),
        ("tdm", ["phase.tau_min=0"], r"phase\.tau_min=0 must be a number in \(0, 1\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(build_round, method, settings, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        build_round(method, *settings)
