"""HPSv3 on a small random Qwen2-VL, against the released forward written out, and its conversion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from diffopd.reward.learned import hpsv3
from diffopd.reward.learned.conversion import convert
from diffopd.types import Prompts
from support.released_layouts import randomised
from support.tiny_families import _qwen_tokenizer
from support.tiny_vision import SPECIAL, TEMPLATE

PATCH = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
TOLD = "Rate {text_prompt}: <|Reward|> END"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The base's folder without weights, and the released network: its language model, tower and head."""
    folder = tmp_path_factory.mktemp("hpsv3")
    tokenizer = _qwen_tokenizer(*SPECIAL)
    tokenizer.chat_template, before = TEMPLATE, tokenizer.chat_template
    tokenizer.save_pretrained(folder / "base")
    tokenizer.chat_template = before  # it is one for all that ask
    numbers = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 1,
            "embed_dim": 16,
            "num_heads": 2,
            "mlp_ratio": 1,
            "hidden_size": 16,
            "patch_size": 14,
        },
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
    )
    config.save_pretrained(folder / "base")
    image = {"image_processor_type": "Qwen2VLImageProcessor", **PATCH}
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    means = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "base" / "preprocessor_config.json").write_text(json.dumps({**image, "size": size, **means}))
    network = randomised(Qwen2VLForConditionalGeneration(config), 0).eval()
    head = nn.Sequential(
        *(nn.Linear(16, 1024), nn.ReLU(), nn.Dropout(0.05)),
        *(nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)),
    )
    return folder, network, randomised(head, 1).eval()


def released(network, head, *, old):
    """The released file's tensors, named as by one of two versions of transformers."""
    state = {f"rm_head.{name}": tensor for name, tensor in head.state_dict().items()}
    for name, tensor in network.state_dict().items():
        short = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        state[short if old else name] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def converted(made):
    folder, network, head = made
    save_file(released(network, head, old=True), folder / "HPSv3.safetensors")
    return convert("hpsv3", folder / "HPSv3.safetensors", folder / "out", tokenizer=str(folder / "base"))


@pytest.fixture
def build(converted, conf_dir, monkeypatch):
    monkeypatch.setattr(hpsv3, "PIXELS", 4 * 28 * 28)
    config = OmegaConf.load(conf_dir / "reward" / "hpsv3.yaml")

    def make(**changes):
        told = {"path": str(converted), "device": "cpu", "dtype": "fp32", "instruction": TOLD}
        return instantiate(config, **{**told, **changes})

    return make


def prompts(*texts):
    rows = tuple(range(len(texts)))
    return Prompts(texts, ("t",) * len(texts), ({},) * len(texts), rows, rows)


IMAGES = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_scores_are_those_of_the_released_forward(build, made):
    _, network, head = made
    reward = build(batch_size=1)
    scores = reward(IMAGES, prompts("a cat", "a much longer prompt"))
    for row, text in enumerate(("a cat", "a much longer prompt")):
        inputs = reward.inputs(IMAGES[row : row + 1], [text])
        ids = inputs["input_ids"]
        hidden = network.model.language_model.embed_tokens(ids)
        seen = network.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        place = ids == network.config.image_token_id
        assert int(place.sum()) == len(seen) == 6  # 84 x 56 pixels, in cells of 28
        hidden = hidden.masked_scatter(place[..., None].expand_as(hidden), seen)
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        out = network.model.language_model(inputs_embeds=hidden, position_ids=positions).last_hidden_state
        marked = ids == reward.tokenizer.convert_tokens_to_ids("<|Reward|>")
        ((mean, spread),) = head(out[marked])
        torch.testing.assert_close(scores.value[row], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores.parts["log_spread"][row], spread, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing_and_prompts_do(build):
    texts = ("a cat", "a much longer prompt")
    together = build(batch_size=2)(IMAGES, prompts(*texts)).value
    alone = build(batch_size=1)(IMAGES, prompts(*texts)).value
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone, build(batch_size=1)(IMAGES, prompts(*reversed(texts))).value)
    assert not torch.allclose(alone, build(batch_size=1)(IMAGES.flip(0), prompts(*texts)).value)


def test_names_of_tokens_in_a_prompt_are_no_tokens(build):
    reward = build()
    scores = reward(IMAGES[:1], prompts("a <|Reward|> cat <|image_pad|>"))
    assert scores.value.shape == (1,)


def test_files_of_either_version_of_transformers_make_the_same(made, converted, tmp_path):
    folder, network, head = made
    save_file(released(network, head, old=False), tmp_path / "new.safetensors")
    again = convert("hpsv3", tmp_path / "new.safetensors", tmp_path / "out", tokenizer=str(folder / "base"))
    assert (again / "model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()


def test_another_file_or_base_is_an_error(made, tmp_path):
    folder, network, head = made
    state = released(network, head, old=True)
    save_file({k: v for k, v in state.items() if "rm_head.5" not in k}, tmp_path / "headless.safetensors")
    with pytest.raises(
        ValueError, match=r"not the released file of hpsv3: the head's head\.4\.weight are missing"
    ):
        convert("hpsv3", tmp_path / "headless.safetensors", tmp_path / "a", tokenizer=str(folder / "base"))
    with pytest.raises(
        ValueError, match=r"must be a local folder with config\.json, preprocessor_config\.json"
    ):
        convert("hpsv3", folder / "HPSv3.safetensors", tmp_path / "b", tokenizer="Qwen/Qwen2-VL-7B-Instruct")
    other = Path(shutil.copytree(folder / "base", tmp_path / "other"))
    _qwen_tokenizer(*SPECIAL[:2]).save_pretrained(other)
    with pytest.raises(ValueError, match=r"tokens with <\|Reward\|>, the released network"):
        convert("hpsv3", folder / "HPSv3.safetensors", tmp_path / "c", tokenizer=str(other))


def test_an_instruction_without_its_places_is_an_error(build):
    with pytest.raises(
        Exception, match=r"reward\.instruction must hold \{text_prompt\}, and <\|Reward\|> once"
    ):
        build(instruction="Rate it: <|Reward|>")


def test_the_published_instruction_ends_with_the_token(conf_dir):
    text = OmegaConf.load(conf_dir / "reward" / "hpsv3.yaml").instruction
    assert text.startswith("\nYou are tasked with evaluating a generated image based on Visual Quality")
    last = "\nPlease provide the overall ratings of this image: <|Reward|>\n\nEND\n"
    assert text.endswith("Textual prompt - {text_prompt}\n\n\n" + last)
