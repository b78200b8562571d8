"""A config whose base model is on the hub, pinned to its current commit."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, open_dict

from diffopd.model.loading import resolved_commit

log = logging.getLogger(__name__)


def pin_model(cfg: DictConfig) -> None:
    """Put the commit of a model on the hub into ``model.revision``, to be used and saved with the run.

    A branch moves on; resuming a run after that is an error, as it would have another revision.

    Args:
        cfg: The composed config; changed in place. Without a model, or with one in a folder, nothing is.

    Raises:
        ValueError: If the hub does not know the model.
    """
    model = cfg.get("model")
    if model is None or "revision" not in model or model.get("path") is None:
        return
    commit = resolved_commit(model.path, model.revision)
    if commit is None or commit == model.revision:
        return
    asked = "no model.revision was given" if model.revision is None else f"model.revision={model.revision}"
    log.warning(
        "model.path=%s, %s: commit %s of the hub is used and recorded; model.revision=%s pins it",
        model.path,
        asked,
        commit,
        commit,
    )
    with open_dict(cfg):
        cfg.model.revision = commit
