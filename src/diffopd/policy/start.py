"""From a config's adapter to a policy on the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch

from diffopd.adapter import LoRA, Shape, add_adapter, add_merged_adapter, add_started_adapter
from diffopd.model import PipelineModel
from diffopd.policy.base import Policy
from diffopd.policy.low_rank import LowRank
from diffopd.policy.whole import Whole, WholeWeights
from diffopd.randomness import torch_generator
from diffopd.types.precision import parse_dtype

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


def new_policy(model: PipelineModel, name: str, shape: Shape, seed: int, *, tell: bool = False) -> Policy:
    """Add a policy to a model, frozen as yet.

    Args:
        model: Holds it from here on.
        name: Its name.
        shape: Low-rank, started as ``adapter.start`` or ``adapter.merge`` says, or as the base model; or
            whole weights, started as the base model.
        seed: Seed of the run; policies of one shape start alike.
        tell: Say how far a start from merged adapters is from their mean.

    Raises:
        ValueError: If the shape does not fit the model.
    """
    if isinstance(shape, WholeWeights):
        return Whole.started(model, name, parse_dtype(shape.dtype, "adapter.dtype"))
    assert isinstance(shape, LoRA)
    transformer = model.transformer
    if shape.merge is not None:
        error = add_merged_adapter(transformer, name, shape)
        if tell:
            log.info("adapter.merge: relative error of the mean update %s", error)
            log.debug("adapter.merge: relative error by layer: %s", dict(error.layers))
    elif shape.start is not None:
        add_started_adapter(transformer, name, shape)
    else:
        add_adapter(transformer, name, shape, torch_generator(seed, "adapter/start"))
    return LowRank(model, name)
