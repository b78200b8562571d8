import pytest

from diffopd.rank import is_first_process, launched_processes

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "RANK": "2",
    "LOCAL_RANK": "0",
    "NODE_RANK": "0",
}
SLURM = {"SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "opd"}


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
