"""Low-rank adapters on a frozen transformer: add, find, copy, choose what is trained.

All adapters of a run lie on the transformer together. Adding or using one never changes which are trainable;
only :func:`set_trainable` does.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from diffopd.adapter.merge import MergePlan
from diffopd.adapter.shape import Shape
from diffopd.adapter.targets import check_targets

INITIALISATIONS = ("gaussian", "kaiming")


@dataclass(frozen=True, kw_only=True)
class LoRA(Shape):
    """Shape and start of a low-rank adapter ``base + alpha / rank * B A``.

    ``B`` starts at 0, so a new adapter changes nothing, unless it starts from saved ones.

    Attributes:
        rank: Rows of ``A``.
        alpha: Strength; ``alpha / rank`` scales the product.
        target_modules: Ends of the names of the linear layers that get one.
        init: Start of ``A``: ``gaussian`` with standard deviation ``1 / rank``, or ``kaiming`` (uniform).
        start: PEFT folder of the same shape whose values it starts from instead; may be ``package://...``.
        merge: Saved adapters whose mean it starts from instead, ``{method, folders, weights}``; see
            :class:`~diffopd.adapter.merge.MergePlan`.
    """

    rank: int
    alpha: int | float
    target_modules: Sequence[str]
    init: str
    start: str | None
    merge: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"adapter.rank={self.rank} must be at least 1")
        if self.init not in INITIALISATIONS:
            raise ValueError(
                f"adapter.init={self.init} is not known; choose one of {', '.join(INITIALISATIONS)}"
            )
        if isinstance(self.target_modules, str) or not self.target_modules:
            raise ValueError(f"adapter.target_modules={self.target_modules!r} must be a list of module names")
        if unnamed := [name for name in self.target_modules if not isinstance(name, str)]:
            raise ValueError(f"adapter.target_modules has {unnamed[0]!r}; each must be the name of a layer")
        if self.merge_plan is not None and self.start is not None:
            raise ValueError(
                f"adapter.start={self.start} and adapter.merge are both given, an adapter starts from one; "
                "set adapter.merge=null or adapter.start=null"
            )

    @property
    def merge_plan(self) -> MergePlan | None:
        """What ``merge`` asks for, if anything."""
        return None if self.merge is None else MergePlan.read(self.merge)

    @property
    def strength(self) -> float:
        """What scales the product ``B A``."""
        return self.alpha / self.rank

    def peft_config(self) -> LoraConfig:
        """The same in PEFT's words."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT only divides by the rank
            target_modules=list(self.target_modules),
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
        )


def add_adapter(transformer: nn.Module, name: str, config: LoRA, generator: torch.Generator) -> None:
    """Add an adapter in fp32, frozen and used by no forward until it is named.

    Args:
        transformer: The backbone.
        name: What calls of ``velocity`` will name it.
        config: Its shape and start.
        generator: A CPU generator; the same state gives the same start on any device.

    Raises:
        ValueError: If the name is taken or a target matches no layer.
    """
    check_targets(config.target_modules, linear_names(transformer), type(transformer).__name__)
    inject(transformer, name, config.peft_config())
    for key, parameter in adapter_parameters(transformer, name).items():
        with torch.no_grad():
            if ".lora_B." in key:
                parameter.zero_()
            elif config.init == "gaussian":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / config.rank)
            else:
                bound = 1 / math.sqrt(parameter.shape[1])
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)


def inject(transformer: Any, name: str, config: LoraConfig) -> None:
    """Have PEFT add an adapter, then undo what it changes besides: the active adapter, the trainable ones.

    PEFT's own random start is drawn aside, so the global random state stays as it was. Whatever the config
    says, the base weights stay as they are and no unit is dropped: the caller fills the factors in.
    """
    config = copy.copy(config)
    config.lora_dropout, config.init_lora_weights = 0.0, _neutral(config.init_lora_weights)
    held = tuple(getattr(transformer, "peft_config", {}))
    if name in held:
        raise ValueError(f"the model already holds an adapter named {name}; it holds {held}")
    trainable = trainable_adapters(transformer)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            transformer.add_adapter(config, adapter_name=name)
        except ValueError as error:
            transformer.peft_config.pop(name, None)  # PEFT registers the name before it looks for layers
            raise ValueError(
                f"adapter {name} fits no layer of {type(transformer).__name__}: {error}"
            ) from error
    for parameter in adapter_parameters(transformer, name).values():
        parameter.data = parameter.data.float()
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter([])  # the bare transformer is the base model
            cast(nn.Module, module).train(transformer.training)  # PEFT's new modules are in training mode
    set_trainable(transformer, trainable)


def _neutral(start: Any) -> Any:
    """``start`` where it leaves the base weights alone and can be recorded, else PEFT's default."""
    return start if start == "gaussian" else True


def linear_names(transformer: nn.Module) -> list[str]:
    """Names of a backbone's own linear layers, with adapters on them or without."""
    held = {name for name, module in transformer.named_modules() if isinstance(module, LoraLayer)}
    return [
        name
        for name, module in transformer.named_modules()
        if name in held
        or (isinstance(module, nn.Linear) and not {name.rsplit(".", 1)[0], name.rsplit(".", 2)[0]} & held)
    ]


def adapter_names(transformer: Any) -> tuple[str, ...]:
    """Names of the adapters the transformer holds."""
    return tuple(getattr(transformer, "peft_config", {}))


def adapter_parameters(transformer: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by a name that does not contain the adapter's own.

    Two adapters of one shape thus have the same keys, in the same order. An optimizer takes
    ``list(adapter_parameters(...).values())``: the choice by name, not by ``requires_grad``.

    Raises:
        ValueError: If there is no such adapter.
    """
    if name not in adapter_names(transformer):
        raise ValueError(f"no adapter named {name}; the model holds {adapter_names(transformer) or 'none'}")
    return layer_parameters(adapter_layers(transformer, name), name)


def adapter_layers(transformer: nn.Module, name: str) -> dict[str, LoraLayer]:
    """The layers that an adapter lies on, by their names.

    Finding them walks through every module, which takes 8 ms for the embedded model: keep them for a loop.
    """
    return {
        path: module
        for path, module in transformer.named_modules()
        if isinstance(module, LoraLayer) and name in module.lora_A
    }


def layer_parameters(layers: Mapping[str, LoraLayer], name: str) -> dict[str, nn.Parameter]:
    """What :func:`adapter_parameters` gives, of layers that are known."""
    found: dict[str, nn.Parameter] = {}
    for path, module in layers.items():
        found[f"{path}.lora_A.weight"] = module.lora_A[name].weight  # type: ignore[assignment]
        found[f"{path}.lora_B.weight"] = module.lora_B[name].weight  # type: ignore[assignment]
    return found


@torch.no_grad()
def copy_adapter(transformer: nn.Module, source: str, target: str) -> None:
    """Overwrite ``target``'s values with ``source``'s.

    Raises:
        ValueError: If the two differ in their layers, rank or strength.
    """
    values, places = adapter_parameters(transformer, source), adapter_parameters(transformer, target)
    shapes = [{key: tuple(p.shape) for key, p in side.items()} for side in (values, places)]
    strengths = [adapter_strength(transformer, name) for name in (source, target)]
    if shapes[0] != shapes[1] or strengths[0] != strengths[1]:
        raise ValueError(
            f"adapters {source} and {target} differ in layers, rank or alpha; "
            "copy between adapters of one config"
        )
    for key, place in places.items():
        place.copy_(values[key])


def set_trainable(transformer: nn.Module, names: Collection[str]) -> None:
    """Train exactly these adapters and freeze the others; the backbone is left as it is.

    Raises:
        ValueError: If there is no such adapter.
    """
    unknown = sorted(set(names) - set(adapter_names(transformer)))
    if unknown:
        raise ValueError(
            f"no adapter named {', '.join(unknown)}; the model holds {adapter_names(transformer) or 'none'}"
        )
    for name in adapter_names(transformer):
        for parameter in adapter_parameters(transformer, name).values():
            parameter.requires_grad_(name in names)


def trainable_adapters(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that are trained."""
    return tuple(
        name
        for name in adapter_names(transformer)
        if any(parameter.requires_grad for parameter in adapter_parameters(transformer, name).values())
    )


def adapter_strength(transformer: Any, name: str) -> float:
    """What an adapter's product ``B A`` is scaled by."""
    return strength_of(transformer.peft_config[name])


def strength_of(config: LoraConfig) -> float:
    """What PEFT scales the product ``B A`` of an adapter by."""
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
