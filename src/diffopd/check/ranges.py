"""The limits of every setting that is a number, and of a few that are not.

Every number that ``conf/`` can reach is here, with two finite ends: wide enough for whatever has a meaning,
and narrow enough that a slip of the keyboard (``lr=1e10``, ``group_size=1e12``) is told at once. A test lists
all such settings and fails for one without a range.
"""

from __future__ import annotations

from collections.abc import Mapping

from diffopd.check.rule import Numbers, OneOf, Range, Rule, Text


def whole(low: int, high: int = 1_000_000, *also: object) -> Range:
    """A whole number, and single values beside it."""
    return Range(low, high, whole=True, also=also)


def above_0(high: float, *also: object) -> Range:
    """A number above 0."""
    return Range(0, high, open_low=True, also=also)


def at_least_0(high: float, *also: object) -> Range:
    """A number that may be 0."""
    return Range(0, high, also=also)


COUNT = whole(1)
SEED = whole(0, 2**32 - 1)
THREADS = whole(1, 1024)
PIXELS = whole(1, 16_384)
SHARE = at_least_0(1)
SHARE_ABOVE_0 = above_0(1)
DECAY = Range(0, 1, open_high=True)
SCALE = at_least_0(100)
"""Of classifier-free guidance; published settings end at 30."""
WEIGHT = at_least_0(1e6)
RATE = above_0(10)
"""Of learning; the largest that anyone trains with is SGD's, of about 1."""
SHIFT = above_0(100)
NOISE = at_least_0(10)
SECONDS = above_0(86_400)
PRECISION = OneOf(("fp32", "bf16", "fp16"))
BOOL = OneOf((True, False))
FALSE = OneOf((False,))

_OPTIMIZER: Mapping[str, Rule] = {
    "lr": RATE,
    "betas": Numbers(2),
    "betas.*": DECAY,
    "weight_decay": at_least_0(10),
    "eps": above_0(1, None),
    "eps.*": above_0(1, None),
    "momentum": DECAY,
    "dampening": DECAY,
    "alpha": SHARE,
    "rho": SHARE,
    "lr_decay": SHARE,
    "initial_accumulator_value": WEIGHT,
    "momentum_decay": SHARE,
    "lambd": SHARE,
    "t0": above_0(1e9),
    "etas": Numbers(2),
    "etas.*": above_0(10),
    "step_sizes": Numbers(2),
    "step_sizes.*": above_0(100),
    "beta2_decay": Range(-1, 0, open_high=True),
    "d": above_0(100),
    "ns_steps": whole(1, 99),
    "ns_coefficients": Numbers(3),
    "ns_coefficients.*": Range(-100, 100),
    "adamw_lr": RATE,
    "adamw_betas": Numbers(2),
    "adamw_betas.*": DECAY,
    # What trains upwards, or needs another loop than the phases have.
    "maximize": FALSE,
    "capturable": FALSE,
    "differentiable": FALSE,
}

LIMITS: Mapping[str, Rule] = {
    "name": Text(or_number=True),
    "run_id": Text(or_number=True),
    "paths.*": Text(),
    "seed": SEED,
    "resume": OneOf(("auto", "never")),
    "if_finished": OneOf(("report", "skip")),
    "debug": BOOL,
    "num_threads": whole(1, 1024, "auto"),
    "threads_each": whole(1, 1024, "auto"),
    "batch_size": COUNT,
    "devices": whole(1, 1024),
    "save_images": BOOL,
    "num_images": whole(1, 100_000),
    "num_shown": whole(0, 10_000),
    "running_mean": whole(1, 100_001),
    "guidance_scale": SCALE,
    "port": whole(0, 65_535),
    "max_body_mb": whole(1, 65_536),
    "max_images": COUNT,
    "max_side": whole(1, 65_536),
    "max_megapixels": COUNT,
    "max_waiting": COUNT,
    "max_waiting_megapixels": COUNT,
    "max_connections": COUNT,
    "batch_images": COUNT,
    "batch_wait": at_least_0(60),
    "timeout": SECONDS,
    "idle_timeout": SECONDS,
    "shutdown_timeout": SECONDS,
    "check_scorers": BOOL,
    "format": OneOf(("peft", "diffusers", "comfyui", "merged")),
    "whole_pipeline": BOOL,
    "compare_in_fp32": BOOL,
    "tolerance": above_0(10),
    "model_dtype": OneOf(("fp32", "bf16", "fp16", None)),
    "round": whole(1, 1_000_000_000, None),
    "seeds": whole(1, 1000),
    "num_processes": whole(1, 1024),
    "rows.*.seeds": whole(1, 1000, None),
    "rows.*.guidance.*": SCALE,
    "claims.*.level": above_0(1, None),
    "claims.*.margin": above_0(1e9, None),
    "models.*.hours": at_least_0(1e7, None),
    "hardware.micro_batch_size": whole(1, 1_000_000, None),
    "domain.training_guidance": SCALE,
    "domain.*.*lr": RATE,
    "domain.*.ema_decay": DECAY,
    "domain.*.ema_update_interval": COUNT,
    "domain.*.updates_per_round": COUNT,
    "domain.*.num_timesteps": whole(1, 1_000_000, None),
    "domain.specialist.rank": whole(1, 16_384),
    "domain.specialist.alpha": above_0(1e6),
    "domain.nft.old_policy_rate": at_least_0(1),
    "domain.guard.clip": SHARE_ABOVE_0,
    "teacher.teachers.*.path": Text(),
    "teacher.teachers.*.guidance_scale": at_least_0(100, None),
    "routing.weights.*.*": WEIGHT,
    "data.tasks.*.path": Text(),
    "data.tasks.*.prompts_per_round": whole(1, 100_000),
    "data.tasks.*.group_size": whole(1, 10_000),
    "data.num_drawings": whole(1, 100_000_000),
    "data.batches_per_round": COUNT,
    "adapter.rank": whole(1, 16_384),
    "adapter.alpha": above_0(1e6),
    "adapter.merge.weights.*": WEIGHT,
    "balance.decay": DECAY,
    "balance.largest": Range(1, 1e6),
    "balance.power": at_least_0(100),
    "balance.smallest": SHARE_ABOVE_0,
    "balance.update_every_n_rounds": COUNT,
    "regulariser.weight": above_0(1e6),
    "regulariser.guidance_scale": at_least_0(100, None),
    "states.first": whole(-1_000_000),
    "states.last": whole(-1_000_000),
    "states.size": whole(1, 1_000_000, None),
    "states.beta": Numbers(2, also=(None,)),
    "states.beta.*": Range(1, 1000),
    "loss.beta": above_0(100),
    "loss.huber_width": above_0(1e6),
    "loss.snr_clip": above_0(1e6),
    "model.*dtype": PRECISION,
    "model.image_size": PIXELS,
    "model.decode_batch_size": whole(1, 1_000_000, None),
    "model.text_length": whole(0, 65_536),
    "model.embedded_guidance": at_least_0(100, None),
    "trainer.num_threads": whole(1, 1024, "auto"),
    "trainer.max_epochs": COUNT,
    "trainer.min_epochs": whole(0, 1_000_000, None),
    "trainer.max_steps": whole(-1, 1_000_000_000),
    "trainer.min_steps": whole(0, 1_000_000_000, None),
    "trainer.devices": whole(1, 1024, -1, "auto", "-1"),
    "trainer.devices.*": whole(0, 1023),
    "trainer.num_nodes": whole(1, 100_000),
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.log_every_n_steps": COUNT,
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.check_val_every_n_epoch": whole(1, 1_000_000, None),
    "trainer.reload_dataloaders_every_n_epochs": whole(0),
    "trainer.gradient_clip_val": above_0(1e6, None),
    "trainer.limit_train_batches": above_0(1e9, None),
    "trainer.limit_val_batches": at_least_0(1e9, None),
    "trainer.limit_test_batches": at_least_0(1e9, None),
    "trainer.limit_predict_batches": at_least_0(1e9, None),
    "trainer.val_check_interval": above_0(1e9, None),
    "trainer.val_check_interval.*": whole(0, 1_000_000_000),
    "trainer.max_time.*": whole(0, 1_000_000_000),
    "trainer.overfit_batches": at_least_0(1e9),
    "trainer.fast_dev_run": whole(0, 1_000_000, True, False),
    "phase.noise_window.size": whole(1, 1_000_000, None),
    "phase.noise_window.first": whole(0),
    "phase.noise_window.last": whole(0),
    "phase.noise_levels.*": above_0(10),
    "phase.steps.*": whole(0),
    "phase.group_sizes.*": COUNT,
    "phase.gradient_clip": above_0(1e6),
    "phase.conflict_every_n_rounds": whole(0),
    "phase.score_every_n_rounds": whole(0),
    "phase.num_timesteps": whole(1, 1_000_000, None),
    "phase.updates_per_round": COUNT,
    "phase.ema.decay": DECAY,
    "phase.ema.update_interval": COUNT,
    "phase.ema_decay": DECAY,
    "phase.old_policy.decay_type": OneOf((0, 1, 2, None)),
    "phase.old_policy.start": whole(0),
    "phase.old_policy.rate": at_least_0(1),
    "phase.old_policy.cap": DECAY,
    "phase.warmup_steps": whole(0, 1_000_000_000),
    "phase.num_drawings": whole(1, 100_000_000),
    "phase.text_length": whole(0, 65_536),
    "phase.sign_share": SHARE,
    "phase.caption_dropout": SHARE,
    "phase.sigma_shift": SHIFT,
    "phase.gradient_weight": WEIGHT,
    "phase.fake_updates_per_round": whole(1, 10_000),
    "phase.first_exit_step": whole(0),
    "phase.last_exit_step": whole(0, 1_000_000, None),
    "phase.best_of_n": whole(1, 10_000),
    "phase.sigma_location": Range(-100, 100),
    "phase.sigma_scale": above_0(100),
    "phase.tau_min": Range(0, 1, open_low=True, open_high=True),
    "phase.tau_max": SHARE_ABOVE_0,
    "phase.fake_tau_min": SHARE,
    "phase.fake_tau_max": SHARE,
    "phase.tau_margin": Range(0, 1, open_low=True, open_high=True),
    "phase.tau_shift": SHIFT,
    "phase.num_segments": COUNT,
    "phase.num_draws": COUNT,
    "callbacks.finite_loss.max_skipped": COUNT,
    "callbacks.gradient_signal.num_rounds": whole(2),
    "callbacks.reward_guard.rounds_per_evaluation": COUNT,
    "callbacks.reward_guard.min_*": WEIGHT,
    "callbacks.reward_guard.patience": COUNT,
    "callbacks.round_checkpoint.every_n_rounds": COUNT,
    "callbacks.round_checkpoint.keep_last": COUNT,
    "callbacks.round_checkpoint.keep_every_n_rounds": whole(1, 1_000_000, None),
    "callbacks.round_progress.num_rounds_in_rate": COUNT,
    "callbacks.adapter_export.adapter": OneOf(("average", "student")),
    "logger.*.version": whole(0, 1_000_000_000, None, ""),
    "report.rows_per_task": whole(1, 10_000),
    "report.noise_level": above_0(10),
    "pipeline.text_tokens": whole(1, 65_536),
    "pipeline.vae.scaling_factor": above_0(1e3),
    "pipeline.vae.shift_factor": Range(-1e3, 1e3),
    "pipeline.transformer.dual_attention_layers.*": whole(0, 10_000),
    "pipeline.*.block_out_channels.*": COUNT,
    **{
        f"{place}.{key}": rule
        for place in ("optimizer", "phase.fake_optimizer")
        for key, rule in _OPTIMIZER.items()
    },
}
"""Config path (``*`` for any part) -> what it must be."""

ANYWHERE: Mapping[str, Rule] = {
    "seed": SEED,
    "batch_size": COUNT,
    "micro_batch_size": whole(1, 1_000_000, None),
    "timeout": SECONDS,
    "timeout_minutes": above_0(100_000),
    "seconds_per_line": at_least_0(86_400),
    "backoff": at_least_0(3_600),
    "retries": whole(0, 1000),
    "concurrency": whole(1, 1024),
    "images_per_request": COUNT,
    "image_size": PIXELS,
    "num_threads": THREADS,
    "num_prompts": whole(1, 100_000_000, None),
    "images_per_prompt": whole(1, 10_000),
    # Samplers.
    "num_steps": whole(1, 10_000),
    "noise_level": NOISE,
    "guidance_scale": SCALE,
    "shift": SHIFT,
    "pixels_per_token": whole(1, 1024),
    "least_tokens": whole(1),
    "most_tokens": whole(1),
    "least_mu": Range(-10, 10),
    "most_mu": Range(-10, 10),
    "terminal": Range(0, 1, open_low=True, open_high=True, also=(None,)),
    # Losses and estimators.
    "kl_weight": WEIGHT,
    "advantage_clip": above_0(1e6, None),
    "clip_low": SHARE_ABOVE_0,
    "clip_high": above_0(1e6),
    # Rewards and metrics.
    "weights.*": WEIGHT,
    "short_side": PIXELS,
    "long_side": PIXELS,
    "max_instances": whole(1, 100_000),
    "upscale": whole(1, 16),
    "line_width": PIXELS,
    "centre_width": above_0(100),
    "least_weight": above_0(100),
    "best_rms": SHARE_ABOVE_0,
    "texture": at_least_0(100),
    "accent_std": above_0(10),
    "grey_chroma": above_0(10),
    "least_energy": above_0(100),
    "shares": Numbers(4),
    "shares.*": SHARE,
    "max_residual": above_0(1000),
    "background_chroma": at_least_0(1000),
    "min_pixels": COUNT,
    "certain_overlap": SHARE_ABOVE_0,
    "least_overlap": SHARE,
    "num_features": whole(1, 100_000),
    "reference.number": whole(2, 100_000_000),
    # Sizes of a network that is made anew.
    "attention_head_dim": whole(1, 65_536),
    "caption_projection_dim": whole(1, 65_536),
    "hidden_size": whole(1, 65_536),
    "in_channels": whole(1, 65_536),
    "intermediate_size": COUNT,
    "joint_attention_dim": whole(1, 65_536),
    "latent_channels": whole(1, 65_536),
    "layers_per_block": whole(1, 1000),
    "norm_num_groups": whole(1, 65_536),
    "num_attention_heads": whole(1, 1024),
    "num_hidden_layers": whole(1, 10_000),
    "num_layers": whole(1, 10_000),
    "out_channels": whole(1, 65_536),
    "patch_size": whole(1, 1024),
    "pooled_projection_dim": whole(1, 65_536),
    "pos_embed_max_size": whole(1, 65_536),
    "projection_dim": whole(1, 65_536),
    "sample_size": PIXELS,
}
"""Ending of a config path -> what it must be wherever it is: one class stands in many places."""
