"""What docs/reward.md shows works as it stands there."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

PAGE = (Path(__file__).parents[2] / "docs" / "reward.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w*\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_a_set_of_rewards_of_ones_own(tmp_path, conf_dir, scorers, samples):
    assert set(FILES) == {"my_conf/reward/my_set.yaml"}
    file = tmp_path / "my_conf/reward/my_set.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(FILES["my_conf/reward/my_set.yaml"])
    (option,) = re.findall(r"`--config-dir my_conf (reward=my_set [^`]*)`", PAGE)
    overrides = option.replace("models/hpsv2", scorers["hpsv2"]["path"]).split()
    overrides = [overrides[0].replace("reward=", "+reward="), *overrides[1:]]
    overrides += [f"hydra.searchpath=[file://{tmp_path / 'my_conf'}]"]
    for name in ("pickscore", "clipscore"):
        at = f"reward.rewards.aesthetic.rewards.{name}"
        overrides += [f"{at}.path={scorers[name]['path']}", f"{at}.tokenizer_path=null"]
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        reward = instantiate(compose("train", overrides=overrides).reward)
    images, prompts = samples
    prompts = type(prompts)(prompts.texts, ("aesthetic",) * 6, *prompts._columns()[2:4], (0, 0, 0, 1, 1, 1))
    scores = reward(images, prompts)
    assert scores.value.reshape(2, 3).mean(1).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert set(scores.parts) == {"aesthetic/pickscore", "aesthetic/clipscore", "aesthetic/hpsv2"}
