"""Names of files that one package writes and others look for."""

from __future__ import annotations

CONFIG = "config.yaml"
"""Composed config of a run or an evaluation, in its folder."""
CARD_FILE = "card.json"
"""What an adapter is and was trained on, beside its weights."""
INDEX = "model_index.json"
"""Parts of a diffusers pipeline, in its folder."""
MODEL_CONFIG = "config.json"
"""Architecture of one model, beside its weights, as diffusers and transformers write it."""
ADAPTER_CONFIG = "adapter_config.json"
"""Rank, alpha and layers of a LoRA, beside its weights, as PEFT writes it."""
