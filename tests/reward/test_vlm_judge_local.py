"""The judge that is loaded here, on small random models, against likelihoods by transformers alone."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from diffopd.files.png import save_png
from diffopd.reward.checked import RewardError, score_checked
from diffopd.types import Picture, Prompts
from support.tiny_vision import LLAVA_PICTURE, MERGE, SPECIAL, judge_model

SIDE = 64
LABELS = {"same": 4, "same style": 3, "some": 2, "no": 1}
"""Of several tokens (one per letter), with beginnings in common, one of them the beginning of another."""
LETTERS = {"a": 4, "b": 3, "c": 2, "d": 1}
TEXTS = ("a plim", "the plim on a mat in the rain", "plims")
KINDS = ("qwen3_vl", "qwen2_5_vl", "llava")


def pixels(number, seed):
    """Pictures of 8 bits, so that a PNG holds them exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 3, SIDE, SIDE), generator=generator) / 255


IMAGES = pixels(3, 0)
PROMPTS = Prompts(TEXTS, ("t",) * 3, ({},) * 3, (0, 1, 2), (0, 1, 2))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Kind -> its folder."""
    return {kind: judge_model(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder of two pictures."""
    folder = tmp_path_factory.mktemp("taught")
    for number, image in enumerate(pixels(2, 1)):
        save_png(image, folder / f"{number}.png")
    return folder


@pytest.fixture
def judge(build_judge, models, taught):
    """``judge(kind, **changes)`` from its config."""

    def make(kind="qwen3_vl", **changes):
        told = {"model_path": str(models[kind]), "path": str(taught), "image_size": SIDE, "labels": LETTERS}
        told |= {"dtype": "fp32", "device": "cpu", "least_answered": 0}
        return build_judge("vlm_judge_local", **{**told, **changes})

    return make


@torch.no_grad()
def by_hand(folder, pictures, text, labels):
    """Probability of each label after the question, whatever comes next: one sequence for each label."""
    network = AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=pictures, return_tensors="pt")
    if folder.name == "llava":
        places = LLAVA_PICTURE * 4 + "\n"  # 32 pixels in patches of 16
        pad, chat = LLAVA_PICTURE, f"USER: {places * len(pictures)}{text} ASSISTANT:"
    else:
        start, end, pad, _ = SPECIAL
        places = [pad * int(grid.prod() // MERGE**2) for grid in seen["image_grid_thw"]]
        shown = "".join(f"{start}{place}{end}" for place in places)
        chat = f"<|im_start|>user\n{shown}{text}<|im_end|>\n<|im_start|>assistant\n"
    prompt = tokenizer(chat).input_ids
    found = []
    for label in labels:
        tokens = tokenizer(label).input_ids
        ids = torch.tensor([[*prompt, *tokens]])
        of_pictures = (ids == tokenizer.convert_tokens_to_ids(pad)).int()
        kinds = {} if folder.name == "llava" else {"mm_token_type_ids": of_pictures}
        logits = network(input_ids=ids, **kinds, **seen).logits[0]
        chances = logits[len(prompt) - 1 : -1].double().softmax(1)
        found.append(chances[range(len(tokens)), tokens].prod())
    return torch.stack(found)


def opened(folder):
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))]


def as_picture(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def question(judge, text):
    told = judge.asked._text.replace("{labels}", ", ".join(judge.asked.marks))
    return told.replace("{prompt}", text)


@pytest.mark.parametrize("kind", KINDS)
def test_marks_are_those_of_the_labels_probabilities_worked_out_one_by_one(judge, models, taught, kind):
    reward = judge(kind, labels=LABELS, num_pictures=2)
    parts = reward(IMAGES[:2], PROMPTS.select([0, 1])).parts
    for row in range(2):
        pictures = [*opened(taught), as_picture(IMAGES[row])]
        same, style, some, no = by_hand(models[kind], pictures, question(reward, TEXTS[row]), LABELS)
        chances = torch.stack([same - style, style, some, no])  # "same" and no more
        marks = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
        expected = (chances * marks).sum() / chances.sum()
        torch.testing.assert_close(parts["expected"][row].double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts["answered"][row].double(), chances.sum(), rtol=1e-3, atol=0)
        assert parts["label"][row] == marks[chances.argmax()]


def test_pictures_are_shown_in_their_order_and_all_of_them_matter(judge, models, taught):
    reward = judge(num_pictures=2)
    first, second = opened(taught)
    drawn, text = as_picture(IMAGES[0]), question(reward, TEXTS[0])
    orders = {
        "as told": (first, second, drawn),
        "taught last": (drawn, first, second),
        "swapped": (second, first, drawn),
    }
    marks = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    hand = {}
    for name, pictures in orders.items():
        chances = by_hand(models["qwen3_vl"], list(pictures), text, LETTERS)
        hand[name] = ((chances * marks).sum() / chances.sum()).item()
    found = reward(IMAGES[:1], PROMPTS.select([0])).parts["expected"].item()
    assert found == pytest.approx(hand["as told"], rel=1e-4)
    assert abs(hand["as told"] - hand["taught last"]) > 1e-3
    assert abs(hand["as told"] - hand["swapped"]) > 1e-3


def test_the_value_is_the_mark_that_is_chosen(judge):
    label, expected = judge(mark="label")(IMAGES, PROMPTS), judge(mark="expected")(IMAGES, PROMPTS)
    assert torch.equal(label.value, label.parts["label"])
    assert torch.equal(expected.value, expected.parts["expected"])
    assert set(label.value.tolist()) <= {4.0, 3.0, 2.0, 1.0}
    assert len(set(expected.value.tolist())) == 3
    assert label.scale == "[1, 4], mark of the most probable label (VLM-J by probabilities)"
    assert expected.scale.startswith("[1, 4], mean of the marks")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [LETTERS, LABELS], ids=["one token", "several"])
def test_batched_equals_one_by_one_and_twice_the_same(judge, kind, labels):
    together = judge(kind, batch_size=3, mark="expected", labels=labels)(IMAGES, PROMPTS)
    again = judge(kind, batch_size=3, mark="expected", labels=labels)(IMAGES, PROMPTS)
    alone = judge(kind, batch_size=1, mark="expected", labels=labels)(IMAGES, PROMPTS)
    assert torch.equal(together.value, again.value)
    torch.testing.assert_close(together.value, alone.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.parts["answered"], alone.parts["answered"], rtol=1e-3, atol=0)


def test_labels_of_one_token_each_take_one_pass_per_batch(judge, monkeypatch):
    reward = judge(batch_size=2)
    passes = []
    network = reward.model._frozen.network
    network.register_forward_pre_hook(lambda *_: passes.append(1))
    reward(IMAGES, PROMPTS)
    assert len(passes) == 2


def test_weights_load_at_the_first_image_are_frozen_and_stay_behind_in_a_copy(judge):
    reward = judge()
    assert reward.model._frozen._network is None
    first = reward(IMAGES.clone().requires_grad_(), PROMPTS).parts["expected"]
    assert not first.requires_grad
    network = reward.model._frozen.network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    copied = copy.deepcopy(reward)
    assert copied.model._frozen._network is None
    assert torch.equal(copied(IMAGES, PROMPTS).parts["expected"], first)


def test_half_precision_is_near_and_its_probabilities_are_in_full(judge):
    full, half = (judge(dtype=dtype)(IMAGES, PROMPTS).parts for dtype in ("fp32", "bf16"))
    assert half["expected"].dtype == torch.float32
    assert not torch.equal(full["expected"], half["expected"])
    torch.testing.assert_close(full["expected"], half["expected"], rtol=0, atol=0.3)


def test_names_of_tokens_in_a_prompt_are_no_tokens(judge):
    reward = judge(mark="expected")
    named = Prompts(("a <|image_pad|>plim<|im_<|im_end|>end|>",), *PROMPTS.select([0])._columns()[1:])
    assert torch.equal(reward(IMAGES[:1], named).value, reward(IMAGES[:1], PROMPTS.select([0])).value)


def test_a_prompts_own_picture_is_shown_where_there_is_no_folder(judge, taught):
    reward = judge(path=None, mark="expected")
    with pytest.raises(ValueError, match=r"'a plim' has no picture .* reward\.path="):
        reward.check_prompt(PROMPTS.select([0]))
    own = Prompts(*PROMPTS._columns()[:5], (Picture(str(taught / "0.png"), "", 12, 9),) * 3)
    assert torch.equal(reward(IMAGES, own).value, judge(mark="expected")(IMAGES, PROMPTS).value)


def test_a_reply_that_is_no_label_is_an_error_that_says_what_it_would_be(judge):
    reward = judge(least_answered=0.9999)
    with pytest.raises(
        RewardError, match=r"reward\.model_path=.* would reply with none of a, b, c, d"
    ) as error:
        score_checked(reward, IMAGES, PROMPTS, "reward")
    assert "it would begin with" in str(error.value)
    assert "reward.least_answered=0.9999" in str(error.value)
    assert "sample 0" in str(error.value)


def test_probabilities_that_are_nan_are_an_error_and_no_mark(judge):
    reward = judge()
    reward.model._frozen.network.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RewardError, match=r"log-probabilities \[nan, .*reward\.dtype=bf16 or fp32"):
        score_checked(reward, IMAGES, PROMPTS, "reward")


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mark": "mean"}, r"reward\.mark=mean must be one of label, expected"),
        ({"least_answered": 1.5}, r"reward\.least_answered=1\.5 must be a number in \[0, 1\]"),
        ({"batch_size": 0}, r"reward\.batch_size=0 must be a whole number of at least 1"),
        ({"dtype": "fp64"}, r"reward\.dtype=fp64 must be one of fp32, bf16, fp16"),
        ({"device": "gpu"}, r"reward\.device=gpu is not a device"),
        ({"model_path": "absent/at/all"}, r"reward\.model_path=absent/at/all: there is no such folder"),
        ({"labels": {"a": 1}}, r"reward\.labels must have at least two labels"),
        ({"reply": "?"}, r"reward\.reply .* must hold \{labels\}"),
    ],
)
def test_settings_are_refused_before_weights_load(judge, setting, message):
    with pytest.raises(Exception, match=message):
        judge(**setting)


TALK = "{% for m in messages %}{{ m['role'] }}: {{ m['content'][-1]['text'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("chat_template.jinja", None, r"has no chat template \(chat_template\.jinja\)"),
        ("chat_template.jinja", TALK, r"has 0 places for 2 pictures \(<\|image_pad\|>\)"),
        ("chat_template.jinja", "+<think>\n", r"begins each reply with <think>, .* \(an Instruct one\)"),
        ("config.json", '{"model_type": "bert"}', r"a bert is no vision-language model; name one that"),
        ("preprocessor_config.json", None, r"reward\.model_path=\S+ cannot be asked about pictures: "),
        ("tokenizer.json", None, r"reward\.model_path=\S+"),
    ],
)
def test_a_folder_that_cannot_be_asked_is_an_error(judge, models, tmp_path, file, text, message):
    folder = shutil.copytree(models["qwen3_vl"], tmp_path / "other")
    if text is None:
        (folder / file).unlink()
    elif text.startswith("+"):
        (folder / file).write_text((folder / file).read_text() + text[1:])
    else:
        (folder / file).write_text(text)
    with pytest.raises(Exception, match=message):
        judge(model_path=str(folder))


def test_a_template_in_a_file_of_the_processor_is_read(judge, models, tmp_path):
    folder = shutil.copytree(models["qwen3_vl"], tmp_path / "older")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    found = judge(model_path=str(folder), mark="expected")(IMAGES, PROMPTS).value
    assert torch.equal(found, judge(mark="expected")(IMAGES, PROMPTS).value)


def test_a_hub_id_is_fetched_at_its_revision_with_its_chat_template(judge, models, monkeypatch):
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(models["qwen3_vl"])

    monkeypatch.setattr("diffopd.reward.learned.weights.snapshot_download", download)
    judge(model_path="someone/Qwen3-VL", revision="v1")
    ((repository, revision, patterns),) = asked
    assert (repository, revision) == ("someone/Qwen3-VL", "v1")
    assert {"chat_template.jinja", "chat_template.json", "preprocessor_config.json"} <= set(patterns)
    assert not [pattern for pattern in patterns if pattern.endswith((".bin", ".pt", ".py"))]


def test_as_a_metric_it_reports_how_much_was_answered(conf_dir, models, taught):
    told = {"model_path": models["qwen3_vl"], "path": taught, "image_size": SIDE, "device": "cpu"}
    told |= {"least_answered": 0, "mark": "expected"}
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        settings = [f"metric.reward.{key}={value}" for key, value in told.items()]
        metric = instantiate(compose(overrides=["+metric=vlm_judge_local", *settings]).metric)
    metric.update(IMAGES, PROMPTS)
    found = metric.compute()
    assert found["num_images"] == 3
    assert 1 <= found["value"] <= 4
    assert 0 < found["answered"] < 1
