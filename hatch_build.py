"""Puts ``conf/`` into wheels as ``diffopd/conf``; an editable install reads the folder where it is."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfInWheel(BuildHookInterface):
    """Hatchling calls it for each wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder, unless the wheel is the stand-in of an editable install."""
        if version != "editable":
            build_data["force_include"]["conf"] = "diffopd/conf"
