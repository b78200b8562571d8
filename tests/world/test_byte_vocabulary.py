"""The byte vocabulary, read by the tokenizer that uses it."""

import pytest

from diffopd.model.untrained_klein import new_tokenizer
from diffopd.world.byte_vocabulary import SPECIAL, byte_tables, figure_words


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(28)


def pieces(tokenizer, text):
    return [piece.removeprefix("Ġ") for piece in tokenizer.tokenize(text)]


def test_every_caption_word_is_one_token(tokenizer):
    for word in figure_words():
        assert pieces(tokenizer, word) == [word]
        assert tokenizer.tokenize(f"a {word}") == ["a", f"Ġ{word}"]


def test_letters_of_a_sign_stay_apart(tokenizer):
    found = pieces(tokenizer, 'a sign that says "TREK"')
    assert found == ["a", "sign", "that", "says", "", '"', "T", "R", "E", "K", '"']


@pytest.mark.parametrize("text", ["a photo of a plim", "été, ça va?", "東京"])
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) >= len(text.split())


def test_a_prompt_is_a_message(tokenizer):
    messages = [{"role": "user", "content": "a sign"}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    padding, start, end = SPECIAL
    assert tokenizer.tokenize(text) == [start, "a", "Ġsign", end]
    padded = tokenizer(text, padding="max_length", max_length=6)
    assert tokenizer.convert_ids_to_tokens(padded["input_ids"])[4:] == [padding] * 2


def test_tokens_are_numbered_without_gaps():
    vocabulary, merges = byte_tables()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all(left + right in vocabulary for left, right in merges)
