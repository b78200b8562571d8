"""A process beside the first repeats nothing that libraries tell every process, and keeps its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from diffopd.host.start import begin
begin()
import logging, warnings
from diffopd.host.quiet import say_only_what_is_new
say_only_what_is_new()
warnings.warn("the same in every process")
logging.getLogger("torchmetrics").warning("the same in every process")
logging.getLogger("diffopd.phase").warning("a task of this process's samples")
logging.getLogger("transformers").error("an error")
print("a line of a reward")
"""


def test_lines_of_a_further_process():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "LOCAL_RANK": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[process 1] a line of a reward\n"
    assert result.stderr == (
        "[process 1] [diffopd.phase][WARNING] - a task of this process's samples\n"
        "[process 1] [transformers][ERROR] - an error\n"
    )


@pytest.mark.parametrize(
    "start",
    [
        "import diffopd; diffopd.compose('mopd_ode')",
        "import sys; sys.argv = ['x', '--cfg', 'job', 'prompt=x']; from diffopd.sample import main; main()",
    ],
)
def test_noise_is_off_before_a_config_brings_the_libraries(start):
    """A folder's name may need the identity of the weights while the config is composed."""
    look = "import logging; assert logging.getLogger('transformers.utils.import_utils').filters"
    subprocess.run([sys.executable, "-c", f"{start}\n{look}"], check=True, stdout=subprocess.DEVNULL)
