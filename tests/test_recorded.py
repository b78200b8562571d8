"""The command that a run records makes the same run, typed into a shell as it stands."""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffopd.command.program import command
from diffopd.config.saved import from_arguments
from diffopd.report.methods.runs import read_run
from diffopd.run.recorded import NOTE, launched_by, note_command, recorded_command, typed
from support.slow import slow_but

pytestmark = pytest.mark.usefixtures("no_hydra_traces")

REDNESS = "+data.tasks.redness={path: redness.txt, prompts_per_round: 4, group_size: 1}"
BENCHMARK = "defaults:\n  - mini\n  - _self_\nname: mini_redness\n"


@pytest.fixture
def train(monkeypatch, tmp_path):
    """``train(*arguments)``: command and config of each run that the training command would make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "diffopd.command.program.check_config", lambda *_: None
    )  # what is named need not be there
    (tmp_path / "my_conf" / "benchmark").mkdir(parents=True)
    (tmp_path / "my_conf" / "benchmark" / "redness.yaml").write_text(BENCHMARK)

    def call(*arguments):
        runs = []

        @command("train", arguments=from_arguments)
        def main(cfg):
            folder = Path(cfg.paths.run)
            recorded = recorded_command("diffopd.train", folder)
            note_command("diffopd.train", folder)
            OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
            runs.append((recorded, OmegaConf.to_container(cfg, resolve=True)))

        monkeypatch.setattr(sys, "argv", ["diffopd train", *arguments])
        main()
        return runs

    return call


def without_places(cfg):
    """A config but for the folder of its run, which a job of a sweep has elsewhere."""
    folder = cfg["paths"]["run"]
    return json.loads(json.dumps(cfg).replace(folder, "FOLDER"))


COMMANDS = {
    "quotes": ["+experiment=mopd_ode", REDNESS, "name='the (first) run'", "~data.tasks.ocr"],
    "a config folder": ["--config-dir", "my_conf", "+experiment=mopd_ode", "benchmark=redness"],
    "a config folder, as one word": ["--config-dir=my_conf", "+experiment=mopd_ode", "benchmark=redness"],
    "where it goes": ["+experiment=mopd_ode", "hydra.run.dir='runs/a b'", "if_finished=skip"],
    "a sweep": ["-m", "+experiment=mopd_ode", "sampler.noise_level=0,0.7", "name='a,b'"],
    "a sweep of a file": ["--config-dir", "my_conf", "+experiment=ablation/states", "benchmark=redness"],
}


@pytest.mark.parametrize("name", slow_but(COMMANDS, "quotes", "a config folder", "where it goes", "a sweep"))
def test_the_recorded_command_makes_the_same_config(train, name):
    runs = train(*COMMANDS[name])
    assert len({recorded for recorded, _ in runs}) == len(runs)
    recorded, cfg = runs[-1]
    python, flag, module, *again = shlex.split(recorded)
    assert (python, flag, module) == ("python", "-m", "diffopd.train")
    ((recorded_again, cfg_again),) = train(*again)
    assert without_places(cfg_again) == without_places(cfg)
    assert recorded_again == recorded


def test_a_run_from_a_saved_config_names_it_and_works_again(train):
    train("+experiment=mopd_ode", "optimizer.lr=7e-3")
    ((recorded, cfg),) = train("from=runs/mopd_ode/seed0", "run_id=again", "seed=3")
    assert recorded == "python -m diffopd.train from=runs/mopd_ode/seed0 run_id=again seed=3"
    ((_, cfg_again),) = train(*shlex.split(recorded)[3:])
    assert cfg_again == cfg
    assert cfg["optimizer"]["lr"] == 7e-3
    jobs = train("-m", "from=runs/mopd_ode/seed0", "run_id=again", "seed=1,2", "trust_config=true")
    assert [recorded for recorded, _ in jobs] == [
        f"python -m diffopd.train from=runs/mopd_ode/seed0 trust_config=true run_id=again seed={seed}"
        for seed in (1, 2)
    ]


def test_a_run_from_its_own_config_keeps_the_command_that_made_it(train, tmp_path):
    ((made, cfg),) = train("+experiment=mopd_ode", "optimizer.lr=7e-3", "name='of mine'")
    for source in ("from=runs/of mine/seed0", "from=runs/of mine/seed0/config.yaml"):
        ((recorded, cfg_again),) = train(source)
        assert (recorded, cfg_again) == (made, cfg)
    ((longer, _),) = train("from=runs/of mine/seed0", "trainer.max_epochs=6")
    assert longer == f"{made} trainer.max_epochs=6"
    ((recorded, _),) = train("from=runs/of mine/seed0", "trainer.max_epochs=6")
    assert recorded == longer
    finished = tmp_path / "runs" / "of mine" / "seed0" / "finished.json"
    finished.write_text(json.dumps({"max_rounds": 2, "recipe": {"command": made}}))
    ((recorded, _),) = train("from=runs/of mine/seed0")
    assert recorded == made
    finished.unlink()
    (finished.parent / ".hydra" / NOTE).write_text(
        "a 'quote that does not end"
    )  # damaged: as if it were not there
    ((recorded, _),) = train("from=runs/of mine/seed0")
    assert recorded == "python -m diffopd.train 'from=runs/of mine/seed0'"


def test_without_a_command_line_nothing_is_made_up(tmp_path):
    assert recorded_command("diffopd.train", tmp_path) == ""


def test_the_report_shows_the_command_of_a_run_that_has_not_ended(train, tmp_path):
    ((made, cfg),) = train(*COMMANDS["quotes"])
    folder = tmp_path / cfg["paths"]["run"]
    assert read_run(folder).command == made
    (folder / ".hydra" / NOTE).unlink()  # of a version that did not note it
    assert shlex.split(read_run(folder).command)[3:] == COMMANDS["quotes"]


JOB = """
import sys, time
from pathlib import Path
from diffopd.run.recorded import launched_by, recorded_command
from diffopd.host.start import begin_launched
begin_launched(launched_by())
print(recorded_command("diffopd.train", Path()), flush=True)
time.sleep(600)
"""
LAUNCHER = """
import subprocess, sys, threading, time
from diffopd.run.recorded import typed
with typed(["-m", "+experiment=mopd_ode", "seed=0,1"]):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()  # Linux tells of each thread's end
    print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_job_in_a_process_of_its_own_knows_the_command_and_ends_with_it():
    """As joblib's are, which are neither forked nor given a command line."""
    command = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, JOB], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        job, recorded = command.stdout.readline(), command.stdout.readline()
        assert recorded == "python -m diffopd.train -m +experiment=mopd_ode seed=0,1\n"
        watched = os.pidfd_open(int(job))
        command.kill()
        assert command.stdout.read() == "interrupted: SIGTERM; start the same command again to resume\n"
        assert select.select([watched], [], [], 600)[0], (
            "the job did not end"
        )  # its stream closes before it ends
        os.close(watched)
    finally:
        command.kill()
        command.wait()
        command.stdout.close()


def test_what_was_typed_is_gone_when_the_program_is_done():
    with typed(["a=1"]):
        assert launched_by() is None  # in the command's own process
    assert launched_by() is None
    assert "DIFFOPD_LAUNCHER" not in os.environ
