"""What a user sees of a refused command line: one message and exit code 2; a traceback only on request."""

import errno
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from diffopd import sample
from diffopd.check import ConfigError
from diffopd.command.ending import EndedFromOutsideError
from diffopd.command.program import INTERRUPTED, REFUSED, STOPPED, command, ending_when_asked, interrupted
from diffopd.config.aliases import choices
from diffopd.evaluate import __main__ as evaluate
from diffopd.host.signals import REQUESTS_TO_END
from diffopd.non_finite import NonFiniteError
from diffopd.reward.checked import RewardError
from diffopd.reward.server.http_json import ServerError
from support.slow import slow_but

CONF = Path(__file__).parents[1] / "conf"
ODE = "+experiment=mopd_ode"
NO_DASHES = "is not a flag; settings are written without dashes"


pytestmark = pytest.mark.usefixtures("no_hydra_traces")


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Run the training command up to its first step."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, step=lambda cfg: None):
        @command("train")
        def main(cfg):
            step(cfg)

        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        main()

    return call


OWN = """
# @package _global_
defaults:
  - mopd_ode
"""


MISTAKES = [
    (["phase.rond=fused", "loss=opdd", "seeed=1"],
     ["loss=opdd: there is", "phase.rond is not a setting of phase; did", "seeed is not a setting of"]),
    (["loss=opdd", "+phase.rond=fused", "optimizer.lr=-1"],
     ["loss=opdd: there is", "phase.rond is not a setting of diffopd.phase", "optimizer.lr=-1 must be"]),
    (["seed=0,1", "loss=opdd", "phase.rond=fused", "-m"], ["loss=opdd: there is", "phase.rond is not"]),
    (["loss=opdd", "loss.anything=1"], ["loss=opdd: there is"]),
    (["optimizer.lr=-1", "phase.round=fused", "phase.updates_per_round=2"],
     ["optimizer.lr=-1 must be", "phase.updates_per_round=2 needs phase.round=two_pass"]),
    (["sampler.num_steps=0", "phase.round=fused"], ["sampler.num_steps=0 must be a whole number"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_all_mistakes_are_told_and_none_that_only_follows(train, capsys, arguments, told):
    """Hydra itself stops at the first."""
    assert_told(train, capsys, [ODE, *arguments], told)


@pytest.mark.parametrize(("arguments", "told"), slow_but(MISTAKES, MISTAKES[1], rest=pytest.mark.slow))
def test_all_mistakes_are_told_of_an_experiment_of_ones_own(train, capsys, tmp_path, arguments, told):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(OWN.lstrip())
    assert_told(train, capsys, ["--config-dir", "own", "+experiment=mine", *arguments], told)


def assert_told(train, capsys, arguments, told):
    """The command ends with these mistakes, which begin so, and with no others."""
    with pytest.raises(SystemExit) as end:
        train(*arguments, step=lambda cfg: pytest.fail("the command ran"))
    assert end.value.code == REFUSED
    shown = capsys.readouterr().err.removeprefix("config error: ").splitlines()
    mistakes = [line for line in shown[:-1] if not line.startswith("loss has ")]
    assert len(mistakes) == len(told), shown
    for message in told:
        assert any(line.startswith(message) for line in mistakes), (message, shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name is required; start from an experiment, +experiment=... (absorb_composition, assistant, "),
        (["+experiment=mopd_od"], "experiment=mopd_od: there is no such choice; did you mean experiment="),
        ([ODE, "loss=opdd"], "loss=opdd: there is no such choice; did you mean loss=opd?\nloss has"),
        ([ODE, "phase.rond=fused"], "phase.rond is not a setting of phase; did you mean phase.round?"),
        ([ODE, "seeed=1"], "seeed is not a setting of train; did you mean seed?"),
        ([ODE, "loss=7"], "loss=7 must be one of clean_l2, "),
        ([ODE, "callbacks.x=a=b"],
         """callbacks.x=a=b: Hydra cannot read this value; as text it is written "callbacks.x='a=b'"\n"""),
        ([ODE, "callbacks.x=[a=b,c]"],
         "callbacks.x=[a=b,c]: Hydra cannot read this value; as a list of texts it is written "
         """"callbacks.x=['a=b','c']"\n"""),
        ([ODE, "callbacks.x={a: b(c)d}"],
         "callbacks.x={a: b(c)d}: Hydra cannot read this value; quote the texts in it, and close what is "),
        (["loss=opd"], "loss=opd: no loss is chosen yet that this could replace; add one with +loss=opd"),
        ([ODE, "+phase.rond=fused"], "phase.rond is not a setting of diffopd.phase.DistillPhase"),
        ([ODE, "loss=reverse_kl"], "loss=reverse_kl is a KL divergence"),
        ([ODE, "+callbacks.samples.prompts=['']"], "callbacks.samples.prompts=[''] must be a list of "
         "texts (at least 1), none of them empty, or null"),
    ],
)  # fmt: skip
def test_refusals(train, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        train(*arguments, step=lambda cfg: pytest.fail("the command ran"))
    assert end.value.code == REFUSED
    shown = capsys.readouterr().err
    assert shown.startswith(f"config error: {message}")
    assert "Traceback" not in shown
    assert shown.endswith("(debug=true shows the traceback)\n")


def test_debug_shows_where_it_arose(train):
    with pytest.raises(ConfigError, match=r"resume=x must be one of"):
        train(ODE, "resume=x", "debug=true")


def test_errors_while_running_keep_their_traceback(train):
    def fail(cfg):
        raise ValueError("not the config's fault")

    with pytest.raises(ValueError, match="not the config's fault"):
        train("+experiment=mini_autoencoder", step=fail)


def test_a_full_disk_ends_in_a_message(train, capsys):
    def fail(cfg):
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoints")

    with pytest.raises(SystemExit) as end:
        train("+experiment=mini_autoencoder", step=fail)
    assert end.value.code == STOPPED
    shown = capsys.readouterr().err
    assert shown.startswith(
        "stopped: no space left on the disk ([Errno 28] No space left on device: 'checkpoints')"
    )
    assert "the same command resumes from the newest checkpoint" in shown
    assert "Traceback" not in shown
    with pytest.raises(OSError, match="No space left"):
        train("+experiment=mini_autoencoder", "debug=true", step=fail)


def test_a_number_that_is_not_finite_ends_in_its_report(train, capsys):
    def fail(cfg):
        raise NonFiniteError("loss", "loss is nan in round 3")

    with pytest.raises(SystemExit) as end:
        train("+experiment=mini_autoencoder", step=fail)
    assert end.value.code == STOPPED
    assert capsys.readouterr().err == "stopped: loss is nan in round 3\n(debug=true shows the traceback)\n"
    with pytest.raises(NonFiniteError):
        train("+experiment=mini_autoencoder", "debug=true", step=fail)


def test_a_server_that_does_not_score_ends_in_a_message_and_a_failing_reward_in_its_traceback(train, capsys):
    def fail(cfg, cause):
        raise RewardError("RemoteReward", "reward.address=http://x", "does not answer", None) from cause

    with pytest.raises(SystemExit) as end:
        train("+experiment=mini_autoencoder", step=lambda cfg: fail(cfg, ServerError("refused", None)))
    assert end.value.code == STOPPED
    assert capsys.readouterr().err.startswith(
        "stopped: reward.address=http://x (RemoteReward) does not answer"
    )
    with pytest.raises(RewardError):
        train("+experiment=mini_autoencoder", step=lambda cfg: fail(cfg, KeyError("a user's own code")))


@pytest.mark.parametrize("debug", [[], ["debug=true"]])
def test_a_reward_that_exits_with_0_is_no_success(train, capsys, debug):
    with pytest.raises((SystemExit, EndedFromOutsideError)) as end:
        train("+experiment=mini_autoencoder", *debug, step=lambda cfg: sys.exit(0))
    if debug:
        assert end.type is EndedFromOutsideError
        return
    assert end.value.code == STOPPED
    assert re.match(
        r"stopped: sys.exit\(0\) in .*test_command.py, line \d+, in <lambda>", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "mopd_ode"], f"--experiment {NO_DASHES}: +experiment=mopd_ode ("),
        (["--seed=3"], f"--seed {NO_DASHES}: seed=3 ("),
        (["--experimental-rerun", "x"], "--experimental-rerun is not offered; from=<run folder> repeats"),
    ],
)  # fmt: skip
def test_what_looks_like_a_flag_and_is_none(train, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        train(*arguments, step=lambda cfg: pytest.fail("the command ran"))
    assert end.value.code == REFUSED
    assert capsys.readouterr().err.startswith(f"config error: {message}")


def test_evaluate_without_arguments_starts_no_work(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with pytest.raises(SystemExit) as end:
        evaluate.main()
    assert end.value.code == REFUSED
    assert "give adapter=<PEFT folder>, or benchmark=mini alone for the base model" in capsys.readouterr().err


def test_a_message_has_the_names_that_were_typed(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample", "prompt=x", "adapter=absent"])
    with pytest.raises(SystemExit):
        sample.main()
    shown = capsys.readouterr().err
    assert shown.startswith("config error: adapter=absent: there is no such folder")
    assert "adapter_path" not in shown


@pytest.mark.parametrize("name", ["run", "checkpoint"])
def test_who_names_a_run_to_draw_with_is_told_of_adapter(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sample", "prompt=x", f"{name}=runs/x"])
    with pytest.raises(SystemExit):
        sample.main()
    shown = capsys.readouterr().err
    assert shown.startswith(
        f"config error: {name} is not a setting of sample; adapter=<a {name}'s folder> takes"
    )


def test_a_folder_that_cannot_be_made_ends_in_a_message(train, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        train("+experiment=mini_autoencoder", "paths.root=file", step=lambda cfg: pytest.fail("it ran"))
    assert end.value.code == REFUSED
    assert capsys.readouterr().err.startswith("config error: the run's folder cannot be made: ")


def test_the_job_has_the_commands_name_and_the_environment_is_as_before(train):
    before, names = dict(os.environ), []
    train("+experiment=mini_autoencoder", step=lambda cfg: names.append(HydraConfig.get().job.name))
    assert names == ["train"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("root", ["null", "''", "' '"])
def test_runs_are_not_written_to_a_folder_called_none(train, capsys, tmp_path, root):
    for arguments in ([ODE], ["-m", ODE, "seed=0,1"]):
        with pytest.raises(SystemExit) as end:
            train(*arguments, f"paths.root={root}", step=lambda cfg: pytest.fail("the command ran"))
        assert end.value.code == REFUSED
        assert "must be text, and not empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_runs_once_for_each_value(train, tmp_path):
    rates, values = [], "optimizer.lr=1e-3,2e-3"
    train("-m", "+experiment=mini_autoencoder", values, step=lambda cfg: rates.append(cfg.optimizer.lr))
    assert rates == [1e-3, 2e-3]
    folders = {str(file.parents[1].relative_to(tmp_path)) for file in tmp_path.rglob(".hydra/config.yaml")}
    runs = "runs/mini_autoencoder/optimizer.lr="
    assert folders == {f"{runs}0.001/seed0", f"{runs}0.002/seed0"}


def test_an_interruption_ends_the_sweep(train):
    seeds = []

    def step(cfg):
        seeds.append(cfg.seed)
        interrupted("asked to end")

    with pytest.raises(SystemExit) as end:
        train("-m", "+experiment=mini_autoencoder", "seed=0,1", step=step)
    assert (end.value.code, seeds) == (INTERRUPTED, [0])


@pytest.mark.parametrize("number", REQUESTS_TO_END)
def test_a_request_to_end_ends_with_a_code_of_its_own(capsys, number):
    before = signal.getsignal(number)

    def ask():
        with ending_when_asked():
            os.kill(os.getpid(), number)
            pytest.fail("it went on")

    with pytest.raises(SystemExit) as end:
        ask()
    assert end.value.code == INTERRUPTED
    assert INTERRUPTED not in (0, REFUSED, STOPPED)
    message = f"interrupted: {number.name}; start the same command again to resume\n"
    assert capsys.readouterr().err == message
    assert signal.getsignal(number) == before


def test_a_sweep_over_seeds_finds_the_runs_of_single_commands(train, tmp_path):
    train("-m", "+experiment=mini_autoencoder", "seed=0,1", step=lambda cfg: None)
    folders = {str(file.parents[1].relative_to(tmp_path)) for file in tmp_path.rglob(".hydra/config.yaml")}
    assert folders == {"runs/mini_autoencoder/seed0", "runs/mini_autoencoder/seed1"}


def test_the_papers_noise_sweep_composes_three_jobs(train, monkeypatch):
    levels = []
    # Neither checked nor run: teachers need not be there.
    monkeypatch.setattr("diffopd.command.program.check_config", lambda *_: None)
    values = "sampler.noise_level=0,0.3,0.7"
    train("-m", ODE, values, step=lambda cfg: levels.append(cfg.sampler.noise_level))
    assert levels == [0, 0.3, 0.7]


PROGRAMS = ["train", "evaluate", "sample", "cascade", "table", "ablations", "report", "export", "doctor"]
PROGRAMS += ["reward_server", "replay"]


@pytest.mark.parametrize("name", slow_but(PROGRAMS, "train", "report", "doctor"))
def test_help_shows_examples_and_every_group_with_its_choices(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        command(name)(lambda cfg: pytest.fail("the command ran"))()
    assert end.value.code in (0, None)
    shown = capsys.readouterr().out
    groups = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    assert len(groups) > 15
    for folder in groups:
        listed = ", ".join(choices(folder.name))
        assert re.search(rf"^{folder.name}: {listed}$", shown, re.MULTILINE), folder.name
    assert shown.count(f"python -m diffopd.{name} ") >= 2
