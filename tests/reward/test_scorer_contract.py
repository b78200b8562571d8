"""What every learned scorer promises, on a small random model of its architecture."""

import copy
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffopd.reward.checked import score_checked

NAMES = ("pickscore", "clipscore", "hpsv2", "laion_aesthetic", "imagereward")
every_scorer = pytest.mark.parametrize("name", NAMES)


@every_scorer
def test_batched_equals_one_by_one(build_scorer, samples, name):
    images, prompts = samples
    together = score_checked(build_scorer(name, batch_size=6), images, prompts, "reward").value
    in_fours = build_scorer(name, batch_size=4)(images, prompts).value
    reward = build_scorer(name, batch_size=1)
    alone = torch.cat([reward(images[i : i + 1], prompts.select([i])).value for i in range(6)])
    assert together.shape == (6,)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, in_fours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@every_scorer
def test_weights_are_frozen_and_no_gradient_flows(build_scorer, samples, name):
    images, prompts = samples
    reward = build_scorer(name)
    scores = reward(images.clone().requires_grad_(), prompts)
    assert not scores.value.requires_grad
    network = (reward.clip._frozen if hasattr(reward, "clip") else reward._frozen).network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@every_scorer
def test_half_precision_is_near(build_scorer, samples, name):
    full = build_scorer(name)(*samples).value
    half = build_scorer(name, dtype="bf16")(*samples).value
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    # Steps of bfloat16 are 1/128 of a number; the random heads here add thousands of products.
    assert (full - half).abs().max() < 0.1 * full.abs().max()


@every_scorer
def test_both_scales_are_one_but_for_pickscore(build_scorer, samples, name):
    training = build_scorer(name, scale="training")(*samples).value
    table = build_scorer(name, scale="table")(*samples).value
    torch.testing.assert_close(table, training * (26 if name == "pickscore" else 1))


@every_scorer
def test_weights_load_at_the_first_image_and_stay_behind_in_a_copy(build_scorer, samples, name):
    reward = build_scorer(name)
    frozen = reward.clip._frozen if hasattr(reward, "clip") else reward._frozen
    assert frozen._network is None
    first = reward(*samples).value
    assert frozen.network is frozen.network
    copied = copy.deepcopy(reward)
    assert (copied.clip._frozen if hasattr(copied, "clip") else copied._frozen)._network is None
    assert torch.equal(copied(*samples).value, first)


@every_scorer
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"scale": "raw"}, r"reward\.scale=raw must be one of training, table"),
        ({"dtype": "fp64"}, r"reward\.dtype=fp64 must be one of fp32, bf16, fp16"),
        ({"device": "gpu"}, r"reward\.device=gpu is not a device"),
        ({"batch_size": 0}, r"reward\.batch_size=0 must be a whole number of at least 1"),
        ({"path": "absent/at/all"}, r"reward\.path=absent/at/all: there is no such folder"),
    ],
)
def test_settings_are_refused_before_weights_load(build_scorer, name, setting, message):
    with pytest.raises(Exception, match=message):
        build_scorer(name, **setting)


@every_scorer
@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "weights.pt", "head.pth"])
def test_a_folder_of_pickles_is_refused_with_the_command_that_converts(build_scorer, tmp_path, name, pickle):
    (tmp_path / pickle).write_bytes(b"anything")
    command = f"python -m diffopd.convert reward={name} from=<file> to=<folder>"
    with pytest.raises(Exception, match=rf"holds no model\.safetensors, but {pickle}.*`{command}`"):
        build_scorer(name, path=str(tmp_path))
    with pytest.raises(Exception, match=rf"is a file; a folder .*`{command}`"):
        build_scorer(name, path=str(tmp_path / pickle))


@pytest.fixture
def copied(scorers, tmp_path):
    """``copied(name)``: a copy of a scorer's folder to damage."""

    def copy_of(name):
        return Path(shutil.copytree(scorers[name]["path"], tmp_path / "copied"))

    return copy_of


@every_scorer
def test_one_weight_that_is_no_number_is_named_before_an_image_is_scored(build_scorer, samples, copied, name):
    folder = copied(name)
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.endswith("weight"))
    tensors[key].flatten()[-1] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    reward = build_scorer(name, path=str(folder))
    with pytest.raises(ValueError, match=r"reward\.path: \S+/copied: tensor \S+ has values that are nan"):
        reward(*samples)


@every_scorer
def test_an_index_that_names_pickles_beside_a_decoy_is_refused(build_scorer, copied, name):
    folder = copied(name)
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "weights.bin")
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "weights.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Exception, match=r"reward\.path=\S+index.json names weights.bin, which is no "):
        build_scorer(name, path=str(folder))


@every_scorer
def test_quantised_and_half_copied_weights_are_refused_when_it_is_built(build_scorer, copied, name):
    file = (folder := copied(name)) / "model.safetensors"
    whole = load_file(file)
    key = next(key for key in sorted(whole) if key.endswith("weight"))
    save_file({**whole, key: whole[key].to(torch.int8)}, file, {"format": "pt"})
    with pytest.raises(Exception, match=rf"model.safetensors: tensor {key} has the type I8"):
        build_scorer(name, path=str(folder))
    save_file(whole, file, {"format": "pt"})
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(Exception, match=r"is not a whole safetensors file"):
        build_scorer(name, path=str(folder))


@pytest.mark.parametrize("name", ["clipscore", "imagereward"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformers_weights": "other.safetensors"}, "has the setting transformers_weights"),
        ({"quantization_config": {"bits": 4}}, "has the setting quantization_config"),
        ({"attn_implementation": "a/kernel"}, "has attn_implementation=a/kernel, code on the hub"),
        ({"_attn_implementation_internal": "a/b"}, "has _attn_implementation_internal=a/b, code on the hub"),
        (
            {"vision_config": {"_attn_implementation": "a/b"}},
            "has vision_config._attn_implementation=a/b",
        ),
    ],
)
def test_a_config_that_asks_for_more_than_its_weights_is_refused(
    build_scorer, copied, name, changes, message
):
    file = (folder := copied(name)) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(Exception, match=message):
        build_scorer(name, path=str(folder))


def test_an_adapter_beside_a_scorers_weights_is_refused(build_scorer, copied):
    folder = copied("clipscore")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(Exception, match=r"holds adapter_config.json, so an adapter would change the model"):
        build_scorer("clipscore", path=str(folder))


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hpsv2", "imagereward"])
def test_weights_of_which_some_are_missing_are_refused(build_scorer, samples, scorers, tmp_path, name):
    folder = tmp_path / "partial"
    shutil.copytree(scorers[name]["path"], folder)
    tensors = load_file(folder / "model.safetensors")
    left_out = next(key for key in sorted(tensors) if "layer_norm1.weight" in key)
    kept = {key: value for key, value in tensors.items() if key != left_out}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1 of the weights of a \w+ \({left_out}\)"):
        build_scorer(name, path=str(folder))(*samples)


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hpsv2"])
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("eos_token_id", 5, r"texts would be pooled at token 5, but the tokenizer ends them with 83"),
        ("eos_token_id", 2, None),  # the old configs' word for the largest token of the text, here 83
    ],
)
def test_texts_are_pooled_at_the_tokenizers_own_end(
    build_scorer, samples, scorers, tmp_path, name, setting, value, message
):
    folder = tmp_path / "pooled"
    shutil.copytree(scorers[name]["path"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][setting] = value
    (folder / "config.json").write_text(json.dumps(config))
    reward = build_scorer(name, path=str(folder))
    if message is None:
        assert torch.equal(reward(*samples).value, build_scorer(name)(*samples).value)
    else:
        with pytest.raises(ValueError, match=message):
            reward(*samples)


def test_a_hub_id_is_downloaded_without_its_pickles(build_scorer, scorers, monkeypatch, samples):
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return scorers["pickscore"]["path"]

    monkeypatch.setattr("diffopd.reward.learned.weights.snapshot_download", download)
    reward = build_scorer("pickscore", path="someone/PickScore", revision="v1", tokenizer_path="laion/words")
    assert torch.equal(reward(*samples).value, build_scorer("pickscore")(*samples).value)
    (weights, revision, patterns), (words, _, word_patterns) = asked
    assert (weights, revision, words) == ("someone/PickScore", "v1", "laion/words")
    read = (".json", ".jinja", ".txt", ".safetensors")
    assert not [p for p in (*patterns, *word_patterns) if not p.endswith(read)]
    assert not [p for p in word_patterns if p.endswith(".safetensors")]


def test_a_hub_that_does_not_deliver_is_a_config_error(build_scorer, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("offline")

    monkeypatch.setattr("diffopd.reward.learned.weights.snapshot_download", refuse)
    with pytest.raises(
        Exception, match=r"path=some/one is neither a local folder nor a model on the hub: offline"
    ):
        build_scorer("pickscore", path="some/one")


def test_no_tokenizer_is_an_error(build_scorer, scorers, tmp_path):
    for file in ("config.json", "model.safetensors"):
        shutil.copy(Path(scorers["pickscore"]["path"]) / file, tmp_path)
    with pytest.raises(Exception, match=r"reward\.path=.* holds no tokenizer\.json, vocab\.json or"):
        build_scorer("pickscore", path=str(tmp_path))


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hpsv2"])
def test_words_are_not_made_up_where_files_of_the_tokenizer_are_cut(build_scorer, scorers, tmp_path, name):
    """Without the rules that make its pieces, transformers reads letter by letter and says nothing."""
    folder = tmp_path / "cut"
    shutil.copytree(scorers[name]["path"], folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    with pytest.raises(Exception, match=r"reward\.path=.*/cut/merges\.txt is missing"):
        build_scorer(name, path=str(folder))
    (folder / "merges.txt").write_text("")
    with pytest.raises(Exception, match=r"reward\.path=.*/cut/merges\.txt is empty"):
        build_scorer(name, path=str(folder))


@pytest.mark.parametrize("name", ["pickscore", "clipscore", "hpsv2"])
def test_a_vocabulary_that_has_lost_its_rules_is_an_error(build_scorer, scorers, samples, tmp_path, name):
    folder = tmp_path / "cut"
    shutil.copytree(scorers[name]["path"], folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    words = {2 * piece if len(piece) == 1 else piece: n for piece, n in whole["model"]["vocab"].items()}
    (folder / "tokenizer.json").write_text(json.dumps(whole | {"model": whole["model"] | {"vocab": words}}))
    with pytest.raises(ValueError, match=r"reward\.path: .* pieces of several characters and 0 rules"):
        build_scorer(name, path=str(folder))(*samples)


@every_scorer
def test_half_a_download_is_told_before_the_first_image(build_scorer, scorers, tmp_path, name):
    folder = tmp_path / "half"
    shutil.copytree(scorers[name]["path"], folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        Exception, match=r"reward\.path=.*/half/model\.safetensors .* not a whole safetensors"
    ):
        build_scorer(name, path=str(folder))
    weights.unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Exception, match=r"half/model-00001-of-00002\.safetensors is missing"):
        build_scorer(name, path=str(folder))


def test_loading_a_large_scorer_is_told(build_scorer, scorers, samples, monkeypatch, caplog):
    monkeypatch.setattr("diffopd.reward.learned.lazy_network.WORTH_A_LINE", 1)
    with caplog.at_level(logging.INFO, "diffopd"):
        build_scorer("pickscore")(*samples)
    folder = scorers["pickscore"]["path"]
    assert f"loading reward.path ({folder}), 0.0 GB" in [record.message for record in caplog.records]


@every_scorer
def test_a_known_pair_differs_only_by_noise_and_is_scored(build_scorer, name):
    reward = build_scorer(name)
    pair = reward.known_pair()
    scores = [float(reward(image[None], pair.prompt).value) for image in (pair.better, pair.worse)]
    assert scores[0] != scores[1]  # which is higher, a random network does not know
