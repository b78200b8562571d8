"""Released files of every layout become folders that score the same; anything else is refused."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel

from diffopd.files.fingerprint import sha256_of
from diffopd.reward.learned.conversion import convert
from diffopd.reward.learned.imagereward import ImageRewardNetwork
from support.tiny_scorers import bert_tokenizer, save_clip, save_head, save_imagereward, save_open_clip

OUT = "converted"


@pytest.fixture
def bert(tmp_path):
    bert_tokenizer().save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_an_open_clip_file_becomes_a_clip_model(scorers, tmp_path):
    original = save_open_clip(tmp_path / "hps.pt", seed=11)
    folder = convert("hpsv2", tmp_path / "hps.pt", tmp_path / OUT, tokenizer=scorers["clipscore"]["path"])
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"]
    assert config["vision_config"]["image_size"] == 24
    assert config["vision_config"]["hidden_act"] == config["text_config"]["hidden_act"] == "gelu"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 24, 24, generator=generator)
    end = config["text_config"]["vocab_size"] - 1
    tokens = torch.tensor([[82, 3, 4, 5, end, end], [82, 7, end, end, end, end], [82, 1, 2, 3, 4, end]])
    with torch.no_grad():
        found = model(pixel_values=pixels, input_ids=tokens)
    original_images = nn.functional.normalize(original.visual(pixels), dim=1)
    original_texts = nn.functional.normalize(original.encode_text(tokens), dim=1)
    torch.testing.assert_close(found.image_embeds, original_images, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.text_embeds, original_texts, rtol=0, atol=2e-6)
    scale = original.logit_scale.exp()
    torch.testing.assert_close(found.logits_per_image, scale * original_images @ original_texts.T)


def test_imagerewards_file_becomes_its_network(bert, tmp_path):
    original = save_imagereward(tmp_path / "imagereward.pt", seed=12)
    folder = convert("imagereward", tmp_path / "imagereward.pt", tmp_path / OUT, tokenizer=bert)
    network = ImageRewardNetwork.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 24, 24, generator=generator)
    tokens = torch.randint(5, 80, (3, 9), generator=generator)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 2 + [0] * 7])
    with torch.no_grad():
        found = (network(pixels, tokens, mask) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(found, original(pixels, tokens, mask), rtol=1e-4, atol=1e-4)


def test_the_aesthetic_head_keeps_its_weights(tmp_path):
    original = save_head(tmp_path / "head.pth", seed=13)
    folder = convert("laion_aesthetic", tmp_path / "head.pth", tmp_path / OUT, tokenizer=None)
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == {f"layers.{n}.{kind}" for n in range(5) for kind in ("weight", "bias")}
    for number, place in enumerate((0, 2, 4, 6, 7)):
        assert torch.equal(tensors[f"layers.{number}.weight"], original[place].weight)
        assert torch.equal(tensors[f"layers.{number}.bias"], original[place].bias)


@pytest.mark.parametrize("reward", ["pickscore", "clipscore"])
def test_a_pickle_of_transformers_needs_its_config_beside_it(reward, tmp_path, scorers):
    model = save_clip(tmp_path / "old", seed=14)
    (tmp_path / "old" / "model.safetensors").unlink()
    state = {**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(12)[None]}
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    words = scorers["clipscore"]["path"]
    folder = convert(reward, tmp_path / "old" / "pytorch_model.bin", tmp_path / OUT, tokenizer=words)
    found = CLIPModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())
    (tmp_path / "old" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"is not the released file of \w+: config\.json must lie beside it"):
        convert(reward, tmp_path / "old" / "pytorch_model.bin", tmp_path / "other", tokenizer=words)


def test_what_was_converted_is_on_record(tmp_path):
    save_head(tmp_path / "head.pth")
    folder = convert("laion_aesthetic", tmp_path / "head.pth", tmp_path / OUT, tokenizer=None)
    record = json.loads((folder / "conversion.json").read_text())
    assert record["reward"] == "laion_aesthetic"
    assert record["file"] == "head.pth"
    assert record["sha256"] == sha256_of(tmp_path / "head.pth")


def test_safetensors_in_the_released_names_are_read_too(tmp_path):
    save_head(tmp_path / "head.pth")
    save_file(torch.load(tmp_path / "head.pth", weights_only=True), tmp_path / "head.safetensors")
    one, other = (
        convert("laion_aesthetic", tmp_path / f"head.{kind}", tmp_path / kind, tokenizer=None)
        for kind in ("pth", "safetensors")
    )
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


class Harmful:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda folder: nn.Linear(2, 2), "is not a plain state dict: .*save module.state_dict"),
        (lambda folder: Harmful(folder / "trace"), "is not a plain state dict"),
        (lambda folder: {"layers.0.weight": Harmful(folder / "trace")}, "is not a plain state dict"),
        (lambda folder: [torch.zeros(2)], "holds a list, not a state dict of names and tensors"),
        (lambda folder: {}, "holds a dict, not a state dict"),
        (lambda folder: {"epoch": 3}, "is not a plain state dict: 'epoch' is a int, not a tensor"),
        (lambda folder: {"weights": torch.zeros(2)}, "not the released file of laion_aesthetic: a head of"),
    ],
)  # fmt: skip
def test_a_pickle_of_something_else_is_refused_and_not_run(tmp_path, content, message):
    torch.save(content(tmp_path), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message):
        convert("laion_aesthetic", tmp_path / "file.pth", tmp_path / OUT, tokenizer=None)
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / OUT).exists()


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1})])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"from=.*file\.pt is not a plain state dict"):
        convert("laion_aesthetic", tmp_path / "file.pt", tmp_path / OUT, tokenizer=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), r"1 tensors are missing \(vision_model\.post_layernorm"),
        (lambda s: s.update(extra=torch.zeros(1)), r"0 tensors are .* 1 are unknown \(extra\)"),
        (lambda s: s.update(ln_final=s.pop("ln_final.weight")), r"1 tensors are missing .*1 are unknown"),
        (lambda s: s.update(logit_scale=torch.zeros(2)), r"logit_scale must have shape \(\), got \(2,\)"),
        (lambda s: s.pop("token_embedding.weight"), r"open_clip state dict is needed; it lacks token_embed"),
    ],
)  # fmt: skip
def test_an_open_clip_file_with_a_tensor_wrong_is_refused(scorers, tmp_path, change, message):
    state = save_open_clip(tmp_path / "hps.pt").state_dict()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "hps.pt")
    with pytest.raises(ValueError, match=rf"is not the released file of hpsv2: .*{message}"):
        convert("hpsv2", tmp_path / "hps.pt", tmp_path / OUT, tokenizer=scorers["clipscore"]["path"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blip.visual_encoder.blocks.1.attn.qkv.bias", r"missing \(vision_model\.encoder\.layers\.1\."),
        ("blip.text_encoder.encoder.layer.0.crossattention.self.key.weight", r"missing \(text_encoder\.enc"),
        ("mlp.layers.6.bias", r"a head of five linear layers is needed; missing: layers\.6\.bias"),
        ("blip.visual_encoder.pos_embed", r"it lacks blip\.visual_encoder\.pos_embed"),
    ],
)  # fmt: skip
def test_an_imagereward_file_with_a_tensor_missing_is_refused(bert, tmp_path, name, message):
    state = save_imagereward(tmp_path / "imagereward.pt").state_dict()
    del state[name]
    torch.save(state, tmp_path / "imagereward.pt")
    with pytest.raises(ValueError, match=message):
        convert("imagereward", tmp_path / "imagereward.pt", tmp_path / OUT, tokenizer=bert)


def test_files_of_other_scorers_are_refused(scorers, bert, tmp_path):
    save_head(tmp_path / "head.pth")
    with pytest.raises(ValueError, match="not the released file of hpsv2: an open_clip state dict is needed"):
        convert("hpsv2", tmp_path / "head.pth", tmp_path / OUT, tokenizer=scorers["clipscore"]["path"])
    with pytest.raises(ValueError, match="not the released file of imagereward"):
        convert("imagereward", tmp_path / "head.pth", tmp_path / OUT, tokenizer=bert)


def test_a_tokenizer_that_does_not_fit_is_refused(scorers, bert, tmp_path):
    save_open_clip(tmp_path / "hps.pt")
    with pytest.raises(ValueError, match=r"tokenizer=.*bert: the text encoder knows 84 tokens"):
        convert("hpsv2", tmp_path / "hps.pt", tmp_path / OUT, tokenizer=bert)
    save_imagereward(tmp_path / "imagereward.pt")
    words = scorers["clipscore"]["path"]
    with pytest.raises(ValueError, match=r"has 84 tokens, BERT's for this text encoder has 87"):
        convert("imagereward", tmp_path / "imagereward.pt", tmp_path / OUT, tokenizer=words)


def test_settings_are_checked_before_the_file_is_read(tmp_path):
    file, target = tmp_path / "absent.pt", tmp_path / OUT
    with pytest.raises(ValueError, match=r"reward=hpsv9 must be one of clipscore, hpsv2, hpsv3, imagereward"):
        convert("hpsv9", file, target, tokenizer=None)
    with pytest.raises(ValueError, match=r"tokenizer=\.\.\. is needed: .* published as laion/CLIP-ViT-H-14"):
        convert("hpsv2", file, target, tokenizer=None)
    with pytest.raises(ValueError, match="laion_aesthetic reads no prompts; leave it out"):
        convert("laion_aesthetic", file, target, tokenizer="words")
    with pytest.raises(ValueError, match=r"from=.*absent\.pt: there is no such file"):
        convert("laion_aesthetic", file, target, tokenizer=None)
    target.mkdir()
    with pytest.raises(ValueError, match=r"to=.*converted exists already; remove it"):
        convert("laion_aesthetic", file, target, tokenizer=None)


def test_a_folder_is_whole_or_absent(tmp_path, monkeypatch):
    save_head(tmp_path / "head.pth")

    def fail(*arguments):
        raise OSError("disk full")

    module = sys.modules["diffopd.reward.learned.conversion"]
    monkeypatch.setattr(module, "atomic_write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        convert("laion_aesthetic", tmp_path / "head.pth", tmp_path / OUT, tokenizer=None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["head.pth"]
