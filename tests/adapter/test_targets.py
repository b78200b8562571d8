"""Each name of a layer to adapt means a layer: one that means none trains fewer layers in silence."""

from __future__ import annotations

import pytest
import torch

from diffopd.adapter import LoRA, adapter_names, add_adapter, check_start
from diffopd.adapter.lora import linear_names
from diffopd.adapter.targets import check_targets
from diffopd.model import read_transformer_config

LAYERS = [
    f"transformer_blocks.{block}.{name}"
    for block in range(2)
    for name in ("attn.to_q", "attn.to_k", "attn.to_out.0", "attn2.to_q", "ff.net.0.proj")
]


@pytest.mark.parametrize(
    "names",
    [["attn.to_q", "attn.to_k"], ["to_q"], ["transformer_blocks.1.attn.to_q"], ["attn.to_out.0", "proj"]],
)
def test_ends_of_names(names):
    check_targets(names, LAYERS, "X")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["attn.to_q", "attn.to_qk"],
            r"has 'attn\.to_qk', .* no linear layer of X ends; the nearest is attn\.to_q$",
        ),
        (["attn.to_qattn.to_k"], r"it reads like two names without a comma: attn\.to_q,attn\.to_k$"),
        (["to_q", "to_kto_q"], r"has 'to_kto_q', .* without a comma: to_k,to_q$"),
        (["attn.to_out"], r"the nearest is attn\.to_q"),
        (
            ["ttn.to_q"],
            r"has 'ttn\.to_q', .*the nearest is attn\.to_q$",
        ),  # an end of the text, not of the name
        (["transformer_blocks.7.attn.to_q"], r"the nearest is transformer_blocks\.[01]\.attn\.to_q$"),
        (["conv"], r"its layers are such as transformer_blocks\.0\.attn\.to_k$"),
        ([""], r"has '', "),
        (["attn.to_q "], r"has 'attn\.to_q ', .*the nearest is attn\.to_q$"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error(names, message):
    with pytest.raises(ValueError, match=rf"adapter\.target_modules \(model\.lora_modules unless.*{message}"):
        check_targets(names, LAYERS, "X")


def lora(*names):
    return LoRA(rank=2, alpha=4, init="gaussian", target_modules=names, start=None)


def test_both_ways_to_an_adapter_ask(tiny, model):
    """Before weights load, of the config; and where it is added, of the transformer."""
    wrong = lora("attn.to_q", "attn.to_qk")
    with pytest.raises(ValueError, match=r"has 'attn\.to_qk', .* SD3Transformer2DModel ends; the nearest"):
        check_start(wrong, read_transformer_config(str(tiny.folder)))
    with pytest.raises(ValueError, match=r"has 'attn\.to_qk', .* SD3Transformer2DModel ends; the nearest"):
        add_adapter(model.transformer, "a", wrong, torch.Generator())
    assert adapter_names(model.transformer) == ()


def test_layers_are_the_same_with_adapters_on_them(model):
    """PEFT's own inner layers (``base_layer``, ``lora_A.student``) are none of the backbone's."""
    before = linear_names(model.transformer)
    add_adapter(model.transformer, "student", lora("attn.to_q", "attn.to_out.0"), torch.Generator())
    assert linear_names(model.transformer) == before
    with pytest.raises(ValueError, match="has 'student'"):
        add_adapter(model.transformer, "b", lora("student"), torch.Generator())
