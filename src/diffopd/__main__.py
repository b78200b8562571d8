"""One entry for all commands: ``diffopd train +experiment=mopd_ode``, or ``python -m diffopd train ...``."""

from __future__ import annotations

import os
import sys

from diffopd.host.start import begin

COMMANDS = {
    "doctor": "diffopd.doctor.__main__",
    "train": "diffopd.train",
    "sample": "diffopd.sample",
    "evaluate": "diffopd.evaluate.__main__",
    "export": "diffopd.export.__main__",
    "report": "diffopd.report.__main__",
    "cascade": "diffopd.cascade",
    "table": "diffopd.table",
    "paper_table": "diffopd.paper_table",
    "ablations": "diffopd.ablations",
    "replay": "diffopd.replay",
    "convert": "diffopd.convert",
    "reward_server": "diffopd.reward_server",
}
"""Command -> the module whose ``main`` it is."""
EXPERIMENTS = "experiments"
"""Lists them; it has no settings, so it is no command of Hydra's."""
HELP = ("--help", "-h", "help")
WRONG = 2
"""Exit code of a command that is none."""


def main() -> None:
    """Run the command that the first argument names, on the others."""
    begin()
    name, *arguments = sys.argv[1:] or [HELP[0]]
    if name == "help" and arguments:
        name, arguments = arguments[0], [HELP[0]]
    name = name.replace("-", "_") if not name.startswith("-") else name
    if name in HELP:
        print(_help())
    elif name == "--version":
        from diffopd import __version__

        print(f"diffopd {__version__}")
    elif name == EXPERIMENTS:
        if arguments and arguments[0] not in HELP:
            print(f"diffopd {name} has no settings, got {' '.join(arguments)}", file=sys.stderr)
            sys.exit(WRONG)
        print(_experiments())
    elif name in COMMANDS:
        import importlib

        # As under `python -m`: a reward of the user's own is a module of the working directory.
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        sys.argv = [f"diffopd {name}", *arguments]
        importlib.import_module(COMMANDS[name]).main()
    else:
        import difflib

        known = (*COMMANDS, EXPERIMENTS)
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        print(f"diffopd {name}: there is no such command; {meant}", file=sys.stderr)
        sys.exit(WRONG)


def _help() -> str:
    """All commands with the line by which their own help begins."""
    from pathlib import Path

    import yaml

    from diffopd.config.folder import config_folder

    configs = (Path(config_folder()) / f"{name}.yaml" for name in COMMANDS)
    headers = (
        yaml.safe_load(config.read_text(encoding="utf-8"))["hydra"]["help"]["header"] for config in configs
    )
    lines = [
        f"  {name:<14} {header.partition(chr(10))[0]}" for name, header in zip(COMMANDS, headers, strict=True)
    ]
    return "\n".join(
        [
            "diffopd <command> [setting=value ...]    also: python -m diffopd.<command> [setting=value ...]",
            "",
            *lines,
            f"  {EXPERIMENTS:<14} List what +experiment=<name> can be, with a line on each.",
            "",
            "diffopd <command> --help shows examples and choices; --cfg job prints all settings.",
        ]
    )


def _experiments() -> str:
    """All experiments with the question that each answers."""
    from pathlib import Path

    from diffopd.config.experiments import experiment_lines
    from diffopd.config.folder import config_folder

    lines = experiment_lines(Path(config_folder()) / "experiment")
    width = max(map(len, lines))
    return "\n".join(
        [
            "diffopd train +experiment=<name> [setting=value ...]",
            "",
            *(f"  {name:<{width}} {line}" for name, line in lines.items()),
        ]
    )


if __name__ == "__main__":
    main()
