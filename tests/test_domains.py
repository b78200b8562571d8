"""What suits the embedded model comes with it; experiments hold what is the method's."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from diffopd.config.folder import config_folder

CHOSEN = {
    "mopd_ode": {"optimizer.lr": (3e-3, 3e-4), "sampler.guidance_scale": (1.0, 4.5), "adapter.rank": (32, 32)}
    | {"phase.ema.decay": (0.98, 0.9), "phase.ema.update_interval": (1, 8)},
    "mopd_dmd": {"optimizer.lr": (3e-3, 3e-4), "phase.fake_optimizer.lr": (3e-3, 3e-4)},
    "mopd_tdm": {"optimizer.lr": (6e-4, 2e-5), "phase.fake_optimizer.lr": (3e-3, 1e-4)},
    "teacher_ocr": {"optimizer.lr": (2e-3, 3e-4), "adapter.rank": (16, 32), "adapter.alpha": (32, 64)}
    | {"sampler.guidance_scale": (1.0, 1.0), "loss.kl_weight": (0.0, 1e-4), "loss.advantage_clip": (1.5, 5.0)}
    | {"reward.recognizer.detect": (False, True), "reward.recognizer.upscale": (2, 1)},
    "guard_ocr": {"optimizer.lr": (2e-3, 3e-4), "adapter.rank": (16, 32)}
    | {"sampler.guidance_scale": (1.0, 4.5)}
    | {"loss.clip_low": (1e-4, 4e-6), "phase.ema.update_interval": (1, 8)},
    "ram_ocr": {"optimizer.lr": (2e-3, 3e-4), "loss.advantage_clip": (1.5, 5.0)},
    "rvm_ocr": {"optimizer.lr": (2e-3, 3e-4), "loss.reward_scale": (0.1, 0.1)},
    "self_opd_ocr": {"optimizer.lr": (2e-3, 3e-4), "sampler.guidance_scale": (1.0, 4.5)},
    "online_dpo_ocr": {"optimizer.lr": (2e-3, 3e-4), "phase.updates_per_round": (4, 2)},
    "few_step_ocr": {"regulariser.fake_optimizer.lr": (2e-3, 3e-4), "sampler.num_steps": (4, 4)},
    "flow_grpo_ocr": {"loss.clip_low": (1e-4, 1e-4), "loss.clip_high": (1e-4, 1e-4)},
}  # fmt: skip


@pytest.mark.parametrize("experiment", CHOSEN)
def test_a_model_brings_the_settings_of_its_domain(experiment):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        for place, model in enumerate(("mini_sd3", "sd3_5_medium")):
            cfg = compose("train", overrides=[f"+experiment={experiment}", f"model={model}"])
            for path, values in CHOSEN[experiment].items():
                assert OmegaConf.select(cfg, path) == values[place], (path, model)


def test_domains_have_the_same_settings_and_a_command_line_wins():
    with initialize_config_dir(config_folder(), version_base="1.3"):
        drawn, photos = (
            compose("train", overrides=["+experiment=mopd_ode", f"domain={name}"]).domain
            for name in ("drawn", "photos")
        )
        chosen = compose("train", overrides=["+experiment=guard_ocr", "model=sd3_5_medium", "domain=drawn"])
        own = compose("evaluate", overrides=["benchmark=mini"])

    def keys(node, prefix=""):
        return {
            path
            for key, value in node.items()
            for path in (
                {f"{prefix}{key}"} if not hasattr(value, "items") else keys(value, f"{prefix}{key}.")
            )
        }

    assert keys(drawn) == keys(photos)
    assert chosen.reward.recognizer.detect is False
    assert own.benchmark.tasks.ocr.metric.reward.recognizer.detect is False
