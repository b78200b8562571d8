"""Folders and adapters are looked at before weights load."""

import json
import shutil

import pytest
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from diffopd.build.experiment import build
from diffopd.check import ConfigError, check_config, check_fit, reward_is_asked
from diffopd.evaluate.settings import register_evaluation_id
from diffopd.model import SD3Model

ODE = "+experiment=mopd_ode"
register_evaluation_id()  # as diffopd.evaluate does


def parts_of(cfg):
    return {"adapter": instantiate(cfg.adapter), "teacher": instantiate(cfg.teacher)}


def test_a_model_and_teachers_that_are_there_pass(composed, on_disk):
    cfg = composed(ODE, *on_disk)
    check_config(cfg)
    check_fit(cfg, parts_of(cfg))


def test_missing_folders_are_named_together(composed, on_disk, tmp_path):
    cfg = composed(ODE, *on_disk, f"model.path={tmp_path}/none", f"teacher.teachers.ocr.path={tmp_path}/nil")
    with pytest.raises(ConfigError) as refused:
        check_config(cfg)
    model, teacher = str(refused.value).splitlines()
    assert model.startswith(f"model.path={tmp_path}/none: there is no such folder")
    assert teacher.startswith(f"teacher.teachers.ocr.path={tmp_path}/nil: there is no such folder")


def test_a_folder_that_is_no_pipeline(composed, on_disk, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no model_index.json; give the folder of a whole pipeline"):
        check_config(composed(ODE, *on_disk, f"model.path={tmp_path}"))


def test_a_run_folder_that_cannot_be_written(composed, on_disk, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^paths.run=.*: .*file is a file, where a folder is needed"):
        check_config(composed(ODE, *on_disk, f"paths.run={tmp_path}/file/run"))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"^paths.run=.*: no permission to write in .*paths.root"):
        check_config(composed(ODE, *on_disk, f"paths.run={tmp_path}/run"))


def test_a_hub_id_is_left_to_the_hub(composed, on_disk):
    check_config(composed(ODE, *on_disk, "model.path=someone/something"))


def test_models_that_are_not_used_are_not_looked_for(composed, tmp_path):
    check_config(composed("+experiment=mini_pretrain", f"model.path={tmp_path}/none"))


def test_a_teacher_without_a_card(composed, on_disk, teacher_folders, tmp_path):
    shutil.copytree(teacher_folders / "ocr", tmp_path / "ocr")
    (tmp_path / "ocr" / "card.json").unlink()
    with pytest.raises(ConfigError, match=r"teacher.teachers.ocr.path=.* holds no card.json, which has"):
        check_config(composed(ODE, *on_disk, f"teacher.teachers.ocr.path={tmp_path / 'ocr'}"))


def test_an_adapter_folder_of_an_evaluation(composed, on_disk, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter_path=.*: there is no such folder"):
        check_config(
            composed(on_disk[0], f"adapter_path={tmp_path}/none", config_name="evaluate"), "evaluate"
        )


def test_a_teacher_without_a_card_is_fine_where_the_config_says_its_guidance(
    composed, on_disk, teacher_folders, tmp_path
):
    tensors = load_file(teacher_folders / "ocr" / "adapter_model.safetensors")
    renamed = {key.replace("base_model.model.", "transformer."): value for key, value in tensors.items()}
    save_file(renamed, tmp_path / "ocr.safetensors")
    path = f"teacher.teachers.ocr.path={tmp_path / 'ocr.safetensors'}"
    with pytest.raises(
        ConfigError, match=r"ocr.safetensors holds no card.json, .* teacher.teachers.ocr.guidanc"
    ):
        check_config(composed(ODE, *on_disk, path))
    cfg = composed(ODE, *on_disk, path, "teacher.teachers.ocr.guidance_scale=4.5")
    check_config(cfg)
    check_fit(cfg, parts_of(cfg))


def test_hub_paths_are_left_to_the_hub(composed, on_disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_config(
        composed(
            ODE,
            *on_disk,
            "teacher.teachers.ocr.path=someone/teachers/ocr",
            "regulariser=anchor",
            "regulariser.path=someone/anchor",
            "adapter.start=someone/start",
        )
    )
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError) as refused:
        check_config(composed(ODE, *on_disk, "regulariser=anchor", "regulariser.path=runs/misspelt"))
    assert str(refused.value).startswith("regulariser.path=runs/misspelt: there is no such folder or file")


def test_a_pickle_is_refused_before_weights_load(composed, on_disk, tmp_path):
    (tmp_path / "ocr.bin").write_bytes(b"x")
    path = f"teacher.teachers.ocr.path={tmp_path / 'ocr.bin'}"
    cfg = composed(ODE, *on_disk, path, "teacher.teachers.ocr.guidance_scale=1")
    with pytest.raises(
        ConfigError, match=r"teacher.teachers.ocr.path=.*ocr.bin is a pickle, which can run code"
    ):
        check_fit(cfg, parts_of(cfg))


def test_a_teacher_of_another_rank_than_its_config_says(composed, on_disk, teacher_folders, tmp_path):
    shutil.copytree(teacher_folders / "ocr", tmp_path / "ocr")
    file = tmp_path / "ocr" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": 8}))
    cfg = composed(ODE, *on_disk, f"teacher.teachers.ocr.path={tmp_path / 'ocr'}")
    check_config(cfg)
    with pytest.raises(
        ConfigError, match=r"teacher.teachers.ocr.path=.* has shape \(4, 16\), .* rank 8 .*\(8, 16\)"
    ):
        check_fit(cfg, parts_of(cfg))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("adapter.target_modules=[mlp.up]", r"has 'mlp\.up', with which the name of no linear layer"),
        ("model.lora_modules=[attn.to_q,attn.to_qk]", r"has 'attn\.to_qk', .* the nearest is attn\.to_q"),
        ("model.lora_modules=[attn.to_qattn.to_k]", r"without a comma: attn\.to_q,attn\.to_k"),
    ],
)
def test_a_student_whose_modules_the_model_lacks(composed, on_disk, setting, message):
    cfg = composed(ODE, *on_disk, setting)
    with pytest.raises(ConfigError, match=rf"adapter\.target_modules .*{message}"):
        check_fit(cfg, parts_of(cfg))


@pytest.mark.parametrize(
    "refused",
    [["+phase.rond=fused"], ["loss=reverse_kl"], ["adapter.rank=0"], ["data.tasks.ocr.path=none.txt"]],
)
def test_build_refuses_before_weights_load(composed, on_disk, tmp_path, monkeypatch, refused):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(SD3Model, "__init__", load)
    # What is built before the model needs no folder of a run, except this one.
    cfg = composed(ODE, *on_disk, f"paths.run={tmp_path}", *refused)
    with pytest.raises(ConfigError):
        build(cfg)


def test_build_refuses_teachers_of_another_architecture(
    composed, on_disk, other_architecture, tmp_path, monkeypatch
):
    def load(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(SD3Model, "__init__", load)
    transformer = other_architecture.folder / "transformer" / "config.json"
    wider = tmp_path / "wider"
    shutil.copytree(other_architecture.folder, wider)
    config = json.loads(transformer.read_text())
    (wider / "transformer" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    cfg = composed(ODE, *on_disk, f"paths.run={tmp_path}", f"model.path={wider}")
    with pytest.raises(
        ConfigError, match=r"teacher.teachers.composition.path=.* has shape .* use the model the"
    ):
        build(cfg)


START = ("adapter.rank=4", "adapter.alpha=8", "adapter.target_modules=[attn.to_q,attn.to_v]")
"""The shape of the teachers on disk."""


def test_a_start_of_the_same_shape_passes(composed, on_disk, teacher_folders):
    cfg = composed(ODE, *on_disk, f"adapter.start={teacher_folders / 'ocr'}", *START)
    check_config(cfg)
    check_fit(cfg, parts_of(cfg))


def test_a_start_of_another_strength_passes_and_is_told(composed, on_disk, teacher_folders, caplog):
    """The teachers are saved with strength 1."""
    cfg = composed(ODE, *on_disk, f"adapter.start={teacher_folders / 'ocr'}", *START, "adapter.alpha=16")
    with caplog.at_level("INFO"):
        check_fit(cfg, parts_of(cfg))
    (note,) = [record.getMessage() for record in caplog.records if "adapter.start" in record.getMessage()]
    assert "has scale 1, this run's adapter 4 (adapter.alpha / adapter.rank); its factors B are" in note
    assert "scaled by 0.25, so the model starts with the same outputs" in note


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "adapter.rank=8",
            r"adapter.start=.* has rank 4, this run's adapter has 8; set adapter.rank=4 and, .*alpha=4",
        ),
        (
            "adapter.target_modules=[attn.to_q]",
            r"adapter.start=.* is for other layers .* set these to the same",
        ),
    ],
)
def test_a_start_of_another_shape(composed, on_disk, teacher_folders, setting, message):
    cfg = composed(ODE, *on_disk, f"adapter.start={teacher_folders / 'ocr'}", *START, setting)
    with pytest.raises(ConfigError, match=message):
        check_fit(cfg, parts_of(cfg))


def test_a_start_that_is_not_there(composed, on_disk, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter.start=.*/none: there is no such folder"):
        check_config(composed(ODE, *on_disk, f"adapter.start={tmp_path}/none"))


def test_teachers_of_guidance_for_a_model_that_has_none(composed, on_disk):
    guided = ("model.step_distilled=true", "model.guidance_scale=1", "teacher.teachers.ocr.guidance_scale=3")
    cfg = composed(ODE, *on_disk, *guided)
    with pytest.raises(ConfigError, match=r"teacher ocr is asked at guidance 3, .*ocr\.guidance_scale=1"):
        check_fit(cfg, parts_of(cfg))


def test_prompt_files_to_train_on_and_to_report_on(composed, on_disk, tmp_path):
    missing = [f"{group}.tasks.ocr.path={tmp_path}/{group}.txt" for group in ("data", "benchmark")]
    with pytest.raises(ConfigError) as refused:
        check_config(composed(ODE, *on_disk, *missing))
    assert str(refused.value).splitlines() == [
        f"{setting}: there is no such file ({tmp_path}/{group}.txt)"
        for setting, group in zip(missing, ("data", "benchmark"), strict=True)
    ]
    off = ("callbacks.samples.shares=[]", "callbacks.samples.every_n_rounds=0")
    for unread in (off, ("callbacks.samples.prompts=[a cat]",)):
        # without a report and samples nobody reads the benchmark
        with pytest.raises(ConfigError, match=r"^data\.[^\n]*$"):
            check_config(composed(ODE, *on_disk, *missing, "~report", *unread))
    with pytest.raises(ConfigError, match=r"\nbenchmark\.tasks\.ocr\.path=.*there is no such file"):
        check_config(composed(ODE, *on_disk, *missing, "~report"))


def test_the_prompt_file_of_an_evaluation(composed, on_disk, tmp_path):
    overrides = ["benchmark=ocr", f"benchmark.path={tmp_path}/none.txt"]
    with pytest.raises(ConfigError, match=r"^benchmark.path=.*/none.txt: there is no such file"):
        check_config(composed(on_disk[0], *overrides, config_name="evaluate"), "evaluate")


@pytest.mark.parametrize(
    ("experiment", "overrides", "asked"),
    [
        ("mopd_ode", (), True),
        ("mopd_ode", ("phase.score_every_n_rounds=0",), False),
        ("mopd_ode", ("phase.score_every_n_rounds=0", "routing=automatic"), True),
        ("mopd_sft", ("phase.score_every_n_rounds=0",), False),
        ("mopd_sft", ("phase.score_every_n_rounds=0", "phase.best_of_n=2"), True),
        ("teacher_ocr", (), True),
        ("guard_ocr", (), True),
    ],
)
def test_prompts_have_to_suit_a_reward_that_is_asked(composed, experiment, overrides, asked):
    """The published recipe scores nothing, so GenEval's classes need not be those of the drawn world."""
    assert reward_is_asked(composed(f"+experiment={experiment}", *overrides)) == asked
