import pytest

from diffopd.host.rank import is_first_process, lacks_srun, launched_processes, process_label

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "RANK": "2",
    "LOCAL_RANK": "0",
    "NODE_RANK": "0",
}
SLURM = {"SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "opd"}


@pytest.mark.parametrize(
    ("environment", "launched", "first"),
    [
        ({}, None, True),
        ({"LOCAL_RANK": "1"}, None, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, None, False),
        (TORCHRUN, ("torchrun", 4), False),
        (TORCHRUN | {"RANK": "0"}, ("torchrun", 4), True),
        (SLURM, ("SLURM", 16), True),
        (SLURM | {"SLURM_PROCID": "8"}, ("SLURM", 16), False),
        # A shell that SLURM gave, in which a command is typed.
        (SLURM | {"SLURM_JOB_NAME": "bash", "SLURM_PROCID": "8"}, None, True),
    ],
)
def test_what_launchers_say(environment, launched, first):
    assert launched_processes(environment) == launched
    assert is_first_process(environment) is first


def test_a_script_of_slurm_without_srun_is_one_process():
    script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    assert launched_processes(script) is None
    assert is_first_process(script)
    assert lacks_srun(script)
    assert not lacks_srun(SLURM)
    assert not lacks_srun({})
    assert not lacks_srun(script | {"SLURM_JOB_NAME": "interactive"})


@pytest.mark.parametrize(
    ("environment", "label"),
    [(TORCHRUN, "2"), (SLURM | {"SLURM_PROCID": "8"}, "8"), ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, "1.0")],
)
def test_what_a_process_is_called(environment, label):
    assert process_label(environment) == label
