"""The whole examination: its exit codes, and that it leaves nothing."""

import io
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from diffopd.check import ConfigError
from diffopd.doctor import measure
from diffopd.doctor.examine import examine

SMALL = (
    *("reward=picture_quality", "sampler.num_steps=4", "phase.conflict_every_n_rounds=0"),
    *("~benchmark", "~report"),
)


@pytest.fixture
def examined(world, tmp_path, monkeypatch):
    """``examined(experiment, *overrides) -> (exit code, printed)``; what is left anywhere is an error."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(experiment, *overrides, pairs=None):
        cfg = world.config(experiment, tmp_path / "run", *overrides)
        OmegaConf.set_struct(cfg, False)
        cfg.scorer_pairs = pairs or {}
        printed = io.StringIO()
        code = examine(cfg, Console(width=300, file=printed))
        assert list(tmp_path.iterdir()) == [temporary], "the run's folder was made"
        assert not list(temporary.iterdir()), "the temporary folder was left"
        return code, printed.getvalue()

    return run


def write_reward(folder, value):
    (folder / "my_reward.py").write_text(
        "import diffopd.types, torch\n"
        "class Mine:\n"
        "    def __call__(self, images, prompts):\n"
        f"        return {value}\n"
        "    def known_pair(self):\n"
        "        return diffopd.types.KnownPair.of(torch.ones(3, 8, 8), torch.zeros(3, 8, 8), 'white')\n"
    )


def test_a_sound_training_is_fine_and_its_rounds_are_real(examined, monkeypatch):
    kept = []
    real = measure.measure
    monkeypatch.setattr(
        "diffopd.doctor.examine.measure", lambda *a, **k: kept.append(real(*a, **k)) or kept[0]
    )
    code, printed = examined("mopd_ode", *SMALL, "phase.score_every_n_rounds=4", "trainer.max_epochs=9")
    assert code == 0, printed
    for told in (
        "DistillPhase",
        "prediction, without the report",
        "reward.rewards.contrast (ContrastReward)",
    ):
        assert told in printed
    (found,) = kept
    first, fuller, plain = found.rounds
    assert (first.kind, fuller.kind, plain.kind) == ("first", "fuller", "plain")
    assert {"rewards", "decoding", "teachers", "backward", "update"} <= set(fuller.parts)
    assert {"rewards", "decoding"}.isdisjoint(plain.parts)
    assert all(0 < sum(one.parts.values()) <= one.seconds for one in found.rounds)
    assert found.checkpoint_bytes > 0
    assert found.end_bytes > 0
    assert found.peak_bytes > found.weight_bytes > 0


def test_the_prompt_cache_is_predicted_and_left_alone(examined, tmp_path_factory, monkeypatch):
    """A few prompts are encoded in a temporary folder; those the cache holds already count for nothing."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("diffopd.doctor.prompts.SAMPLE", 3)
    given = ("mopd_ode", *SMALL, f"model.prompt_cache={cache}", "phase.score_every_n_rounds=0")
    code, printed = examined(*given, "trainer.max_epochs=3")
    assert code == 0, printed
    assert not list(cache.iterdir())
    # 3 tasks x 2 prompts x 3 rounds, and the empty one.
    assert "encoding 3 of the 19 prompts that the prompt cache will hold" in printed
    assert re.search(r"prompt cache +[0-9.]+ MiB +19 prompts of", printed)
    assert "measuring round 1 of 2 (the first, which warms up)" in printed
    assert "adapter saved in" not in printed
    monkeypatch.setattr("diffopd.doctor.checks.shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    code, printed = examined(*given, "trainer.max_epochs=3")
    assert code == 2
    assert re.search(r"would fail +prompt cache +about .* needed, 0.00 GiB free", printed), printed


def test_a_warning_ends_in_1(examined):
    code, printed = examined("mopd_ode", *SMALL, "phase.micro_batch_size=4", "trainer.max_epochs=1")
    assert code == 1, printed
    assert "does not divide the 6 samples" in printed


def test_what_the_config_shows_to_fail_is_not_even_built(examined, monkeypatch):
    monkeypatch.setattr("diffopd.doctor.measure.build", lambda cfg: pytest.fail("it was built"))
    code, printed = examined("teacher_ocr", "data.tasks.ocr.group_size=1")
    assert code == 2
    assert "would fail" in printed


@pytest.mark.parametrize("value", ["-images.mean((1, 2, 3))", "0 * images.mean((1, 2, 3))"])
def test_a_scorer_in_the_wrong_order_or_without_difference_ends_in_2(
    examined, monkeypatch, tmp_path_factory, value
):
    folder = tmp_path_factory.mktemp("mine")
    write_reward(folder, value)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "my_reward", raising=False)
    own = ("reward=custom", "reward._target_=my_reward.Mine", "trainer.max_epochs=1")
    code, printed = examined("teacher_aesthetic", *own, "~benchmark", "~report")
    assert code == 2
    assert "prediction" not in printed, "no round is measured with such a scorer"
    assert "reward (Mine) gives" in printed
    assert "cannot be trusted" in printed
    assert "check_scorers" not in printed


def test_a_round_that_fails_ends_in_2(examined, monkeypatch):
    def fail(*_):
        raise RuntimeError("half way")

    monkeypatch.setattr("diffopd.phase.distill.DistillPhase.training_step", fail)
    code, printed = examined("mopd_ode", *SMALL, "trainer.max_epochs=1")
    assert code == 2
    assert "RuntimeError: half way" in printed


def test_a_missing_prompt_file_is_a_config_error(examined, tmp_path):
    with pytest.raises(ConfigError, match=r"data.tasks.ocr.path=.*none.txt: there is no such file"):
        examined("mopd_ode", f"data.tasks.ocr.path={tmp_path / 'none.txt'}")


def test_one_process_of_several_is_measured_with_its_share(plan, world, tmp_path):
    plan_of_two = plan("mopd_ode", "trainer=ddp", "trainer.devices=2", "logger=many")
    cfg = world.config("mopd_ode", tmp_path, "trainer=ddp", "trainer.devices=2", "logger=many")
    changed = measure.trial_config(cfg, plan_of_two, "elsewhere")
    assert (changed.trainer.devices, changed.trainer.strategy) == (1, "auto")
    assert {entry.prompts_per_round for entry in changed.data.tasks.values()} == {1}
    assert set(changed.logger) == {"csv", "tensorboard"}
    assert "round_progress" not in changed.callbacks
    assert changed.paths.run == "elsewhere"
    assert cfg.trainer.devices == 2, "the config itself stays"


def test_the_command_has_all_settings_of_train(tmp_path):
    from hydra import compose, initialize_config_dir

    from diffopd.check import check_config
    from diffopd.config.folder import config_folder

    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose("doctor", overrides=["+experiment=mopd_ode", f"paths.root={tmp_path}"])
        train = compose("train", overrides=["+experiment=mopd_ode"])
    check_config(cfg, "doctor")
    assert set(cfg) == set(train) | {"scorer_pairs"}
    assert Path(cfg.paths.run) == tmp_path / "mopd_ode" / "seed0"
