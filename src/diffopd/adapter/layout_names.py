"""What the programs that write LoRA files call the layers of each family's transformer.

diffusers' own names are one set, those of the authors' release the other; the files of kohya, ComfyUI and
OneTrainer use one of the two. A layer of a release may be several of diffusers', one after another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_WRAPPERS = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "_orig_mod.",
    "module.",
    "pipe.dit.",
    "unet.",
)
"""What may stand before a layer's dotted name, several at once too."""
_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What stands before a name whose dots are underscores: kohya, OneTrainer, LyCORIS."""
_CUT = "sformer_blocks."
"""What some exports of FLUX.2 left of ``transformer.transformer_blocks.``."""
_BLOCK = ".N."

_Names = dict[str, str]
_SD3: _Names = {
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "joint_blocks.N.x_block.attn.qkv": "transformer_blocks.N.attn.{to_q,to_k,to_v}",
    "joint_blocks.N.x_block.attn.proj": "transformer_blocks.N.attn.to_out.0",
    "joint_blocks.N.x_block.attn2.qkv": "transformer_blocks.N.attn2.{to_q,to_k,to_v}",
    "joint_blocks.N.x_block.attn2.proj": "transformer_blocks.N.attn2.to_out.0",
    "joint_blocks.N.x_block.mlp.fc1": "transformer_blocks.N.ff.net.0.proj",
    "joint_blocks.N.x_block.mlp.fc2": "transformer_blocks.N.ff.net.2",
    "joint_blocks.N.x_block.adaLN_modulation.1": "transformer_blocks.N.norm1.linear",
    "joint_blocks.N.context_block.attn.qkv": "transformer_blocks.N.attn.{add_q_proj,add_k_proj,add_v_proj}",
    "joint_blocks.N.context_block.attn.proj": "transformer_blocks.N.attn.to_add_out",
    "joint_blocks.N.context_block.mlp.fc1": "transformer_blocks.N.ff_context.net.0.proj",
    "joint_blocks.N.context_block.mlp.fc2": "transformer_blocks.N.ff_context.net.2",
    "joint_blocks.N.context_block.adaLN_modulation.1": "transformer_blocks.N.norm1_context.linear",
}
_FLUX_ATTENTION: _Names = {
    "double_blocks.N.img_attn.qkv": "transformer_blocks.N.attn.{to_q,to_k,to_v}",
    "double_blocks.N.img_attn.proj": "transformer_blocks.N.attn.to_out.0",
    "double_blocks.N.txt_attn.qkv": "transformer_blocks.N.attn.{add_q_proj,add_k_proj,add_v_proj}",
    "double_blocks.N.txt_attn.proj": "transformer_blocks.N.attn.to_add_out",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_FLUX: _Names = {
    **_FLUX_ATTENTION,
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "double_blocks.N.img_mlp.0": "transformer_blocks.N.ff.net.0.proj",
    "double_blocks.N.img_mlp.2": "transformer_blocks.N.ff.net.2",
    "double_blocks.N.img_mod.lin": "transformer_blocks.N.norm1.linear",
    "double_blocks.N.txt_mlp.0": "transformer_blocks.N.ff_context.net.0.proj",
    "double_blocks.N.txt_mlp.2": "transformer_blocks.N.ff_context.net.2",
    "double_blocks.N.txt_mod.lin": "transformer_blocks.N.norm1_context.linear",
    "single_blocks.N.linear1": "single_transformer_blocks.N.{attn.to_q,attn.to_k,attn.to_v,proj_mlp}",
    "single_blocks.N.linear2": "single_transformer_blocks.N.proj_out",
    "single_blocks.N.modulation.lin": "single_transformer_blocks.N.norm.linear",
    # XLabs names the attention processors that hold the factors.
    "double_blocks.N.processor.qkv_lora1": "transformer_blocks.N.attn.{to_q,to_k,to_v}",
    "double_blocks.N.processor.proj_lora1": "transformer_blocks.N.attn.to_out.0",
    "double_blocks.N.processor.qkv_lora2": "transformer_blocks.N.attn.{add_q_proj,add_k_proj,add_v_proj}",
    "double_blocks.N.processor.proj_lora2": "transformer_blocks.N.attn.to_add_out",
    "single_blocks.N.processor.qkv_lora": "single_transformer_blocks.N.attn.{to_q,to_k,to_v}",
    "single_blocks.N.processor.proj_lora": "single_transformer_blocks.N.proj_out",
}
_FLUX2: _Names = {
    **_FLUX_ATTENTION,
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "double_blocks.N.img_mlp.0": "transformer_blocks.N.ff.linear_in",
    "double_blocks.N.img_mlp.2": "transformer_blocks.N.ff.linear_out",
    "double_blocks.N.txt_mlp.0": "transformer_blocks.N.ff_context.linear_in",
    "double_blocks.N.txt_mlp.2": "transformer_blocks.N.ff_context.linear_out",
    "single_blocks.N.linear1": "single_transformer_blocks.N.attn.to_qkv_mlp_proj",
    "single_blocks.N.linear2": "single_transformer_blocks.N.attn.to_out",
}
_Z_IMAGE: _Names = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    **{
        f"{blocks}.N.attention.{original}": f"{blocks}.N.attention.{ours}"
        for blocks in ("layers", "noise_refiner", "context_refiner")
        for original, ours in (("qkv", "{to_q,to_k,to_v}"), ("out", "to_out.0"))
    },
}
RELEASED: Mapping[str, _Names] = {
    "SD3Transformer2DModel": _SD3,
    "FluxTransformer2DModel": _FLUX,
    "Flux2Transformer2DModel": _FLUX2,
    "ZImageTransformer2DModel": _Z_IMAGE,
    "QwenImageTransformer2DModel": {},  # released under diffusers' names
}
"""Transformer -> a layer's name in the authors' release -> in diffusers.

``N`` is a block's number. Braces list the layers that the release joins into one.
"""


@dataclass(frozen=True)
class Module:
    """What a file's name of a layer stands for in the model.

    Attributes:
        name: That name, without what stands before it.
        layers: diffusers' layers, whose outputs lie one after another in it.
        swapped: Whether the first half of its outputs is diffusers' second.
    """

    name: str
    layers: tuple[str, ...]
    swapped: bool = False

    @property
    def is_diffusers(self) -> bool:
        """Whether it is one of diffusers' layers under diffusers' name."""
        return self.layers == (self.name,)


class LayerNames:
    """Finds the layers that a name in a file stands for.

    Args:
        family: Class of the model's transformer.
        layers: Its linear layers with the width of their input and output.

    Attributes:
        example: One of them, for messages.
    """

    def __init__(self, family: str, layers: Mapping[str, tuple[int, int]]) -> None:
        self.example = max(layers, default="none")
        self._dotted = {layer: Module(layer, (layer,)) for layer in layers}
        for original, ours in RELEASED.get(family, {}).items():
            for number in _numbers(ours, layers):
                module = _module(original, ours, number, layers)
                if module is not None:
                    self._dotted.setdefault(module.name, module)
        self._underscored = {name.replace(".", "_"): module for name, module in self._dotted.items()}

    def find(self, name: str) -> Module | None:
        """The module that ``name``, a key without its ending, stands for, or None."""
        for prefix in _UNDERSCORED:
            if name.startswith(prefix):
                return self._underscored.get(name.removeprefix(prefix))
        while name not in self._dotted:
            if name.startswith(_CUT):
                name = name.replace(_CUT, "transformer_blocks.", 1)
                continue
            wrapper = next((wrapper for wrapper in _WRAPPERS if name.startswith(wrapper)), None)
            if wrapper is None:
                return None
            name = name.removeprefix(wrapper)
        return self._dotted[name]


def _numbers(ours: str, layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """Numbers of the blocks that a name with ``N`` may have; one empty string for a name without."""
    blocks, found, _ = ours.partition(_BLOCK)
    if not found:
        return [""]
    pattern = re.compile(rf"{re.escape(blocks)}\.(\d+)\.")
    return sorted({match[1] for layer in layers if (match := pattern.match(layer))}, key=int)


def _module(original: str, ours: str, number: str, layers: Mapping[str, tuple[int, int]]) -> Module | None:
    """One row of a table for one block, or None if the model lacks the layers."""
    original, ours = (name.replace(_BLOCK, f".{number}.") for name in (original, ours))
    head, _, parts = ours.partition("{")
    names = tuple(head + part for part in parts.removesuffix("}").split(","))
    if any(name not in layers for name in names):
        return None
    return Module(original, names, swapped=_swapped(names[0], layers[names[0]]))


def _swapped(layer: str, widths: tuple[int, int]) -> bool:
    """A norm of one shift and one scale: releases compute the shift first, diffusers the scale."""
    is_pair = widths[1] == 2 * widths[0]
    return is_pair and layer.endswith(("norm_out.linear", "norm1_context.linear"))
