"""Settings that configs of earlier versions do not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ADDED: Mapping[str, Any] = {
    "model.embedded_guidance": None,
    "model.step_distilled": False,
    "model.attention_backend": None,
    "model.compile": False,
    "model.fused_blocks": None,
    "model.vae_tiling": False,
    "model.offload_text_encoders": False,
    "phase.figure_share": 0.0,
    "phase.copy_share": 0.0,
    "phase.same_figure_share": 0.0,
    "model.vision_tower": None,
    "phase.examples": "teacher",
    "phase.assistant": None,
    "phase.class_prompt": None,
    "phase.num_class_pictures": 100,
    "phase.prior_weight": 1.0,
    "phase.states_from": "rollout",
    "data.template": None,
    "data.rejected_key": None,
    "data.keep.path": None,
    "data.keep.prompts_per_round": 4,
    "phase.lr_schedule": "constant",
    "phase.warmup_rounds": 0,
    "balance.num_first": 1,
}
"""Settings that came later -> what they were in a run whose config does not have them."""
