"""What the commands share: compose, check, run; mistakes in the config end in a message, not a traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffopd.check import COMPOSITION_ERRORS, ConfigError, check_config, explain_composition
from diffopd.command.ending import no_end_from_outside, why_stopped
from diffopd.config.arguments import own_folders, with_text_quoted
from diffopd.config.flags import check_flags
from diffopd.config.folder import config_folder
from diffopd.config.sweep import register_given, warn_of_unused_launcher
from diffopd.host.quiet import say_only_what_is_new, silence_known_noise
from diffopd.host.rank import is_first_process
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END, Ended
from diffopd.host.start import begin_launched, end_at_once, end_without_launcher, importing, interruption
from diffopd.run.recorded import launched_by, typed

REFUSED = 2
"""Exit code of a configuration that is not allowed."""
STOPPED = 1
"""Exit code of a run stopped by an outside cause, such as a full disk."""
NO_FILES = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""What keeps Hydra from writing: torchrun and SLURM start every process on one command line, one writes."""

Run = Callable[[DictConfig], None]


def command(
    config_name: str,
    *,
    arguments: Callable[[Sequence[str]], list[str]] = list,
    short: Mapping[str, str] | None = None,
) -> Callable[[Run], Callable[[], None]]:
    """Make a program of a function of a composed config.

    The config is checked before the function is called, so a function that imports what it needs inside lets
    users wait for their mistakes no longer than for Hydra.

    Args:
        config_name: The primary config in ``conf/``, without its ending.
        arguments: Turns the command line into what Hydra reads; a ``ValueError`` is shown as a config error.
        short: What users write for a setting -> its name in the config; messages use what was written.
    """

    def decorate(run: Run) -> Callable[[], None]:
        started = False

        @functools.wraps(run)
        def task(cfg: DictConfig) -> None:
            nonlocal started
            started = True
            launcher = launched_by()
            if launcher is not None:
                begin_launched(launcher)
            try:
                with ending_when_asked(), errors_told(debug=bool(cfg.get("debug"))):
                    if not is_first_process():
                        say_only_what_is_new()
                    silence_known_noise()
                    warn_of_unused_launcher(HydraConfig.get())
                    try:
                        check_config(cfg, config_name, HydraConfig.get().overrides.task)
                        run(cfg)
                    except ConfigError as error:
                        raise ConfigError(as_typed(str(error), short)) from error
            finally:
                end_without_launcher()

        main = hydra.main(version_base="1.3", config_path=config_folder(), config_name=config_name)(task)

        def run_hydra(typed_arguments: Sequence[str]) -> None:
            try:
                check_flags(typed_arguments)
                given = with_text_quoted(arguments(typed_arguments))
                sys.argv[1:] = [*given, *(() if is_first_process() else NO_FILES)]
                register_given()
                silence_known_noise()  # before settings that are computed from weights bring the libraries
                main()
            except COMPOSITION_ERRORS as error:
                if started or "debug=true" in sys.argv:
                    raise
                given = [argument for argument in sys.argv[1:] if "=" in argument and argument[0] != "-"]
                given += own_folders(sys.argv[1:])
                refuse(as_typed(explain_composition(error, config_name, given), short))
            except OSError as error:  # Hydra makes the run's folder
                if started or "debug=true" in sys.argv:
                    raise
                refuse(f"the run's folder cannot be made: {error}; choose another place with paths.root=...")

        @functools.wraps(run)
        def program() -> None:
            nonlocal started
            started = False
            before, argv = dict(os.environ), list(sys.argv)
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
            os.environ["HYDRA_MAIN_MODULE"] = f"diffopd.{config_name}"  # names the job and its log
            try:
                with typed(argv[1:]):
                    run_hydra(argv[1:])
            finally:
                sys.argv = argv
                for name in ("HYDRA_FULL_ERROR", "HYDRA_MAIN_MODULE"):
                    os.environ.pop(name)
                    if name in before:
                        os.environ[name] = before[name]

        return program

    return decorate


def as_typed(message: str, short: Mapping[str, str] | None) -> str:
    """A message with the names of settings as users write them.

    Examples:
        >>> as_typed("adapter_path=x: there is no such folder", {"adapter": "adapter_path"})
        'adapter=x: there is no such folder'
    """
    for written, name in (short or {}).items():
        message = re.sub(rf"(?<![\w.]){name}(?![\w.])", written, message)
    return message


@contextlib.contextmanager
def errors_told(*, debug: bool) -> Iterator[None]:
    """End the program with a message, not a traceback, where that says all there is to know.

    That is the case for a config that is not allowed, a full disk, a nan, a server that does not score, and
    for code of the user's that ends the program by itself, with whatever exit code.

    Args:
        debug: Let the traceback be shown after all.
    """
    try:
        with no_end_from_outside(STOPPED):
            yield
    except ConfigError as error:
        if debug:
            raise
        refuse(str(error))
    except Exception as error:
        why = None if debug else why_stopped(error)
        if why is None:
            raise
        print(f"stopped: {why}\n(debug=true shows the traceback)", file=sys.stderr)
        raise Ended(STOPPED) from error


@contextlib.contextmanager
def ending_when_asked() -> Iterator[None]:
    """Have a request to end inside the block end the program at once, with :data:`INTERRUPTED`.

    For the parts of a command that lose little when cut; a training has its own way while it trains.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.signal(number, _end) for number in REQUESTS_TO_END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    if importing(frame):
        end_at_once(number, frame, speaks=is_first_process())
    interrupted(signal.Signals(number).name)


def interrupted(why: str) -> NoReturn:
    """Say that the same command continues, and end the program; of several processes one says it."""
    if is_first_process():
        print(interruption(why), file=sys.stderr, flush=True)
    raise Ended(INTERRUPTED)


def refuse(message: str) -> NoReturn:
    """Print why a config is not allowed, and end the program."""
    print(f"config error: {message}\n(debug=true shows the traceback)", file=sys.stderr)
    raise Ended(REFUSED)
