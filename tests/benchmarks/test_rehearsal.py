"""The rehearsal: what it builds, how it measures, how the walk goes on, what its table says."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))  # they import each other by their names, as a program does
try:
    build, estimate, measured, sizes, steps, table, tokenizers, walked = (
        importlib.import_module(f"rehearsal_{name}")
        for name in ("build", "estimate", "measured", "sizes", "steps", "table", "tokenizers", "walk")
    )
    rehearsal = importlib.import_module("rehearsal")
finally:
    sys.path.remove(str(FOLDER))


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
    tokenizer = T5TokenizerFast.from_pretrained(folder)
    assert len(tokenizer) == 32100
    assert tokenizer.unk_token_id not in tokenizer('a sign that says "OPEN"').input_ids


def test_every_rule_of_the_byte_pair_vocabulary_makes_a_piece_of_pieces_before_it():
    vocabulary, rules = tokenizers.clip_tables()
    assert len(vocabulary) == 49408
    assert len(rules) == 49408 - 2 * 256 - 2
    assert all(max(vocabulary[left], vocabulary[right]) < vocabulary[left + right] for left, right in rules)


def test_weights_are_written_in_shards_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD_BYTES", 100)
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
    transformer = SD3Transformer2DModel.from_pretrained(made / "pipeline" / "transformer")
    transformer.load_lora_adapter(
        str(made / "teachers" / "ocr"), prefix=None, weight_name="adapter_model.safetensors"
    )
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
        "transformer": 4.939, "text_encoder": 0.247, "text_encoder_2": 1.389, "vae": 0.168, "text_encoder_3": 9.525,
    }  # fmt: skip
    assert (found.layers, found.lora) == (191, 18_776_064)
    assert round(found.pipeline / 1e9, 1) == 16.3
    assert round(found.checkpoint / 1e6) == 300
    assert round(found.memory / 1e9, 1) == 20.1  # 20.7 were anonymous, the interpreter and a batch included
    assert "| transformer, 2,469,663,936 numbers in bf16 | 4.94 GB |" in found.markdown()


CHILD = """
import pathlib, subprocess, sys, time
held = bytearray(64 << 20)
for place in range(0, len(held), 4096):
    held[place] = 1
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
    time.sleep(600)
folder = pathlib.Path(sys.argv[1])
(folder / "ready").touch()
time.sleep(600)
"""


def test_memory_is_summed_over_all_processes_and_a_killed_command_leaves_none(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(CHILD)
    seen = []

    def looked_at_since_all_was_there():
        seen.append((tmp_path / "ready").exists())
        return seen[-2:] == [True, True]

    found = measured.measured(
        [sys.executable, str(program), str(tmp_path)], tmp_path / "log", environment=os.environ, limit=60,
        kill_when=looked_at_since_all_was_there,
    )  # fmt: skip
    assert found.code == -signal.SIGKILL
    assert not found.over_limit
    assert 128 << 20 < found.rss < 400 << 20
    if found.anonymous is not None:
        assert 128 << 20 < found.anonymous <= found.rss


def test_a_command_is_ended_at_its_limit_and_what_it_printed_is_kept(tmp_path):
    program = "import time; print('begun', flush=True); time.sleep(600)"
    found = measured.measured(
        [sys.executable, "-c", program], tmp_path / "log", environment=os.environ, limit=2
    )
    assert found.over_limit
    assert found.code == -signal.SIGKILL
    assert found.silent > 0
    assert (tmp_path / "log").read_text() in ("begun\n", "")


def command(text):
    return (steps.PYTHON, "-c", text)


def short_steps(folder, **changes):
    """Three steps, the second of which needs the first; ``changes`` are other programs."""
    programs = {"one": f"open({str(folder / 'one')!r}, 'a').write('1')", "two": "print('two')", "three": ""}
    programs |= changes
    needs = {"two": ["one"], "three": []}
    return [
        steps.Step(name, name, command(program), needs=needs.get(name, ()))
        for name, program in programs.items()
    ]


def walk(list_of_steps, folder, about=None):
    about = about or {"model": "x"}
    settings = {"environment": os.environ, "commit": "abc", "limit": 60}
    return list(walked.walk(list_of_steps, folder, about, **settings))


def test_steps_that_are_done_are_not_repeated(tmp_path):
    first = walk(short_steps(tmp_path), tmp_path)
    assert [record["result"] for record in first] == ["ok"] * 3
    assert walk(short_steps(tmp_path), tmp_path) == first
    assert (tmp_path / "one").read_text() == "1"
    with pytest.raises(walked.OtherWalkError, match="give another --folder"):
        walk(short_steps(tmp_path), tmp_path, {"model": "y"})


def test_a_failure_is_told_and_only_what_needs_it_is_left_out(tmp_path):
    broken = "print('first line'); print('the reason'); raise SystemExit(3)"
    failed = walk(short_steps(tmp_path, one=broken), tmp_path)
    assert [record["result"] for record in failed] == ["failed", "skipped", "ok"]
    assert failed[0]["note"] == "exit code 3"
    assert failed[0]["tail"] == ["first line", "the reason"]
    assert failed[1]["note"] == "needs one"
    assert [record["result"] for record in walk(short_steps(tmp_path), tmp_path)] == ["ok"] * 3


def test_a_step_is_repeated_when_one_that_it_needs_was(tmp_path):
    walk(short_steps(tmp_path), tmp_path)
    state = json.loads((tmp_path / walked.STATE).read_text())
    state["steps"]["one"]["result"] = "failed"
    (tmp_path / walked.STATE).write_text(json.dumps(state))
    counting = f"open({str(tmp_path / 'two')!r}, 'a').write('2')"
    walk(short_steps(tmp_path, two=counting), tmp_path)
    assert (tmp_path / "two").read_text() == "2"
    walk(short_steps(tmp_path, two=counting), tmp_path)
    assert (tmp_path / "two").read_text() == "2"


def result(code, **changes):
    return measured.Measured(code, 1.0, 0.5, 10, 5, 0, **changes)


def test_a_good_exit_code_is_not_enough(tmp_path):
    leaves = steps.Step("a", "a", (), leaves=[tmp_path / "absent"])
    assert walked.judged(leaves, result(0), 0.0, "") == ("failed", f"left no {tmp_path / 'absent'}")
    killed = steps.Step("a", "a", (), kill_when=lambda: True)
    assert walked.judged(killed, result(0), 0.0, "")[0] == "failed"
    assert walked.judged(killed, result(-9), 0.0, "") == ("ok", "")
    assert walked.judged(killed, result(-9, over_limit=True), 0.0, "")[0] == "failed"
    warned = steps.Step("a", "a", (), accepted={0: "", 1: "with warnings"})
    assert walked.judged(warned, result(1), 0.0, "") == ("ok", "with warnings")
    assert walked.judged(warned, result(2), 0.0, "")[0] == "failed"


def test_a_training_that_began_anew_is_not_taken_for_a_resumed_one(tmp_path):
    way = steps.Walk("tiny", tmp_path, with_t5=False, device="cpu")
    resumed = next(step for step in way.steps() if step.name == "resumed")
    for name, seconds in (("round_000001", 10), ("round_000002", 30), ("round_000003.writing", 5)):
        (way.run / "checkpoints" / name).mkdir(parents=True)
        os.utime(way.run / "checkpoints" / name, (seconds, seconds))
    assert resumed.check(20.0, "") == "from round_000001 to round_000002"
    with pytest.raises(steps.NotLeftError, match="began anew"):
        resumed.check(5.0, "")


def test_every_command_composes(tmp_path, monkeypatch):
    way = steps.Walk("sd3_5_medium", tmp_path, with_t5=True, device="cpu")
    found = {
        step.command[2].removeprefix("diffopd."): step.command[3:]
        for step in way.steps()
        if "-m" in step.command
    }
    assert set(found) == {"doctor", "train", "sample", "evaluate", "export"}
    from diffopd.arguments import hydra_arguments

    for name in ("doctor", "train", "sample", "evaluate"):
        cfg = build_config(name, hydra_arguments(list(found[name])))
        assert (cfg.model.image_size, cfg.model.text_length) == (64, 16)
    names = [step.name for step in way.steps()]
    assert [need for step in way.steps() for need in step.needs if need not in names] == []


def build_config(name, overrides):
    from random_teachers import composed

    return composed(name, overrides)


RECORDS = [
    {"name": "a", "title": "build", "result": "ok", "note": "", "seconds": 61.4, "silent": 2.0, "rss": int(4.94e9),
     "anonymous": 75_100_000, "written": 1_500_000, "left": 0, "commit": "abc"},
    {"name": "b", "title": "train", "result": "failed", "note": "exit code 1", "seconds": 3.0, "silent": 1.0,
     "rss": 10, "anonymous": None, "written": 0, "left": 0, "commit": "abc", "tail": ["the | reason"]},
    {"name": "c", "title": "sample", "result": "skipped", "note": "needs train"},
]  # fmt: skip


def test_the_table_has_a_line_for_each_step_and_the_last_lines_of_a_failure():
    lines = table.table(RECORDS).splitlines()
    assert lines[2:] == [
        "| build | ok | 61 s | 2 s | 4.94 GB (75 MB) | 1.5 MB (0.0 MB) |",
        "| train | **failed**: exit code 1 | 3 s | 1 s | 0.0 MB (-) | 0.0 MB (0.0 MB) |",
        "| sample | **skipped**: needs train |  |  |  |  |",
    ]
    about = {"command": "python benchmarks/rehearsal.py", "model": "tiny", "cores": 2, "shim": True}
    page = table.page(about, RECORDS)
    assert "first 64 inputs" in page
    assert "at commit abc, 2 cores" in page
    assert "## train: exit code 1\n\n```\nthe | reason\n```" in page
    assert "No shim" in table.page(about | {"shim": False}, RECORDS)


def test_a_dry_run_says_what_is_needed_and_makes_nothing(tmp_path, capsys):
    folder = tmp_path / "walk"
    assert rehearsal.main(["--model", "tiny", "--dry-run", "--folder", str(folder)]) == 0
    assert "disk that is needed" in capsys.readouterr().out
    assert not folder.exists()


def test_without_room_nothing_is_begun(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    folder = tmp_path / "walk"
    assert rehearsal.main(["--model", "tiny", "--folder", str(folder)]) == 2
    assert "give a --folder with more room" in capsys.readouterr().err
    assert not folder.exists()


def test_the_shim_reaches_every_python_that_has_it_in_its_path(tmp_path):
    shim = importlib.import_module("rehearsal_shim")
    environment = walked.environment_of(shim.install(tmp_path / "shim"))
    program = "import torch; x = torch.nn.Linear(70, 1, bias=False); x.weight.data.fill_(1); print(x(torch.ones(70)))"
    run = [sys.executable, "-c", program]
    printed = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert "64." in printed
    assert torch.nn.Linear(70, 1, bias=False).forward.__name__ == "forward"


@pytest.mark.slow
def test_the_tiny_walk_goes_well(tmp_path):
    places = ["--folder", str(tmp_path / "walk"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    program = [sys.executable, str(FOLDER / "rehearsal.py"), "--model", "tiny", *places]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "out" / "rehearsal.json").read_text())
    found = {record["name"]: record for record in written["steps"]}
    assert list(found) == [
        "build", "doctor", "killed", "resumed", "sample", "evaluate",
        *(f"export_{name}" for name in steps.FORMATS), "stock_diffusers", "stock_merged",
    ]  # fmt: skip
    assert {record["result"] for record in found.values()} == {"ok"}
    assert found["killed"]["code"] == -9
    assert found["stock_diffusers"]["note"] == "LoRA on 15 layers, scale 2.0"
    assert all(record["rss"] > 50e6 for record in found.values())
    assert "| the same command, resumed | ok: from round_" in (tmp_path / "out" / "rehearsal.md").read_text()
