import gc
import json
import re

import pytest

from diffopd.data import prompt_files
from diffopd.data.prompt_files import PromptEntry, read_prompts


def test_text_lines(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes('a red barn\r\n\n  a shop sign with "OPEN"  \nein grüner Baum'.encode())
    texts = ["a red barn", 'a shop sign with "OPEN"', "ein grüner Baum"]
    assert read_prompts(file, "any") == [PromptEntry(text, "any", {}) for text in texts]


def test_geneval_lines_keep_their_clauses(tmp_path):
    lines = [
        {"tag": "counting", "include": [{"class": "mug", "count": 2}], "prompt": "a photo of two mugs"},
        {
            "tag": "colors",
            "include": [{"class": "chair", "count": 1, "color": "blue"}],
            "prompt": "a blue chair",
        },
    ]
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    entries = read_prompts(file, "composition")
    assert [entry.text for entry in entries] == ["a photo of two mugs", "a blue chair"]
    assert [entry.metadata for entry in entries] == lines
    assert {entry.task for entry in entries} == {"composition"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"bad\.jsonl, line 3: not JSON"),
        ("[1]", r"line 3: expected a JSON object with the key 'prompt', got list"),
        ('{"text": "a cat"}', r"line 3: 'prompt' must be a text, got None; the line has the keys \['text'\]"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    file = tmp_path / "bad.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=message):
        read_prompts(file, "composition")


def test_files_that_cannot_be_read_are_named_by_their_setting(tmp_path):
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text("\n \n")
    latin.write_bytes(b"caf\xe9\n")
    for path, message in [
        (empty, "holds no prompts"),
        (latin, "not UTF-8"),
        (tmp_path / "absent.txt", "no such file"),
        (tmp_path / "prompts.csv", r"must end in .txt or .jsonl, got .csv"),
    ]:
        with pytest.raises(ValueError, match=rf"^data\.tasks\.ocr\.path=.*{message}"):
            read_prompts(path, "ocr", setting="data.tasks.ocr.path")


def test_the_package_s_own_files():
    assert len(read_prompts("package://assets/prompts/ocr/test.txt", "ocr")) == 120


def test_lines_know_their_number(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\none\n\ntwo\n")
    assert [entry.line for entry in read_prompts(file, "ocr")] == [2, 4]


def test_a_file_one_may_not_read(tmp_path, monkeypatch):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)  # as root one may read anything
    with pytest.raises(ValueError, match=r"^data.tasks.ocr.path=.*cannot be read \(Permission denied\)"):
        read_prompts(file, "ocr", setting="data.tasks.ocr.path")


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_the_work_for_a_line_is_one_entry_and_no_search_for_garbage(tmp_path, monkeypatch, name):
    lines, made, collections = 30_000, [], []
    text = [json.dumps({"prompt": f"p{n}"}) if name.endswith("jsonl") else f"p{n}" for n in range(lines)]
    (tmp_path / name).write_text("\n".join(text))

    def counted(*arguments):
        made.append(1)
        return PromptEntry(*arguments)

    def collected(phase, info):
        collections.append(info["generation"])

    monkeypatch.setattr(prompt_files, "PromptEntry", counted)
    gc.callbacks.append(collected)
    try:
        entries = read_prompts(tmp_path / name, "any")
        seen = list(collections)
    finally:
        gc.callbacks.remove(collected)
    assert (len(entries), len(made)) == (lines, lines)
    assert len(seen) <= 4  # those before and after the lines; with the collector on, one every 700 objects
    assert gc.isenabled()
    assert [entries[0].line, entries[-1].line] == [1, lines]


def test_a_line_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "deep.jsonl").write_text('{"prompt": "x"}\n' + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"deep.jsonl, line 2: nested too deeply"):
        read_prompts(tmp_path / "deep.jsonl", "any")


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a"} {"prompt": "b"}',
        '{"prompt": "a"}]',
        "nonsense",
        "[",
        "{",
        "\ufeff{}",
        "'a'",
        '{"prompt": "a",}',
    ],
)
def test_what_json_does_not_read_is_an_error_in_its_words(tmp_path, line):
    with pytest.raises(json.JSONDecodeError) as said:
        json.loads(line)
    (tmp_path / "lines.jsonl").write_text('{"prompt": "fine"}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"lines\.jsonl, line 2: not JSON \({re.escape(str(said.value))}\)"):
        read_prompts(tmp_path / "lines.jsonl", "composition")
