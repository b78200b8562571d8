"""Settings of a teacher that is the model itself; what it does in a run is in tests/phase/test_dopsd.py."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from diffopd.check import ConfigError, check_config
from diffopd.config.folder import config_folder
from diffopd.context import Text
from diffopd.teacher import SelfTeacher

GOOD = {
    "weights": "ema",
    "decay": 0.9999,
    "average_dtype": "fp32",
    "start": "student",
    "guidance_scale": 1.0,
    "context": Text(key="long"),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "copy"}, r"teacher\.weights=copy must be one of ema, frozen, live"),
        ({"average_dtype": "bf16"}, r"teacher\.average_dtype=bf16 must be one of fp32, bf16_as_released"),
        ({"start": "zero"}, r"teacher\.start=zero must be one of student, base"),
        ({"decay": 1.0}, r"teacher\.decay=1\.0 must be at least 0 and less than 1"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SelfTeacher(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=sd3_5_medium"],
            r"context=reference shows the teacher pictures, and model=\w+ reads none; choose context=text",
        ),
        (["phase.score_every_n_rounds=5"], r"score_every_n_rounds=5 scores samples with a reward, and none"),
        (["teacher.guidance_scale=2"], r"teacher\.guidance_scale=2, but model\.step_distilled=true"),
        (["teacher.decay=1"], r"teacher\.decay=1 must be a number in \[0, 1\)"),
        (["teacher.weights=mean"], r"teacher\.weights=mean must be one of ema, frozen, live"),
        (["context=text"], r"context\.key is required and has no value"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(world, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(world.config("dopsd", tmp_path / "run", *overrides))


def test_a_text_context_suits_a_model_without_eyes(world, tmp_path):
    cfg = world.config(
        "dopsd",
        tmp_path / "run",
        f"model.path={world.pipeline}",
        "model=mini_sd3",
        "context=text",
        "context.key=long",
    )
    check_config(cfg)


def test_data_without_pictures_is_refused_where_pictures_are_shown():
    message = r"context=reference shows the teacher the picture .* the data has none; choose data=pairs"
    with pytest.raises(ConfigError, match=message):
        with initialize_config_dir(config_folder(), version_base="1.3"):
            check_config(compose("train", overrides=["+experiment=dopsd", "data=ocr", "paths.run=."]))
