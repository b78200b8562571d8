"""Teachers that others made: LoRA files without a card, and whole fine-tuned transformers."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from diffopd.adapter import LoRA, add_adapter, load_adapter, save_adapter, set_trainable
from diffopd.loss import VelocityUniform
from diffopd.model import SD3Model, guided_velocity, read_transformer_config
from diffopd.model.backbones import Backbones
from diffopd.teacher import Anchor, TeacherSet, check_frozen, load_frozen
from diffopd.types import Prompts
from support.tiny_pipelines import TWO_PROJECTIONS

ROWS = Prompts(("a cat", "a dog"), ("animals",) * 2, ({},) * 2, (0, 1), (0, 1))


@pytest.fixture(scope="session")
def tuned(tiny, tmp_path_factory):
    """A whole transformer that was trained further, saved by diffusers itself, and what it is in memory."""
    transformer = tiny.load_stock().transformer
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("tuned") / "transformer"
    transformer.save_pretrained(folder)
    return folder, transformer.eval()


@pytest.fixture(scope="session")
def lora_file(tiny, tmp_path_factory):
    """A LoRA by itself, in diffusers' layout: the first block's queries; nothing names a guidance."""
    layer, generator = "transformer.transformer_blocks.0.attn.to_q", torch.Generator().manual_seed(2)
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(4, 16, generator=generator),
        f"{layer}.lora_B.weight": torch.randn(16, 4, generator=generator),
    }
    file = tmp_path_factory.mktemp("lora") / "ocr.safetensors"
    save_file(tensors, file)
    return file


def teachers_of(entries, check_base=True):
    return TeacherSet(
        teachers={
            task: {"path": str(path), "guidance_scale": scale} for task, (path, scale) in entries.items()
        },
        check_base=check_base,
    )


def states(model, count=4):
    generator = torch.Generator().manual_seed(4)
    latent = torch.randn(count, *model.latent_shape, generator=generator)
    conditioning = model.encode([f"a cat {'x' * row}" for row in range(count)])
    return latent, torch.linspace(0.9, 0.2, count), conditioning


@torch.no_grad()
def guided(transformer, model, latent, sigma, conditioning, scale):
    """Classifier-free guidance written out, by a stock transformer."""
    empty = model.unconditional()
    rows = len(latent)
    with_prompt, without = (
        transformer(latent, embeds, pooled, 1000 * sigma).sample
        for embeds, pooled in (
            (conditioning.embeds, conditioning.pooled),
            (empty.embeds.expand(rows, -1, -1), empty.pooled.expand(rows, -1)),
        )
    )
    return without + scale * (with_prompt - without)


def test_a_whole_transformer_and_a_lora_teach_rows_of_one_batch(model, tiny, tuned, lora_file):
    folder, transformer = tuned
    teachers = teachers_of({"whole": (folder, 3.0), "ocr": (lora_file, 2.0)})
    teachers.check(read_transformer_config(str(tiny.folder)))
    teachers.load(model)
    latent, sigma, conditioning = states(model)
    tasks = ["whole", "ocr", "whole", "ocr"]
    given = (latent, sigma, tasks, conditioning, model.unconditional())
    found = teachers.velocity(model, *given)
    stock = tiny.load_stock().transformer
    tensors = load_file(lora_file)
    stem = "transformer.transformer_blocks.0.attn.to_q.lora_"
    with torch.no_grad():
        stock.transformer_blocks[0].attn.to_q.weight += (
            tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"]
        )
    for row, expected in ((0, transformer), (1, stock), (2, transformer), (3, stock)):
        one = (latent[row : row + 1], sigma[row : row + 1], conditioning.select([row]))
        value = guided(expected, model, *one, teachers.guidance_scales[tasks[row]])
        torch.testing.assert_close(found[row : row + 1], value, rtol=0, atol=2e-5)
        with torch.no_grad():
            assert (model.velocity(*one) - value).abs().max() > 1e-2
    both = [{"whole": 0.25, "ocr": 0.75}] * 4
    mixed = teachers.mixed_velocity(model, latent, sigma, both, conditioning, model.unconditional())
    alone = [
        teachers.velocity(model, latent, sigma, [task] * 4, conditioning, model.unconditional())
        for task in ("whole", "ocr")
    ]
    torch.testing.assert_close(mixed, 0.25 * alone[0] + 0.75 * alone[1], rtol=0, atol=2e-5)


def test_a_whole_transformer_is_asked_about_its_own_rows_only(model, tuned, monkeypatch):
    load_frozen(model, "teacher_whole", tuned[0], setting="x")
    held = model.backbones._held["teacher_whole"]
    rows = {"whole": [], "own": []}
    for name, transformer in (("whole", held), ("own", model.transformer)):
        forward = transformer.forward

        def counted(*args, name=name, forward=forward, **kwargs):
            rows[name].append(len(kwargs["hidden_states"]))
            return forward(*args, **kwargs)

        monkeypatch.setattr(transformer, "forward", counted)
    latent, sigma, conditioning = states(model)
    names = ["teacher_whole", "__base__", "__base__", "teacher_whole"]
    with torch.no_grad():
        model.velocity(latent, sigma, conditioning, names)
        model.velocity(latent, sigma, conditioning, "teacher_whole")
        model.velocity(latent, sigma, conditioning)
    assert rows == {"whole": [2, 4], "own": [2, 4]}


def test_a_whole_transformer_is_frozen_and_the_student_beside_it_learns(model, tuned):
    config = LoRA(rank=2, alpha=4, init="gaussian", target_modules=TWO_PROJECTIONS, start=None)
    add_adapter(model.transformer, "student", config, torch.Generator().manual_seed(0))
    set_trainable(model.transformer, ["student"])
    own = model.transformer
    load_frozen(model, "teacher_whole", tuned[0], setting="x")
    latent, sigma, conditioning = states(model)
    velocity = model.velocity(latent, sigma, conditioning, ["student", "teacher_whole", "student", "student"])
    velocity.square().sum().backward()
    assert model.transformer is own
    held = model.backbones._held["teacher_whole"]
    assert all(not p.requires_grad and p.grad is None for p in held.parameters())
    assert sum(p.grad.abs().sum() for p in own.parameters() if p.requires_grad) > 0
    assert not any(key.startswith("backbones") and ".lora_" in key for key in model.state_dict())


def test_it_moves_with_the_model_and_has_the_precision_of_the_backbone(tiny, tuned):
    model = SD3Model(**{**tiny.settings, "dtype": "bf16"})
    load_frozen(model, "teacher_whole", tuned[0], setting="x")
    held = model.backbones._held["teacher_whole"]
    assert {parameter.dtype for parameter in held.parameters()} == {torch.bfloat16}
    model.to("meta")
    assert {parameter.device.type for parameter in held.parameters()} == {"meta"}


def test_an_anchor_may_be_a_whole_transformer_without_a_card(model, tuned, learner):
    uniform = VelocityUniform(reduction="mean", normalize=False)
    anchor = Anchor(path=str(tuned[0]), guidance_scale=1.0, check_base=True, weight=0.1, loss=uniform)
    anchor.join(learner(model))
    latent, sigma, conditioning = states(model, 2)
    found = anchor.given(ROWS, conditioning)(latent, sigma)
    with torch.no_grad():
        expected = tuned[1](latent, conditioning.embeds, conditioning.pooled, 1000 * sigma).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


# Cards.


def test_without_a_card_the_config_says_the_guidance_and_the_base_is_noted(model, lora_file, caplog):
    teachers = teachers_of({"ocr": (lora_file, 4.5)})
    assert teachers.guidance_scales == {"ocr": 4.5}
    assert teachers.cards == {}
    with caplog.at_level(logging.WARNING):
        teachers.load(model)
    (note,) = [record.getMessage() for record in caplog.records]
    assert note == (
        f"note: teacher.teachers.ocr.path={lora_file} has no card.json; whether it was trained on this "
        "base model is not checked"
    )


def test_without_card_and_guidance_it_is_refused(lora_file):
    message = r"teacher\.teachers\.ocr\.path=.*there is no card\.json.* set teacher\.teachers\.ocr\.guid"
    with pytest.raises(ValueError, match=message):
        teachers_of({"ocr": (lora_file, None)})


# What is refused of whole transformers.


def refusal(folder, base_config):
    with pytest.raises(ValueError, match=r"teacher\.path=") as refused:
        check_frozen(folder, base_config, setting="teacher.path")
    return str(refused.value)


def test_whole_transformers_that_do_not_fit(tiny, tuned, tmp_path):
    base_config = read_transformer_config(str(tiny.folder))
    folder = tmp_path / "copy"

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tuned[0], folder)

    def edit(**changes):
        fresh()
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    check_frozen(tuned[0], base_config, setting="teacher.path")
    edit(in_channels=3)
    assert f"with in_channels=3, this model's has {base_config['in_channels']}" in refusal(
        folder, base_config
    )
    edit(_class_name="FluxTransformer2DModel")
    assert "with _class_name=FluxTransformer2DModel, this model's has SD3" in refusal(folder, base_config)
    edit(quantization_config={"quant_method": "bitsandbytes"})
    assert "copy/config.json has the setting quantization_config, so that" in refusal(folder, base_config)
    edit(qk_norm=None)
    assert "tensors have no place in the model of its config.json (first: transformer_blocks.0.attn." in (
        refusal(folder, base_config)
    )
    edit(num_layers=3)
    assert "norm1_context.linear.weight has shape (32, 16), its config.json needs (96, 16)" in refusal(
        folder, base_config
    )
    edit(num_attention_heads=3, caption_projection_dim=24)
    assert "pos_embed.pos_embed has shape (1, 64, 16), its config.json needs (1, 64, 24)" in refusal(
        folder, base_config
    )
    fresh()
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({key: value for key, value in tensors.items() if key != "proj_out.bias"}, weights)
    assert "tensors are missing (first: proj_out.bias)" in refusal(folder, base_config)
    fresh()
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read as JSON" in refusal(folder, base_config)
    fresh()
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is not a whole safetensors file" in refusal(folder, base_config)
    weights.rename(folder / "diffusion_pytorch_model.bin")
    assert "diffusion_pytorch_model.bin is a pickle" in refusal(folder, base_config)
    fresh()
    index = {"weight_map": {"proj_out.bias": "weights.bin"}}
    (folder / f"{weights.name}.index.json").write_text(
        json.dumps(index)
    )  # which diffusers would read instead
    assert "index.json names weights.bin, which is no .safetensors file" in refusal(folder, base_config)


def test_a_whole_transformer_with_a_value_that_is_nan(model, tuned, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tuned[0], folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.bias"][1] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"x=.*/copy: tensor proj_out.bias has values that are nan"):
        load_frozen(model, "teacher_nan", folder, setting="x")
    assert "teacher_nan" not in model.backbones.names


def test_a_transformer_of_another_size_may_teach(tiny, model, tmp_path):
    """Latents and prompts are all that teacher and student share."""
    config = {**read_transformer_config(str(tiny.folder)), "num_layers": 3}
    torch.manual_seed(0)
    SD3Transformer2DModel.from_config(config).save_pretrained(tmp_path / "large")
    load_frozen(model, "teacher_large", tmp_path / "large", setting="x")
    latent, sigma, conditioning = states(model, 2)
    with torch.no_grad():
        found = guided_velocity(
            model, latent, sigma, conditioning, model.unconditional(), 2.0, ["teacher_large", "__base__"]
        )
    assert found.isfinite().all()


def test_a_whole_transformer_is_no_start_of_a_student(model, tuned):
    with pytest.raises(
        ValueError, match=r"adapter\.start=.* is a whole transformer, and a LoRA is needed here"
    ):
        load_adapter(model.transformer, "student", tuned[0], setting="adapter.start")


def test_our_own_adapter_is_no_exception(model, tmp_path):
    config = LoRA(rank=2, alpha=4, init="gaussian", target_modules=TWO_PROJECTIONS, start=None)
    add_adapter(model.transformer, "student", config, torch.Generator().manual_seed(0))
    save_adapter(model.transformer, "student", tmp_path)
    load_frozen(model, "again", tmp_path, setting="x")
    assert "again" in model.transformer.peft_config


class Moved(torch.nn.Linear):
    """Notes where it is sent, and stays."""

    def __init__(self):
        super().__init__(2, 2)
        self.sent = []

    def to(self, device):
        self.sent.append(str(device))
        return self


def test_idle_whole_transformers_wait_on_the_cpu():
    """One that rests comes when asked, and goes when another one comes; the model moves without them."""
    whole = torch.nn.Module()
    whole.transformer, whole.backbones = torch.nn.Linear(2, 2), Backbones()
    held = {name: Moved() for name in ("first", "second", "student")}
    for name, transformer in held.items():
        whole.backbones.add(name, transformer, rests=name != "student")
    whole.to("meta")
    assert {name: next(m.parameters()).device.type for name, m in held.items()} == {
        "first": "cpu",
        "second": "cpu",
        "student": "meta",
    }
    for name in ("first", "first", "student", "second"):
        with whole.backbones.in_place_of_own(whole, name):
            assert whole.transformer is held[name]
    sent = {name: transformer.sent for name, transformer in held.items()}
    assert sent == {"first": ["cpu", "meta", "cpu"], "second": ["cpu", "meta"], "student": []}


def test_teachers_that_rest_answer_as_others(model, tuned):
    """On a CPU nobody moves; the setting reaches whole transformers alone."""
    folder, _ = tuned
    teachers = TeacherSet(
        teachers={"whole": {"path": str(folder), "guidance_scale": 3.0}}, check_base=False, offload_idle=True
    )
    teachers.load(model)
    assert model.backbones._resting == {"teacher_whole"}
    latent, sigma, conditioning = states(model)
    given = (latent, sigma, ["whole"] * 4, conditioning, model.unconditional())
    found = teachers.velocity(model, *given)
    model.backbones._resting.clear()
    assert torch.equal(found, teachers.velocity(model, *given))
