"""What the commands share: compose, check, run; mistakes in the config end in a message, not a traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffopd.arguments import with_text_quoted
from diffopd.check import COMPOSITION_ERRORS, ConfigError, check_config, explain_composition
from diffopd.configs import config_folder
from diffopd.quiet import silence_known_noise
from diffopd.rank import is_first_process
from diffopd.signals import REQUESTS_TO_END
from diffopd.sweep import register_given, warn_of_unused_launcher

REFUSED = 2
"""Exit code of a refused configuration."""
STOPPED = 1
"""Exit code of a run that its surroundings stopped, such as a full disk."""
INTERRUPTED = 75
"""Exit code of a command that was asked to end before it was done; the same command goes on (EX_TEMPFAIL)."""
NO_FILES = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
"""What keeps Hydra from writing: torchrun and SLURM start every process on one command line, one writes."""


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a program of a function of a composed config.

    The config is checked before the function is called, so a function that imports what it needs inside lets
    users wait for their mistakes no longer than for Hydra.

    Args:
        config_name: The primary config in ``conf/``, without its ending.
    """

    def decorate(run: Callable[[DictConfig], None]) -> Callable[[], None]:
        started = False

        @functools.wraps(run)
        def task(cfg: DictConfig) -> None:
            nonlocal started
            started = True
            with errors_told(debug=bool(cfg.get("debug"))):
                silence_known_noise()
                warn_of_unused_launcher(HydraConfig.get())
                check_config(cfg, config_name)
                run(cfg)

        main = hydra.main(version_base="1.3", config_path=config_folder(), config_name=config_name)(task)

        @functools.wraps(run)
        def program() -> None:
            nonlocal started
            started = False
            before, arguments = dict(os.environ), list(sys.argv)
            sys.argv[1:] = with_text_quoted(sys.argv[1:])
            register_given()
            if not is_first_process():
                sys.argv += NO_FILES
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them
            os.environ["HYDRA_MAIN_MODULE"] = f"diffopd.{config_name}"  # names the job and its log
            try:
                main()
            except COMPOSITION_ERRORS as error:
                if started or "debug=true" in sys.argv:
                    raise
                overrides = [argument for argument in sys.argv[1:] if "=" in argument and argument[0] != "-"]
                refuse(explain_composition(error, config_name, overrides))
            except OSError as error:  # Hydra makes the run's folder
                if started or "debug=true" in sys.argv:
                    raise
                refuse(f"the run's folder cannot be made: {error}; choose another place with paths.root=...")
            finally:
                sys.argv = arguments
                for name in ("HYDRA_FULL_ERROR", "HYDRA_MAIN_MODULE"):
                    os.environ.pop(name)
                    if name in before:
                        os.environ[name] = before[name]

        return program

    return decorate


@contextlib.contextmanager
def errors_told(*, debug: bool) -> Iterator[None]:
    """End the program with a message, not a traceback, where that says all there is to know.

    So it does of a refused config, a full disk, a nan, and a server that does not score.

    Args:
        debug: Let the traceback be shown after all.
    """
    try:
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
        sys.exit(STOPPED)


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
    interrupted(signal.Signals(number).name)


def interrupted(why: str) -> NoReturn:
    """Say that the same command goes on, and end the program."""
    print(f"interrupted: {why}; the same command goes on from there", file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)


def why_stopped(error: Exception) -> str | None:
    """What to tell of an error that is no fault of the program, or None."""
    # These bring torch, which is there when anything was trained or written.
    from diffopd.files import is_full_disk
    from diffopd.non_finite.error import NonFiniteError
    from diffopd.reward.checked import RewardError
    from diffopd.reward.http_json import ServerError

    if is_full_disk(error):
        return (
            f"no space left on the disk ({error}). What was saved before is intact; free some space, and the "
            "same command goes on from the newest checkpoint"
        )
    unanswered = isinstance(error, RewardError) and isinstance(error.__cause__, ServerError)
    return str(error) if unanswered or isinstance(error, NonFiniteError) else None


def refuse(message: str) -> None:
    """Print why a config is refused, and end the program."""
    print(f"config error: {message}\n(debug=true shows the traceback)", file=sys.stderr)
    sys.exit(REFUSED)
