"""What a rehearsal is made of: files like the release's, of full size, with random values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import rehearsal_build as build
import rehearsal_estimate as estimate
import rehearsal_tokenizers as tokenizers
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny pipeline with T5, teachers and prompts."""
    folder = tmp_path_factory.mktemp("rehearsal")
    build.main(["--model", "tiny", "--with-t5", "--folder", str(folder)])
    return folder


def test_the_parts_load_as_the_library_would_load_the_release(made):
    pipeline = made / "pipeline"
    transformer, report = SD3Transformer2DModel.from_pretrained(
        pipeline / "transformer", dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(report.values()), report
    assert {value.dtype for value in transformer.state_dict().values()} == {torch.bfloat16}
    for name, kind in {
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }.items():
        encoder, report = kind.from_pretrained(pipeline / name, output_loading_info=True)
        assert not any(report.values()), report
        assert encoder.dtype == torch.bfloat16
    assert "encoder.embed_tokens.weight" not in load_file(pipeline / "text_encoder_3" / "model.safetensors")


def test_tokenizers_are_of_full_size_in_the_files_of_the_release(made):
    for name, padding in (("tokenizer", 49407), ("tokenizer_2", 0)):
        folder = made / "pipeline" / name
        assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= {
            file.name for file in folder.iterdir()
        }
        assert not (folder / "tokenizer.json").exists()
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        assert len(tokenizer) == 49408
        assert tokenizer.pad_token_id == padding
        ids = tokenizer("a sign that says OPEN").input_ids
        assert (ids[0], ids[-1]) == (49406, 49407)
        assert tokenizer.decode(ids[1:-1]).strip() == "a sign that says open"
        assert len(ids) - 2 < len("asignthatsaysopen")  # pieces of several letters are made
    folder = made / "pipeline" / "tokenizer_3"
    assert (folder / "tokenizer.json").is_file()
    tokenizer = T5Tokenizer.from_pretrained(folder)
    assert len(tokenizer) == 32100
    assert tokenizer.unk_token_id not in tokenizer('a sign that says "OPEN"').input_ids


def test_every_rule_of_the_byte_pair_vocabulary_makes_a_piece_of_pieces_before_it():
    vocabulary, rules = tokenizers.clip_tables()
    assert len(vocabulary) == 49408
    assert len(rules) == 49408 - 2 * 256 - 2
    assert all(max(vocabulary[left], vocabulary[right]) < vocabulary[left + right] for left, right in rules)


def test_weights_are_written_in_shards_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD_BYTES", 125)
    monkeypatch.setattr(build, "CHUNK", 7)
    shapes = {"a.weight": (4, 6), "a.bias": (4,), "norm.weight": (5,), "b.weight": (6, 10), "scalar": ()}
    build.write_weights(tmp_path, "model", shapes, torch.bfloat16, torch.Generator().manual_seed(0))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(shapes)
    assert len(set(index["weight_map"].values())) == 2
    for name, shape in shapes.items():
        with safe_open(tmp_path / index["weight_map"][name], framework="pt") as file:
            value = file.get_tensor(name)
            assert file.metadata() == {"format": "pt"}
        assert value.shape == shape
        assert value.dtype == torch.bfloat16
        if name == "b.weight":
            assert 0.5 < value.float().std() * math.sqrt(10) < 1.5
        if value.ndim < 2:
            assert (value == (0 if name == "a.bias" else 1)).all()
    assert index["metadata"]["total_size"] == 2 * sum(math.prod(shape) for shape in shapes.values())


def test_teachers_are_peft_folders_on_the_eight_projections(made):
    config = LoraConfig.from_pretrained(str(made / "teachers" / "ocr"))
    assert (config.r, config.lora_alpha) == (32, 64)
    transformer = SD3Transformer2DModel.from_pretrained(
        made / "pipeline" / "transformer", dtype=torch.float32
    )
    model = PeftModel.from_pretrained(transformer, str(made / "teachers" / "ocr"))
    file = load_file(made / "teachers" / "ocr" / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model)
    assert loaded.keys() == file.keys()
    assert all(torch.equal(loaded[key], value) for key, value in file.items())
    values = {
        task: load_file(made / "teachers" / task / "adapter_model.safetensors")
        for task in ("ocr", "aesthetic")
    }
    key = "base_model.model.transformer_blocks.0.attn.to_q.lora_B.weight"
    assert not torch.equal(values["ocr"][key], values["aesthetic"][key])
    assert not any("attn2" in key for key in values["ocr"])
    assert len(values["ocr"]) == 2 * (8 + 7)  # the last block does not write to the text


def test_what_the_full_size_needs_is_what_was_measured():
    found = estimate.Estimate.of("sd3_5_medium", with_t5=True)
    gigabytes = {name: round(2 * numbers / 1e9, 3) for name, numbers in found.parts.items()}
    assert gigabytes == {
        "transformer": 4.939,
        "text_encoder": 0.247,
        "text_encoder_2": 1.389,
        "vae": 0.168,
        "text_encoder_3": 9.525,
    }
    assert (found.layers, found.lora) == (191, 18_776_064)
    assert round(found.pipeline / 1e9, 1) == 16.3
    assert round(found.checkpoint / 1e6) == 300
    assert round(found.memory / 1e9, 1) == 10.2  # one transformer in fp32, and the autoencoder
    assert found.memory > found.training
    assert " | 5.9 GB |" in _row(DOCS / "hardware.md", "| transformer, autoencoder, LoRAs with optimizer")
    assert round((2 * found.parts["transformer"] + found.training) / 1e9, 1) == 5.9
    for page, row in (
        ("published_teachers.md", "| transformer |"),
        ("teacher.md", "- **Memory**: each takes"),
    ):
        assert " 4.9 GB" in _row(DOCS / page, row)
    assert "| transformer, 2,469,663,936 numbers in bf16 | 4.94 GB |" in found.markdown()


def _row(page, start):
    """The line of a page that begins so."""
    (found,) = (line for line in page.read_text().splitlines() if line.startswith(start))
    return found
