"""Every shipped config passes; every mistake is refused with its path, its value and what is allowed."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffopd.check import ConfigError, check_config, config_errors
from diffopd.check.combination import combination_problems, loss_problems
from diffopd.check.setting import setting_problems
from diffopd.check.values import plain_values
from diffopd.config.aliases import aliases, choices
from diffopd.config.folder import config_folder
from diffopd.evaluate.settings import register_evaluation_id
from support.slow import slow_but

register_evaluation_id()  # as diffopd.evaluate does

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = choices("experiment")
FILES = [name for name in EXPERIMENTS if f"experiment/{name}" not in aliases()]
"""Experiments but those named after a task, which tests/test_aliases.py composes."""
ODE = "+experiment=mopd_ode"
GIVEN = {
    **{
        name: ["data.path=my_pictures"]
        for name in (
            "dopsd",
            "dopsd_keep",
            "sft_pairs",
            "sft_teacher_samples",
            "offpolicy_pairs",
            "pso_pairs",
            "dpo_pairs",
        )
    },
    "dreambooth_pairs": ["data.path=my_pictures", "phase.class_prompt=a dog"],
    "sft_assistant": ["data.path=my_pictures", "phase.assistant=runs/assistant/seed0/adapter"],
    "reward=custom": ["reward._target_=diffopd.reward.by_task.RewardByTask", "+reward.rewards={}"],
    "reward=hpsv2": ["reward.path=models/hpsv2"],
    "reward=hpsv3": ["reward.path=models/hpsv3"],
    "reward=lpips_nearness": ["reward.distance.path=models/lpips"],
    "reward=laion_aesthetic": ["reward.path=models/laion_aesthetic"],
    "reward=imagereward": ["reward.path=models/imagereward"],
    "reward=model_based": [
        f"reward.rewards.{name}.path=models/{name}" for name in ("hpsv2", "laion_aesthetic", "imagereward")
    ],
    "reward=pick_clip_hps": ["reward.rewards.hpsv2.path=models/hpsv2"],
}
"""Choices that need something of the user -> what."""


def problems(cfg, config_name="train"):
    values = plain_values(cfg)
    return [*loss_problems(values), *setting_problems(values, config_name), *combination_problems(values)]


@pytest.mark.parametrize("name", slow_but(EXPERIMENTS, *FILES))
def test_every_experiment_passes(composed, name):
    assert problems(composed(f"+experiment={name}", *GIVEN.get(name, []))) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "group", ["sampler", "loss", "reward", "trainer", "callbacks", "logger", "adapter", "model"]
)
def test_every_choice_of_a_group_has_known_settings(composed, group):
    for choice in choices(group):
        values = plain_values(composed(ODE, f"{group}={choice}", *GIVEN.get(f"{group}={choice}", [])))
        assert list(setting_problems(values, "train")) == [], choice


def test_the_other_commands_pass(composed):
    for benchmark in ("mini", "mini_large", "mini_ood"):
        assert problems(composed(f"benchmark={benchmark}", config_name="evaluate"), "evaluate") == []
    assert problems(composed("prompt=a circle", config_name="sample"), "sample") == []
    files = ("reward_name=hpsv2", "from=HPS_v2.1_compressed.pt", "to=models/hpsv2")
    assert problems(composed(*files, config_name="convert"), "convert") == []
    assert problems(composed("benchmark_name=mini_ood", config_name="report"), "report") == []


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "model").glob("*.yaml")))
def test_every_model_passes_by_its_name_alone(composed, name):
    assert problems(composed(ODE, f"model={name}")) == []
    assert problems(composed("prompt=x", f"model={name}", config_name="sample"), "sample") == []


def test_a_model_distilled_to_few_steps_is_not_guided(composed):
    expected = (
        "guidance_scale=4, but model.step_distilled=true: a guidance-distilled model takes no other scale; "
        "set guidance_scale=1, or load its base model with model.step_distilled=false"
    )
    for name in ("z_image_turbo", "flux2_klein"):
        cfg = composed(f"model={name}", "guidance_scale=4", config_name="evaluate")
        assert problems(cfg, "evaluate") == [expected]
        assert problems(composed(ODE, f"model={name}", "sampler.guidance_scale=4")) == [
            expected.replace("guidance_scale=4", "sampler.guidance_scale=4").replace(
                "set guidance_scale", "set sampler.guidance_scale"
            )
        ]


@pytest.mark.parametrize("noise_level", ["0", "0.3", "0.7"])
def test_the_papers_noise_sweep_passes(composed, noise_level):
    assert problems(composed(ODE, f"sampler.noise_level={noise_level}")) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+phase.rond=fused"], "of diffopd.phase.DistillPhase; did you mean phase.round?"),
        (["+sampler.steps=4"], "sampler.steps is not a setting of diffopd.sampler.FlowSampler; "),
        (["+phase.ema.deca=0.5"], "phase.ema.deca is not a setting; did you mean phase.ema.decay?"),
        (["+teacher.teachers.ocr.file=x"], "teachers.ocr.file is not a setting; it has path, guidance_scale"),
        (["+reward.rewards.ocr.recognizer.upscal=1"], "did you mean reward.rewards.ocr.recognizer.upscale?"),
        (["+callbacks.throughput.every=1"], "throughput.every is not a setting of diffopd.callbacks."),
        (["+trainer.max_epoch=3"], "of lightning.Trainer; did you mean trainer.max_epochs?"),
        (["+optimiser.lr=3"], "optimiser is not a setting of train; did you mean optimizer?"),
        (["teacher.teachers.ocr=x"], "teacher.teachers.ocr=x must be a mapping with path, guidance_scale"),
        (["~phase.round"], "phase.round is missing; diffopd.phase.DistillPhase needs it"),
        (["model=flux1_dev", "+model.shift.last=1"],
         "model.shift.last is not a setting of diffopd.flow.ResolutionShift"),
        (["model=flux1_dev", "model.shift.terminal=none"],
         "model.shift.terminal=none must be a number or null"),
        (["model.compile=yes please"], "model.compile=yes please must be true or false"),
        (["~sampler.shift"], "sampler.shift is missing; diffopd.sampler.FlowSampler needs it"),
        (["~phase.ema.decay"], "phase.ema.decay is missing"),
        (["trainer.max_epochs=???"], "is required and has no value; give it as trainer.max_epochs="),
        (["loss._target_=diffopd.loss.OPDD"], "there is no OPDD in diffopd.loss; did you mean diffopd.loss."),
        (["logger.csv._target_=nowhere.Log"], "logger.csv._target_=nowhere.Log: nowhere is not installed"),
        (["phase.round=fusd"], "phase.round=fusd must be one of fused, two_pass; did you mean fused?"),
        (["states.size=few"], "states.size=few must be a whole number or null"),
        (["phase.step_reduction=max"], "phase.step_reduction=max must be one of mean, sum"),
        (["phase.task_reduction=null"], "phase.task_reduction=null must be one of mean, sum"),
        (["phase.micro_batch_size=many"], "phase.micro_batch_size=many must be a whole number or null"),
        (["phase.micro_batch_size=0"],
         "micro_batch_size=0 must be a whole number from 1 to 1000000, or null"),
        (["phase.gradient_clip=0"], "phase.gradient_clip=0 must be a number in (0, 1000000]"),
        (["phase.gradient_clip=inf"], "phase.gradient_clip=inf must be a number in (0, 1000000]"),
        (["phase.score_every_n_rounds=-1"],
         "score_every_n_rounds=-1 must be a whole number from 0 to 1000000"),
        (["phase.ema.decay=2"], "phase.ema.decay=2 must be a number in [0, 1)"),
        (["resume=maybe"], "resume=maybe must be one of auto, never"),
        (["seed=-1"], "seed=-1 must be a whole number from 0 to 4294967295"),
        (["trainer.num_threads=0"], "trainer.num_threads=0 must be a whole number from 1 to 1024, or auto"),
        (["trainer.precision=33"], "trainer.precision=33 must be one of 64, 32, 16, "),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0 must be a whole number from 1 to 1000000"),
        (["optimizer.lr=-1"], "optimizer.lr=-1 must be a number in (0, 10]"),
        (["optimizer.betas=[0.9,1]"], "optimizer.betas.1=1 must be a number in [0, 1)"),
        (["model.vae_dtype=fp64"], "model.vae_dtype=fp64 must be one of fp32, bf16, fp16"),
        (["adapter.target_modules=attn.to_q"], "adapter.target_modules=attn.to_q must be a list"),
        (["callbacks.adapter_export.adapter=averag"], "one of average, student; did you mean average?"),
        (["~loss"], "DistillPhase needs a loss and none is chosen; choose one with +loss=... (clean_l2"),
        (["~data"], "no data is chosen; start from an experiment, +experiment=... (`diffopd experiments`"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(composed, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(composed(ODE, *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([ODE, "loss=reverse_kl"],
         "loss=reverse_kl is a KL divergence, which is infinite between transitions without noise, but "
         "sampler.noise_level=0 makes every transition of FlowSampler deterministic; choose loss=opd, "
         "which uses Eq. 12 there, or sampler.noise_level=0.7"),
        ([ODE, "loss=reverse_kl_released", "sampler=dpm2"], "or sampler=flow sampler.noise_level=0.7"),
        ([ODE, "loss=reverse_kl", "sampler=ddim", "sampler.noise_level=0.5", "states=all"],
         "step 9 (counted from 0) of DDIMSampler's 10 has none; choose states=all_but_last, or loss=opd"),
        ([ODE, "estimator=ppo"],
         "estimator=ppo weighs the density of the drawn state, which a transition without noise does not "
         "have, but sampler.noise_level=0 makes every transition of FlowSampler deterministic; choose "
         "estimator=closed_form, or sampler.noise_level=0.7"),
        ([ODE, "states=window", "sampler.num_steps=4"],
         "states.first=0 to states.last=4 leaves nothing to train with sampler.num_steps=4: steps are 0 to"),
        ([ODE, "states=subset", "states.size=12"], "states.size=12 is more than the 9 steps from"),
        ([ODE, "regulariser=anchor", "loss@regulariser.loss=reverse_kl"],
         "loss@regulariser.loss=reverse_kl is a KL divergence"),
        ([ODE, "routing=mixture", "+routing.weights.ocr.sings=1"],
         "routing.weights.ocr.sings names a teacher that does not exist; teacher.teachers has composition"),
        ([ODE, "phase.updates_per_round=2"],
         "phase.updates_per_round=2 needs phase.round=two_pass: a fused round computes the loss during "
         "the rollout, for one update"),
        ([ODE, "loss=diffusion_nft"],
         "loss=diffusion_nft learns from advantages of rewards, but phase=distill trains on a teacher's "
         "velocities; choose loss=opd"),
        (["+experiment=teacher_ocr", "loss=opd"],
         "loss=opd learns from a teacher's velocities, but phase=nft trains on advantages of rewards; "
         "choose loss=diffusion_nft"),
        ([ODE, "data.prompt_filter.min_range=0.1"],
         "data.prompt_filter.min_range=0.1 goes by rewards within groups, and phase=distill compares none"),
        (["+experiment=teacher_ocr", "data.prompt_filter.min_range=0.1", "data.tasks.ocr.group_size=1"],
         "needs several samples of a prompt, and data.tasks.ocr.group_size=1 makes one of ocr's"),
        ([ODE, "model=flux2_klein", "phase.loss_guidance_scale=2"],
         "phase.loss_guidance_scale=2, but model.step_distilled=true"),
        (["+experiment=self_opd", "sampler.noise_level=0"],
         "loss=self_opd draws branches by the noise of a transition, but sampler.noise_level=0"),
        (["+experiment=self_opd", "loss=diffusion_nft"],
         "phase=self_opd trains on finished branches of visited states; choose loss=self_opd"),
        ([ODE, "teacher=ocr"],
         "data.tasks has composition, for which there is no teacher; teacher.teachers has ocr. "
         "Add teacher.teachers.composition, or remove the task with ~data.tasks.composition"),
        ([ODE, "~reward.rewards.ocr"], "data.tasks has ocr, for which there is no reward; reward.rewards"),
        ([ODE, "sampler.num_steps=1"], "states.last=-2 leaves nothing to train with sampler.num_steps=1"),
        (["+experiment=guard_ocr", "sampler.num_steps=1"],
         "phase.train_steps=all_but_last leaves nothing to train"),
        (["+experiment=teacher_ocr", "phase.num_timesteps=10"],
         "phase.num_timesteps=10 must be from 1 to sampler.num_steps - 1 = 9"),
        (["+experiment=teacher_ocr", "phase.num_timesteps=6"],
         "phase.num_timesteps=6 must be a multiple of phase.updates_per_round=4"),
        (["+experiment=teacher_ocr", "phase.num_timesteps=null"],
         "phase.num_timesteps=null, that is sampler.num_steps - 1 = 9, must be a multiple"),
        (["+experiment=teacher_ocr", "report=distillation"],
         "report=distillation cannot report a run of phase=nft, which takes no teacher; leave "
         "the report out with ~report, or choose another (distillation, gradient_variance, teacher)"),
        ([ODE, "report=gradient_variance"],
         "report=gradient_variance cannot report a run of phase=distill, which is no measurement"),
        (["+experiment=mini_pretrain", "+report=teacher"],
         "report=teacher cannot report a run of phase=pretrain, which takes no model"),
        ([ODE, "trainer=ddp", "trainer.devices=3"],
         "data.tasks.composition.prompts_per_round=4 must be a multiple of the number of processes, "
         "trainer.devices=3 times 1 node"),
    ],
)  # fmt: skip
def test_combinations_that_are_refused(composed, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(composed(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=reverse_kl", "sampler.noise_level=0.7"],
        # The last, noiseless step is not trained.
        ["loss=reverse_kl", "sampler=ddim", "sampler.noise_level=0.5"],
        # Which steps have noise does not matter to a loss that needs none.
        ["loss=ode_l2", "sampler=dpm1"],
    ],
)
def test_sound_combinations_pass(composed, overrides):
    assert problems(composed(ODE, *overrides)) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+experiment=teacher_ocr", "teacher=mopd"],
            "teacher=mopd has no effect: phase=nft takes no teacher; leave it out, or choose an experiment "
            "of a phase that does (distill, dmd, gradient_variance, sft, tdm)",
        ),
        (["+experiment=mini_pretrain", "sampler=cps"], "sampler=cps has no effect: phase=pretrain takes no"),
        (["+experiment=mopd_dmd", "+routing=mixture"], "+routing=mixture has no effect: phase=dmd takes no"),
    ],
)
def test_a_choice_that_was_typed_and_is_not_used_is_an_error(composed, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(composed(*overrides), "train", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["+experiment=teacher_ocr"],  # whose task brings a teacher that it leaves out
        ["+experiment=mopd_ode", "teacher=mopd", "sampler=cps", "model=mini_sd3", "hardware=none"],
        ["+experiment=teacher", "task=ocr", "sampler.num_steps=10", "~report", "domain=drawn"],
    ],
)
def test_what_is_used_may_be_typed(composed, overrides):
    check_config(composed(*overrides), "train", overrides)


def test_a_choice_that_another_part_refers_to_is_used(composed):
    overrides = ["+experiment=mini_pretrain", "sampler=cps", "++data.seed=${sampler.num_steps}"]
    check_config(composed(*overrides), "train", overrides)


def test_a_samplers_own_refusal_is_a_config_error(composed):
    with pytest.raises(ConfigError, match=r"sampler.noise_level must be 0 for DPM1Sampler"):
        check_config(composed(ODE, "sampler=dpm1", "sampler.noise_level=0.7", "loss=reverse_kl"))


def test_a_reference_that_leads_nowhere(composed):
    with pytest.raises(ConfigError, match=re.escape("sampler.noise_level=${nope} leads nowhere")):
        check_config(composed(ODE, "sampler.noise_level=${nope}"))


def test_all_problems_come_in_one_message(composed):
    with pytest.raises(ConfigError) as refused:
        check_config(composed(ODE, "phase.round=x", "resume=x"))
    assert [line.partition("=")[0] for line in str(refused.value).splitlines()] == ["resume", "phase.round"]


def test_config_errors_pass_on_what_no_config_causes():
    with pytest.raises(KeyError), config_errors():
        raise KeyError("bug")
    with pytest.raises(ConfigError, match=r"^loss.reduction must be one of"), config_errors():
        instantiate({"_target_": "diffopd.loss.OPD", "reduction": "max", "normalize": False})
    # A class that trips over its own arguments is a bug of the class.
    node = {"_target_": "diffopd.loss.DiffusionNFT", "beta": [], "kl_weight": 1, "advantage_clip": 1}
    with pytest.raises(InstantiationException, match="Error in call to target"), config_errors():
        instantiate(node)


def test_files_that_cannot_be_read_are_told_without_a_traceback(tmp_path):
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/absent.json: No such file"), config_errors():
        (tmp_path / "absent.json").read_text()
    with pytest.raises(ConfigError, match="Is a directory"), config_errors():
        tmp_path.read_text()
    for error, told in (
        (OSError("Error no file named model.safetensors"), True),  # as transformers says it
        (OSError(errno.ENOSPC, "No space left on device"), False),  # told as what it is by the command
    ):
        instantiation = InstantiationException("Error in call to target 'diffopd.model.SD3Model'")
        instantiation.__cause__ = error
        expected = ConfigError if told else InstantiationException
        with pytest.raises(expected, match="no file named" if told else "Error in call"), config_errors():
            raise instantiation


@pytest.mark.slow
def test_settings_are_refused_without_heavy_imports():
    script = f"""
import sys
from hydra import compose, initialize_config_dir
from diffopd.check import ConfigError, check_config
with initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    cfg = compose("train", overrides=[{ODE!r}, "+phase.rond=fused"])
try:
    check_config(cfg)
except ConfigError:
    print([m for m in ("torch", "lightning", "diffusers", "transformers", "peft") if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def checked_report(*overrides):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        check_config(compose("report", overrides=list(overrides)), "report", list(overrides))


@pytest.mark.parametrize("name", ["figures", "noise", "table1", "none"])
def test_claims_can_be_tested(name):
    """A margin may be a share, and the default test is one of those that there are."""
    checked_report(f"claims={name}")


def test_a_margin_that_is_no_share_is_refused():
    with pytest.raises(ConfigError, match=r"margin=ten must be a number .* or a share such as 10 %"):
        checked_report("claims.opd_speed_dmd.margin=ten")
