"""Every key of a file is understood, or the error names the first that is not, and says what it is."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from diffopd.adapter import adapter_parameters, load_adapter
from support.tiny_transformers import BUILDERS, flux, sd3

ONE, DOWN, UP = torch.ones(1), torch.ones(4, 16), torch.ones(16, 4)


def file_of(folder, tensors):
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def good(prefix, name):
    """One layer of 16 inputs and outputs."""
    stem = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
    return {f"{stem}.lora_down.weight": DOWN, f"{stem}.lora_up.weight": UP}


def error_of(transformer, path):
    with pytest.raises(ValueError, match=r"teacher\.path=.*x\.safetensors") as caught:
        load_adapter(transformer, "teacher", path, setting="teacher.path")
    assert not getattr(transformer, "peft_config", {})
    return str(caught.value)


FLUX_KOHYA = good("lora_unet_", "double_blocks.0.img_attn.proj")
FLUX_COMFYUI = good("diffusion_model.", "double_blocks.0.img_attn.proj")
SD3_DIFFUSERS = good("transformer.", "transformer_blocks.0.attn.to_q")
EXPECTED = (
    "a plain LoRA has, per layer, <layer>.lora_A.weight and <layer>.lora_B.weight (or lora_down and lora_up)"
)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj.dora_scale", "a magnitude of DoRA"),
        ("lora_unet_double_blocks_0_img_mlp_0.lokr_w1", "a factor of LoKr"),
        ("lora_unet_double_blocks_0_img_mlp_0.hada_w1_a", "a factor of LoHa"),
        ("lora_unet_double_blocks_0_img_mlp_0.oft_blocks", "a rotation of OFT"),
        ("lora_unet_double_blocks_0_img_mlp_0.oft_R.weight", "a rotation of OFT"),
        ("lora_unet_double_blocks_0_img_mlp_0.a1.weight", "a factor of GLoRA"),
        (
            "lora_unet_double_blocks_0_img_mlp_0.lora_mid.weight",
            "the factor of a convolution or an embedding",
        ),
        ("lora_unet_double_blocks_0_img_mlp_0.diff", "the full change of a weight"),
        ("diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff", "the full change of a weight"),
        ("diffusion_model.double_blocks.0.img_attn.proj.diff_b", "a bias or the change of one"),
        ("diffusion_model.double_blocks.0.img_attn.proj.lora_B.bias", "a bias or the change of one"),
        ("diffusion_model.double_blocks.0.img_mlp.0.set_weight", "a replaced or reshaped weight"),
        ("diffusion_model.double_blocks.0.img_mlp.0.weight", "a whole weight"),
        ("diffusion_model.double_blocks.0.img_attn.proj.lora_magnitude_vector", "a magnitude of DoRA"),
        ("bundle_emb.<token>.clip_l", "a trained embedding of a prompt's token"),
        ("double_blocks.0.img_attn.proj.something", "not known"),
    ],
)
@pytest.mark.parametrize("others", [FLUX_KOHYA, FLUX_COMFYUI])
def test_a_key_that_is_no_plain_lora(tmp_path, others, key, what):
    """Some of these diffusers' converters leave out, others end them: here each is told by its own name."""
    message = error_of(flux(), file_of(tmp_path, {**others, key: ONE}))
    assert f"x.safetensors is not a plain LoRA: {key} is {what}; {EXPECTED}" in message


@pytest.mark.parametrize(
    "key",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "clip_l.encoder.layers.0.mlp.fc1.lora_A.weight",
        "t5.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "t5xxl.encoder.block.0.layer.0.SelfAttention.q.alpha",
    ],
)
@pytest.mark.parametrize("others", [FLUX_KOHYA, FLUX_COMFYUI, {}])
def test_a_text_encoder(tmp_path, others, key):
    message = error_of(flux(), file_of(tmp_path, {**others, key: ONE}))
    assert f"x.safetensors also changes a text encoder ({key}); prompts are encoded once" in message


@pytest.mark.parametrize(
    "key",
    [
        "transformer.a_layer.lora_A.weight",  # all others vanish in diffusers' converter of FLUX.1
        "transformer.transformer_blocks.7.attn.to_q.lora_A.weight",
        "lora_unet_double_blocks_0_img_attn_norm_key_norm.lora_down.weight",
        "lora_unet_double_blocks_7_img_attn_qkv.lora_down.weight",
        "a_layer_of_some_other_program.lora_A.weight",
        "diffusion_model.patch_embedding.alpha",
    ],
)
@pytest.mark.parametrize("others", [FLUX_KOHYA, FLUX_COMFYUI])
def test_a_key_of_no_layer_beside_others(tmp_path, others, key):
    value = ONE if key.endswith(".alpha") else DOWN
    message = error_of(flux(), file_of(tmp_path, {**others, key: value}))
    assert (
        f"x.safetensors: {key} names no linear layer of this model's FluxTransformer2DModel, while" in message
    )
    assert f"such as {min(others)}; the file was made for another or a larger model than" in message
    assert EXPECTED in message


@pytest.mark.parametrize(
    "name",
    [
        "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.lin",
        "single_stream_modulation.lin",
        "final_layer.adaLN_modulation.1",
        "final_layer.linear",
        "guidance_in.in_layer",
    ],
)
def test_flux2_layers_that_diffusers_converter_of_kohyas_files_drops(tmp_path, name):
    """Read, not dropped; a file of such a layer alone holds as many layers as it says."""
    transformer = BUILDERS["flux2"]()
    outputs = {"double": 96, "single": 48, "final_layer.a": 32}
    rows = next((rows for start, rows in outputs.items() if name.startswith(start)), 16)
    stem = f"lora_unet_{name.replace('.', '_')}"
    down = torch.ones(4, 8 if "guidance" in name else 16)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": torch.ones(rows, 4)}
    load_adapter(transformer, "teacher", file_of(tmp_path, tensors))
    assert len(adapter_parameters(transformer, "teacher")) == 2


def test_another_architecture(tmp_path):
    key = min(FLUX_KOHYA)
    message = error_of(sd3(), file_of(tmp_path, FLUX_KOHYA))
    assert (
        f"x.safetensors: {key} names no linear layer of this model's SD3Transformer2DModel (such as "
        "transformer_blocks.1.norm1_context.linear), nor does any other key; the file was made for another"
    ) in message


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (
            {"transformer.transformer_blocks.1.attn.to_q.lora_A.weight": DOWN},
            "layer transformer.transformer_blocks.1.attn.to_q has {'.lora_A.weight': (4, 16)}; it needs the",
        ),
        (
            {"transformer.transformer_blocks.1.attn.to_q.alpha": ONE},
            "layer transformer.transformer_blocks.1.attn.to_q has {}; it needs the two matrices",
        ),
        (
            {
                "transformer.transformer_blocks.1.attn.to_q.lora_A.weight": DOWN[..., None, None],
                "transformer.transformer_blocks.1.attn.to_q.lora_B.weight": UP,
            },
            "has {'.lora_A.weight': (4, 16, 1, 1), '.lora_B.weight': (16, 4)}; it needs the two matrices",
        ),
        (
            {"transformer.transformer_blocks.0.attn.to_q.alpha": torch.tensor(torch.nan)},
            "transformer_blocks.0.attn.to_q has alpha nan; one finite number above 0 is",
        ),
        (
            {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": DOWN},
            "transformer.transformer_blocks.0.attn.to_q.lora_down.weight is the second .lora_A.weight of",
        ),
        (
            {"transformer.transformer_blocks.1.attn.to_q.lora_A.weight": DOWN[:0],
             "transformer.transformer_blocks.1.attn.to_q.lora_B.weight": UP[:, :0],
             "transformer.transformer_blocks.1.attn.to_q.alpha": ONE},
            "layer transformer.transformer_blocks.1.attn.to_q has rank 0",
        ),
        (
            {"joint_blocks.0.x_block.attn.qkv.lora_A.weight": DOWN,
             "joint_blocks.0.x_block.attn.qkv.lora_B.weight": torch.ones(36, 4)},
            "joint_blocks.0.x_block.attn.qkv has 36 rows in .lora_B.weight, the layers transformer_blocks.0."
            "attn.to_q, transformer_blocks.0.attn.to_k, transformer_blocks.0.attn.to_v of this model have 48",
        ),
    ],
)  # fmt: skip
def test_a_layer_that_is_not_whole(tmp_path, added, message):
    assert message in error_of(sd3(), file_of(tmp_path, {**SD3_DIFFUSERS, **added}))


def test_a_layer_that_two_prefixes_name_is_told_by_both(tmp_path):
    again = {
        key.replace("transformer.", "diffusion_model.", 1): 2 * value for key, value in SD3_DIFFUSERS.items()
    }
    message = error_of(sd3(), file_of(tmp_path, {**SD3_DIFFUSERS, **again}))
    assert "changes layer transformer_blocks.0.attn.to_q twice and differently, as " in message
    for stem in ("transformer", "diffusion_model"):
        assert f"as {stem}.transformer_blocks.0.attn.to_q" in message


def test_two_adapters_in_one_file(tmp_path):
    tensors = {
        f"transformer_blocks.{block}.attn.to_q.lora_{part}.{name}.weight": DOWN if part == "A" else UP
        for block, name in enumerate(("cat", "dog"))
        for part in "AB"
    }
    message = error_of(sd3(), file_of(tmp_path, tensors))
    assert (
        "holds two adapters, that of transformer_blocks.0.attn.to_q.lora_A.cat.weight and that of" in message
    )


@pytest.mark.parametrize("key", ["img_attn.norm.key_norm.diff", "img_attn.proj.diff_b"])
def test_a_change_by_zeros_is_none(tmp_path, key):
    tensors = {**FLUX_COMFYUI, f"diffusion_model.double_blocks.0.{key}": torch.zeros(16)}
    transformer = flux()
    load_adapter(transformer, "teacher", file_of(tmp_path, tensors))
    assert list(adapter_parameters(transformer, "teacher")) == [
        f"transformer_blocks.0.attn.to_out.0.lora_{part}.weight" for part in "AB"
    ]


def test_a_file_without_keys(tmp_path):
    assert f"x.safetensors holds no factors of a LoRA; {EXPECTED}" in error_of(sd3(), file_of(tmp_path, {}))
