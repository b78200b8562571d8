"""Encoded prompts on disk: counted encoder calls, exact values, interruptions, damage, several processes."""

from __future__ import annotations

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffopd.model import SD3Model, prompt_cache
from diffopd.model.prompt_cache import PromptCache
from diffopd.types import Conditioning
from support.encoder_calls import recorded_encoder_calls
from support.family_models import TEXTS, load
from support.tiny_families import make_family
from support.tiny_pipelines import with_t5

PROMPTS = ["a red cat", "a dog", 'a sign that says "HI"', "two cats", "a"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return with_t5(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def cached(tiny, tmp_path):
    """A function that loads the model as a new run does, with one cache for all of them."""

    def make(**settings) -> SD3Model:
        return SD3Model(**{**tiny.settings, "prompt_cache": str(tmp_path / "cache"), **settings})

    return make


@pytest.fixture
def calls(monkeypatch):
    """Prompts given to the encoders, call by call."""
    return recorded_encoder_calls(monkeypatch)


def same(ours: Conditioning, theirs: Conditioning) -> bool:
    """Bit for bit."""
    if ours.embeds.dtype != theirs.embeds.dtype or not torch.equal(ours.embeds, theirs.embeds):
        return False
    if ours.pooled is None or theirs.pooled is None:
        return ours.pooled is theirs.pooled and ours.lengths == theirs.lengths
    return torch.equal(ours.pooled, theirs.pooled) and ours.lengths == theirs.lengths


def alone(model, texts) -> Conditioning:
    """Each prompt encoded by itself, without a cache."""
    return Conditioning.concat([model.encode_prompts([text or model.empty_prompt]) for text in texts])


@pytest.mark.parametrize("name", ["sd3_5_medium", "flux1_dev", "flux2_klein", "z_image", "qwen_image"])
def test_every_family_reads_back_what_its_encoders_say(name, tmp_path, monkeypatch):
    """Pooled or not, of one length or of many."""
    family = make_family(name, tmp_path / "pipeline")
    setting = f"model.prompt_cache={tmp_path / 'cache'}"
    texts = [*TEXTS, "", TEXTS[0]]
    first, second = load(family, setting), load(family, setting)
    monkeypatch.setattr(second, "encode_prompts", None)  # must not be needed
    with torch.no_grad():
        expected = alone(first, texts)
    assert same(first.encode(texts), expected)
    assert same(second.encode(texts), expected)
    assert same(second.unconditional(), expected.select([3]))
    short = expected.select([2])  # no longer than itself, beside none that is
    assert same(second.encode([TEXTS[2]]), short)


def test_a_prompt_reaches_the_encoders_once(cached, calls):
    model = cached()
    model.encode([*PROMPTS, "a dog"])
    assert calls == [[text] for text in PROMPTS]
    model.encode(PROMPTS[::-1])
    model.encode([*PROMPTS, "new"])
    assert calls == [[text] for text in (*PROMPTS, "new")]
    calls.clear()
    again = cached()
    again.encode([*PROMPTS, "new"])
    again.encode_ahead([*PROMPTS, "new"], 0, 1)
    assert calls == [[""]]  # the empty prompt, which nobody had asked for


def test_gradients_to_the_text_encoders_pass_the_cache_by(cached):
    model = cached()
    model.encode(PROMPTS)
    model.text_encoder.requires_grad_(True)
    model.encode(PROMPTS, grad=True).embeds.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.text_encoder.parameters())
    assert not model.encode(PROMPTS).embeds.requires_grad


def test_encoders_stay_off_the_training_device(cached):
    model = cached()
    assert not any("encoder" in name.partition(".")[0] for name, _ in model.named_parameters())
    moves = []
    for name in model.encoders:
        getattr(model, name).to = lambda device, name=name: moves.append((name, str(device)))
    model.encode_ahead(PROMPTS, 0, 1)
    assert len(moves) == 2 * len(model.encoders)  # there and back, once for all prompts
    assert {device for _, device in moves[-len(model.encoders) :]} == {"cpu"}
    model.encode(PROMPTS)
    assert len(moves) == 2 * len(model.encoders)


def test_what_alters_an_encoding_has_a_cache_of_its_own(tiny, cached, calls, tmp_path):
    usual = cached()
    changed = {}
    for component, file in (
        ("text_encoder_3", "model.safetensors"),
        ("tokenizer_2", "tokenizer_config.json"),
        ("transformer", "diffusion_pytorch_model.safetensors"),
    ):
        changed[component] = tmp_path / component
        shutil.copytree(tiny.folder, changed[component])
        path = changed[component] / component / file
        content = bytearray(path.read_bytes())
        if file.endswith(".json"):
            content += b"\n"
        else:
            content[-1] ^= 1
        path.write_bytes(content)
    folders = {
        "usual": usual.prompt_cache.folder,
        "length": cached(text_length=5).prompt_cache.folder,
        "no T5": cached(text_length=0).prompt_cache.folder,
        "precision": cached(text_dtype="bf16").prompt_cache.folder,
        "encoder": cached(path=str(changed["text_encoder_3"])).prompt_cache.folder,
        "tokenizer": cached(path=str(changed["tokenizer_2"])).prompt_cache.folder,
    }
    assert len(set(folders.values())) == len(folders)
    same_encoder = {"path": str(changed["transformer"]), "dtype": "bf16", "vae_dtype": "bf16"}
    assert cached(**same_encoder).prompt_cache.folder == usual.prompt_cache.folder
    described = json.loads((usual.prompt_cache.folder / "encoder.json").read_text())
    assert (described["text_length"], described["pipeline"]) == (6, "StableDiffusion3Pipeline")
    usual.encode(PROMPTS)
    calls.clear()
    half = cached(text_dtype="bf16")
    assert half.encode(PROMPTS).embeds.dtype == torch.bfloat16
    assert len(calls) == len(PROMPTS)
    assert same(cached(text_dtype="bf16").encode(PROMPTS), half.encode(PROMPTS))


def test_an_interrupted_filling_goes_on(cached, calls, monkeypatch):
    monkeypatch.setattr("diffopd.model.prompt_cache.SHARD_ROWS", 2)
    texts = [f"cat {'x' * number}" for number in range(7)]
    model, encode, done = cached(), SD3Model.encode_prompts, 0

    def interrupted(self, given):
        nonlocal done
        if done == 5:
            raise KeyboardInterrupt
        done += 1
        return encode(self, given)

    with monkeypatch.context() as patched:
        patched.setattr(SD3Model, "encode_prompts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.encode_ahead(texts, 0, 1)
    calls.clear()
    resumed = cached()
    assert len(resumed.prompt_cache) == 4  # two whole files; the fifth prompt is lost
    resumed.encode_ahead(texts, 0, 1)
    assert calls == [[text] for text in texts[3:]]  # the empty prompt was the first of all
    with torch.no_grad():
        assert same(resumed.encode(texts), alone(resumed, texts))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def lose_the_index(path):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    path.unlink()
    save_file(tensors, path)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, lose_the_index])
def test_a_damaged_file_is_refilled(cached, calls, caplog, damage):
    model = cached()
    expected = model.encode(PROMPTS)
    kept = model.encode(["another"])
    (path,) = (file.path for file, _ in [model.prompt_cache._rows[PROMPTS[-1]]])
    damage(path)
    calls.clear()
    with caplog.at_level(logging.WARNING):
        again = cached()
        assert same(again.encode(PROMPTS), expected)
    assert f"{path} is damaged" in caplog.text
    assert not path.exists()
    assert calls == [[PROMPTS[-1]]] if damage is flip_a_bit else [[text] for text in PROMPTS]
    calls.clear()
    assert same(cached().encode([*PROMPTS, "another"]).select([5]), kept)
    assert calls == []


def test_processes_share_the_work_whenever_they_look(cached, calls):
    """The second process begins when the first has finished: nothing is left out, nothing is done twice."""
    early, late = cached(), cached()
    early.encode_ahead(PROMPTS, 0, 2)
    late.encode_ahead(PROMPTS, 1, 2)
    cached().encode_ahead(PROMPTS, 1, 2)
    assert calls == [[""], ["a dog"], ["two cats"], ["a red cat"], [PROMPTS[2]], ["a"]]
    calls.clear()
    early.prompt_cache.refresh()
    with torch.no_grad():
        assert same(early.encode(PROMPTS), late.encode(PROMPTS))
    assert calls == []


def test_two_writers_of_one_prompt_do_no_harm(cached, calls, monkeypatch):
    one, two = cached(), cached()
    monkeypatch.setattr(two.prompt_cache, "refresh", lambda: None)  # as if both wrote at one moment
    assert same(one.encode(PROMPTS), two.encode(PROMPTS))
    assert len(calls) == 2 * len(PROMPTS)
    assert same(cached().encode(PROMPTS), one.encode(PROMPTS))
    assert len(list(one.prompt_cache.folder.glob("*.safetensors"))) == 2


def test_long_fillings_say_how_far_they_are(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("diffopd.model.prompt_cache.SHARD_ROWS", 10)
    cache, seconds = PromptCache(tmp_path, {"encoder": "none"}), iter(range(1000))

    def encode_each(texts):
        for text in texts:
            yield Conditioning(torch.full((1, 2, 3), float(text)))

    with caplog.at_level(logging.INFO):
        cache.fill(
            [str(n) for n in range(40)], encode_each, rank=0, num_processes=1, clock=lambda: next(seconds)
        )
    lines = [record.message for record in caplog.records]
    assert lines[0] == f"encoding 40 prompts into {cache.folder}"
    assert lines[1] == "encoded 10 of 40 prompts, 30 s left"  # one second per prompt, a line every ten
    assert lines[2].startswith("these prompts take about")
    assert lines[3:] == [
        "encoded 20 of 40 prompts, 20 s left",
        "encoded 30 of 40 prompts, 10 s left",
        "encoded 40 prompts in 41 s",
    ]
    assert float(cache.conditioning(["7"], encode_each).embeds[0, 0, 0]) == 7.0


def test_a_filling_that_the_disk_cannot_hold_is_told_after_the_first_file(cached, monkeypatch):
    monkeypatch.setattr(prompt_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(prompt_cache, "SHARD_ROWS", 2)
    with pytest.raises(ValueError, match=r"model\.prompt_cache: 6 prompts take about .* GB are free; choose"):
        cached().encode_ahead([f"a dog {number}" for number in range(5)], 0, 1)


def test_padding_takes_no_room(tmp_path):
    """As Stable Diffusion 3.5 in bf16: 77 CLIP tokens of 2048 numbers padded to T5's 4096, and 128 of T5."""
    generator = torch.Generator().manual_seed(0)
    clip, t5 = (torch.randn(n, w, generator=generator).bfloat16() for n, w in ((77, 2048), (128, 4096)))
    pooled = torch.randn(1, 2048, generator=generator).bfloat16()
    padded = torch.nn.functional.pad(clip, (0, 2048))
    encoded = Conditioning(torch.cat([padded, t5])[None], pooled)
    cache = PromptCache(tmp_path, {"encoder": "e"})
    cache.conditioning(["a"], lambda texts: iter([encoded]))
    (file,) = cache.folder.glob("*.safetensors")
    numbers = 77 * 2048 + 128 * 4096 + 2048
    assert 2 * numbers <= file.stat().st_size < 2 * numbers + 1000  # 1.37 MB; with the padding 1.68 MB
    again = PromptCache(tmp_path, {"encoder": "e"})
    assert same(again.conditioning(["a"], lambda texts: pytest.fail("it is in the file")), encoded)


def test_a_cache_of_an_earlier_format_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_cache, "_FORMAT", 2)
    earlier = PromptCache(tmp_path, {"encoder": "e"}).folder
    monkeypatch.undo()
    assert PromptCache(tmp_path, {"encoder": "e"}).folder != earlier
