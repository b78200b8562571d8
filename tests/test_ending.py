"""Ends that come from outside: code of the user's that ends the program, limits of the machine."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from diffopd.command.ending import EndedFromOutsideError, no_end_from_outside, why_stopped
from diffopd.command.program import STOPPED
from diffopd.host.signals import Ended


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_sys_exit_of_a_reward_is_an_error_that_names_its_place(code):
    def reward():
        sys.exit(code)

    with pytest.raises(EndedFromOutsideError) as found, no_end_from_outside(STOPPED):
        reward()
    told = why_stopped(found.value)
    assert told.startswith(f"sys.exit({code!r}) in {__file__}, line ")
    assert told.endswith(", in reward ended the command before it was done")


def test_an_exit_of_the_shell_of_python_and_ctrl_c_of_a_reward_are_errors_too():
    with pytest.raises(EndedFromOutsideError, match=r"sys.exit\(0\) in .*test_ending.py"):
        with no_end_from_outside(STOPPED):
            exit(0)
    with pytest.raises(EndedFromOutsideError, match=r"KeyboardInterrupt in .*test_ending.py"):
        with no_end_from_outside(STOPPED):
            raise KeyboardInterrupt


def test_an_end_of_our_own_passes():
    with pytest.raises(Ended) as end, no_end_from_outside(STOPPED):
        raise Ended(75)
    assert end.value.code == 75


EXITS = """
import os
from diffopd.command.ending import no_end_from_outside
with no_end_from_outside(1):
    child = os.fork()
    if not child:
        os._exit(0)  # a copy ends as it likes
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os._exit(CODE)
"""


@pytest.mark.parametrize(("asked", "code"), [(0, 1), (5, 5)])
def test_an_exit_that_nothing_can_catch_is_no_success(asked, code):
    program = EXITS.replace("CODE", str(asked))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == code, result.stderr
    assert ("stopped: os._exit(0) was called before the command was done" in result.stderr) == (asked == 0)


def test_the_way_out_is_given_back():
    before = os._exit
    with no_end_from_outside(STOPPED):
        assert os._exit is not before
    assert os._exit is before


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_what_the_machine_does_not_allow_is_told_without_a_traceback(number):
    told = why_stopped(OSError(number, os.strerror(number), "checkpoints"))
    assert f"({OSError(number, os.strerror(number), 'checkpoints')})" in told
    assert "the same command resumes" in told
    assert why_stopped(OSError(errno.ENOENT, "a fault of the program's")) is None


@pytest.fixture
def small_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_limit_on_files_is_told_whoever_writes(tmp_path):
    with pytest.raises(OSError, match="File too large") as plain:
        (tmp_path / "file").write_bytes(bytes(1 << 20))
    with pytest.raises(Exception, match="File too large") as safetensors:
        save_file({"x": torch.zeros(1 << 20)}, tmp_path / "x.safetensors")
    for found in (plain, safetensors):
        assert why_stopped(found.value).startswith("the file would exceed the size limit (see ulimit -f)")
