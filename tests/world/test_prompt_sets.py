import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.config.folder import config_folder
from diffopd.data.prompt_files import read_prompts
from diffopd.files.paths import resolve_path
from diffopd.world.prompt_sets import FOLDER, num_held_out_pairs, prompt, prompt_sets, write_prompt_sets
from diffopd.world.request import GENEVAL_TAGS, Request, caption, parse
from diffopd.world.split import HELD_OUT_PAIRS, is_held_out
from diffopd.world.words import EVALUATION_WORDS


@pytest.fixture(scope="module")
def sets():
    return prompt_sets()


def test_committed_files_are_those_the_generator_writes(sets, tmp_path, monkeypatch):
    monkeypatch.setattr("diffopd.world.prompt_sets.prompt_sets", lambda: sets)  # made once, for seconds
    for path in write_prompt_sets(tmp_path):
        committed = Path(resolve_path(FOLDER)) / path.relative_to(tmp_path)
        assert committed.read_bytes() == path.read_bytes(), path.name


def committed_texts(task, name):
    suffix = "jsonl" if task == "composition" else "txt"
    return [entry.text for entry in read_prompts(f"{FOLDER}/{task}/{name}.{suffix}", task)]


@pytest.mark.parametrize("task", ["composition", "ocr", "aesthetic"])
def test_train_test_and_ood_texts_are_unique_and_disjoint(task):
    texts = [committed_texts(task, name) for name in ("train", "test", "ood")]
    assert sum(map(len, texts)) == len(set().union(*texts))


def test_words_are_disjoint():
    words = {
        name: {re.search('"(.*)"', text)[1] for text in committed_texts("ocr", name)}
        for name in ("train", "test", "ood")
    }
    assert words["test"] <= set(EVALUATION_WORDS)
    assert not words["train"] & set(EVALUATION_WORDS)
    assert {len(word) for word in words["train"]} == {3, 4}
    assert {len(word) for word in words["ood"]} == {1, 2}


def test_no_training_text_names_a_held_out_pair():
    pairs = re.compile("|".join(f"{colour} {shape}" for shape, colour in HELD_OUT_PAIRS))
    for task in ("composition", "aesthetic"):
        assert not any(pairs.search(text) for text in committed_texts(task, "train"))
    assert all(len(pairs.findall(text)) == 1 for text in committed_texts("aesthetic", "test"))
    assert all(len(pairs.findall(text)) == 2 for text in committed_texts("aesthetic", "ood"))


def test_requests_stand_on_their_side(sets):
    for name, requests in sets.items():
        if "train" in name:
            assert not any(map(is_held_out, requests)), name
        if "test" in name:
            assert all(map(is_held_out, requests)), name
            assert all(num_held_out_pairs(r) < 2 for r in requests), name


def test_every_prompt_is_understood(sets):
    for requests in sets.values():
        for request in requests:
            assert parse(caption(request)) == request
            assert parse(prompt(request)) == request


def test_out_of_distribution_composition(sets):
    forms = {
        form: [r for r in sets["composition/ood.jsonl"] if r.form == form]
        for form in ("counting", "position", "color_attr")
    }
    assert all(r.count == 5 and r.shapes[0] != "circle" for r in forms["counting"])
    assert all(r.relation and None not in r.colours for r in forms["position"])
    assert all(num_held_out_pairs(r) == 2 for r in forms["color_attr"])
    assert sum(map(len, forms.values())) == len(sets["composition/ood.jsonl"]) == 84


def test_any_beginning_of_the_composition_sets_is_balanced(sets):
    first = Counter(r.form for r in sets["composition/test.jsonl"][:64])
    assert set(first) == set(GENEVAL_TAGS)
    assert max(first.values()) - min(n for form, n in first.items() if form != "single_object") <= 1
    assert len({caption(r) for r in sets["composition/train.jsonl"]}) == 600


def test_encoders_tell_the_tasks_prompts_apart():
    """Pretraining draws photos and paintings alike, so the one word between their captions hardly counts."""
    painted = Request("painting", ("circle",), ("red",), place="night")
    photographed = replace(painted, form="colors")
    with initialize_config_dir(config_folder(), version_base="1.3"):
        model = instantiate(compose("train", overrides=["model=mini_sd3"]).model)
    photo, captioned, prompted = model.encode_prompts(
        [caption(photographed), caption(painted), prompt(painted)]
    ).embeds

    def distance(embedding):
        return float((embedding - photo).norm() / photo.norm())

    assert distance(captioned) < 0.1
    assert distance(prompted) > 0.5
