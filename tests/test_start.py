"""What stands before the first import: requests to end, and an output that nobody reads."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffopd.__main__ import COMMANDS
from diffopd.command.program import ending_when_asked
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END
from diffopd.host.start import tolerant

SOURCE = Path(__file__).parents[1] / "src"
HEADER = """if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()
"""
ASKED_WHILE_IMPORTED = """
import os
try:
    os.kill(os.getpid(), int(os.environ["NUMBER"]))
except BaseException:  # as libraries do that tell of a failed import in their own words
    pass
os._exit(3)
"""


def ask_while_importing(folder, arguments, number, **environment):
    """Start a program whose first import of a library has a signal sent to itself."""
    for library in ("omegaconf", "yaml"):
        (folder / f"{library}.py").write_text(ASKED_WHILE_IMPORTED)
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, **environment, "NUMBER": str(int(number)), "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("number", REQUESTS_TO_END)
@pytest.mark.parametrize("program", [["diffopd.train"], ["diffopd", "--help"]], ids=" ".join)
def test_a_request_during_the_first_imports_ends_with_the_code_for_requeueing(tmp_path, program, number):
    result = ask_while_importing(tmp_path, program, number)
    assert result.returncode == INTERRUPTED
    assert result.stderr == f"interrupted: {number.name}; start the same command again to resume\n"


def test_every_command_begins_so():
    modules = [*COMMANDS.values(), "diffopd.worker"]
    for module in modules:
        text = (SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        before, header, _ = text.partition(HEADER)
        assert header, module
        assert before.count("import") == 1, module  # that of annotations


@pytest.mark.parametrize("environment", [{"LOCAL_RANK": "1"}, {"TORCHELASTIC_RUN_ID": "x", "RANK": "3"}])
def test_one_process_of_a_launch_speaks_for_all(tmp_path, environment):
    result = ask_while_importing(tmp_path, ["diffopd.worker"], signal.SIGTERM, **environment)
    assert (result.returncode, result.stderr) == (INTERRUPTED, "")


def test_a_request_in_the_midst_of_a_later_import_raises_nothing_there(tmp_path, monkeypatch, capfd):
    (tmp_path / "asked_while_imported.py").write_text(ASKED_WHILE_IMPORTED.replace("os._exit(3)", ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NUMBER", str(int(signal.SIGUSR1)))
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    # Where _exit does not end, the handler goes on to the ordinary end, which the module swallows.
    with ending_when_asked():
        importlib.import_module("asked_while_imported")
    assert codes == [INTERRUPTED]
    assert capfd.readouterr().err.startswith("interrupted: SIGUSR1; ")


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for file in (read, write):
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(file)


def test_what_nobody_reads_is_dropped(pipe):
    read, write = pipe
    stream = tolerant(io.TextIOWrapper(io.FileIO(write, "w", closefd=False), write_through=True))
    print("seen", file=stream, flush=True)
    assert os.read(read, 100) == b"seen\n"
    os.close(read)
    for _ in range(3):
        print("unseen", file=stream, flush=True)
    stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_other_errors_of_writing_are_told():
    with open("/dev/full", "w") as full:
        stream = tolerant(full)
        with pytest.raises(OSError, match="No space left"):
            print("lost", file=stream, flush=True)
        with pytest.raises(OSError, match="No space left"):
            stream.close()


def test_each_line_of_a_process_beside_the_first_says_so(pipe):
    read, write = pipe
    stream = tolerant(
        io.TextIOWrapper(io.FileIO(write, "w", closefd=False), write_through=True), "[process 1] "
    )
    print("one\ntwo", file=stream)
    print("three", end="", file=stream)
    print("!", file=stream, flush=True)
    assert os.read(read, 100) == b"[process 1] one\n[process 1] two\n[process 1] three!\n"


def test_a_stream_without_a_file_is_left_alone():
    stream = io.StringIO()
    assert tolerant(stream) is stream


READ_ONE_LINE = """
from diffopd.host.start import begin
begin()
import sys
from rich.console import Console
print("first", flush=True)
sys.stdin.read()  # until nobody reads
for _ in range(3):
    print("more", flush=True)
    print("more", file=sys.stderr, flush=True)
    Console().print("more")
open("done", "w").close()
"""


def test_a_program_outlives_the_reader_of_its_output(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", READ_ONE_LINE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout.readline() == b"first\n"
    for stream in (program.stdout, program.stderr, program.stdin):
        stream.close()
    assert program.wait(60) == 0
    assert (tmp_path / "done").exists()
