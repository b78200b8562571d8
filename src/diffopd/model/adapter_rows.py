"""Which adapter each row of a forward uses, chosen per call and kept nowhere else.

PEFT keeps activity in its layers, and choosing an adapter there also changes what is trainable. Here a
forward inside :meth:`AdapterRouter.route` computes the bare backbone, and a hook on each LoRA layer adds the
low-rank part of each row's own adapter. Nothing in the layers changes, so there is nothing to restore.

Compiled blocks must not depend on names: compiling for each choice of adapters would take minutes. There
the low-rank parts of all adapters are computed side by side for every row, and a tensor of zeros and ones
lets each row's own through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

BASE = "__base__"
"""The name that stands for no adapter."""
_AND = " + "


def together(*names: str) -> str:
    """A name that stands for several adapters at once: what each adds to the weights is added.

    Examples:
        >>> together("student", "assistant")
        'student + assistant'
    """
    return _AND.join(names)


def parts_of(name: str) -> tuple[str, ...]:
    """The adapters that a name stands for.

    Examples:
        >>> parts_of("student + assistant"), parts_of("student")
        (('student', 'assistant'), ('student',))
    """
    return tuple(name.split(_AND))


@dataclass(frozen=True)
class Route:
    """Rows of a batch as runs of one adapter each.

    Attributes:
        runs: ``(adapter, number of rows)``, in the order the backbone sees the rows.
        order: Row of the caller's batch at each position the backbone sees; None = unchanged.
    """

    runs: tuple[tuple[str, int], ...]
    order: tuple[int, ...] | None

    @staticmethod
    def plan(adapters: str | Sequence[str] | None, batch: int) -> Route:
        """The route for one adapter for all rows, one per row, or none.

        Rows are brought together by adapter where that makes fewer runs, each of which costs two small
        matrix products per layer.

        Raises:
            ValueError: If there is not one name per row.
        """
        if adapters is None or isinstance(adapters, str):
            return Route(runs=((adapters or BASE, batch),), order=None)
        if len(adapters) != batch:
            raise ValueError(
                f"adapters has {len(adapters)} names, the batch has {batch} samples; give one name per sample"
            )
        names = list(adapters)
        if len(_runs(names)) > len(set(names)):
            order = tuple(sorted(range(batch), key=lambda row: names.index(names[row])))
            return Route(runs=_runs([names[row] for row in order]), order=order)
        return Route(runs=_runs(names), order=None)

    @property
    def names(self) -> set[str]:
        """The adapters in use, without the base."""
        return {part for name, _ in self.runs for part in parts_of(name)} - {BASE}

    def arrange(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Rows in the order the backbone sees them."""
        if self.order is None:
            return tensors
        index = _index(self.order, tensors[0].device)
        return tuple(tensor[index] for tensor in tensors)

    def restore(self, output: Tensor) -> Tensor:
        """Rows in the caller's order again."""
        if self.order is None:
            return output
        inverse = [0] * len(self.order)
        for position, row in enumerate(self.order):
            inverse[row] = position
        return output[_index(inverse, output.device)]


class AdapterRouter:
    """Applies a :class:`Route` to a transformer's LoRA layers.

    It keeps one hook pair per LoRA layer (silent outside :meth:`route`) and, within :meth:`route`, the
    current runs.

    Attributes:
        transformer: The backbone; adapters may be added to it at any time.
        side_by_side: Compute all adapters for all rows and let each row's own through, as compiled blocks
            need it.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.side_by_side = False
        self._runs: tuple[tuple[str, int], ...] | None = None
        self._gates: Tensor | None = None
        self._known: tuple[str, ...] = ()
        self._hooked: set[int] = set()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters the transformer holds."""
        return tuple(getattr(self.transformer, "peft_config", {}))

    @contextlib.contextmanager
    def route(self, route: Route) -> Iterator[None]:
        """Run the backbone with each row's own adapter inside this block.

        Raises:
            ValueError: If the transformer does not hold an adapter that is asked for.
        """
        self._hook_new_layers()
        unknown = sorted(route.names - set(self._known))
        if unknown:
            raise ValueError(
                f"no adapter named {', '.join(unknown)}; the model holds {self._known or 'none'}"
            )
        with self._applying(route.runs):
            yield

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Gradient checkpointing that recomputes with the runs of the forward.

        The recomputation happens in ``backward``, after the :meth:`route` block has ended; without this it
        would run with no adapter or with another one. Several backwards through one graph recompute as often.
        """
        recompute = _Reopened(partial(self._applying, self._runs))
        return checkpoint(
            function, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), recompute)
        )

    @contextlib.contextmanager
    def _applying(self, runs: tuple[tuple[str, int], ...] | None) -> Iterator[None]:
        outer = self._runs, self._gates
        self._runs, self._gates = runs, self._gates_of(runs) if self.side_by_side else None
        try:
            yield
        finally:
            self._runs, self._gates = outer

    def _gates_of(self, runs: tuple[tuple[str, int], ...] | None) -> Tensor | None:
        """1 for each row's own adapter, 0 for the others; shape (rows, adapters)."""
        if runs is None:
            return None
        names = [name for name, size in runs for _ in range(size)]
        gates = torch.tensor([[float(known in parts_of(name)) for known in self._known] for name in names])
        return gates.to(next(self.transformer.parameters()).device, non_blocking=True)

    def _hook_new_layers(self) -> None:
        if self.adapters == self._known:
            return
        for module in self.transformer.modules():
            if isinstance(module, LoraLayer) and id(module) not in self._hooked:
                assert isinstance(module, nn.Module)
                module.register_forward_pre_hook(self._bare, with_kwargs=True)
                module.register_forward_hook(self._add)
                self._hooked.add(id(module))
        self._known = self.adapters

    def _bare(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have PEFT compute the base layer alone, whatever its own state."""
        idle = self._gates is None if self.side_by_side else self._runs is None
        if idle or not layer.active_adapters:
            return None
        return args, {**kwargs, "adapter_names": [BASE] * len(args[0])}

    def _add(self, layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.side_by_side:  # nothing below may read names or runs that change from call to call
            return None if self._gates is None else self._gated(layer, args[0], output)
        if self._runs is None:
            return None
        if all(part not in layer.lora_A for name, _ in self._runs for part in parts_of(name)):
            return None
        sizes = [size for _, size in self._runs]
        if len(args[0]) != sum(sizes):
            raise ValueError(
                f"a layer with an adapter sees {len(args[0])} samples where the batch has {sum(sizes)}: the "
                "backbone has joined the samples there; take this layer out of adapter.target_modules"
            )
        rows = zip(self._runs, args[0].split(sizes), output.split(sizes), strict=True)
        parts = [_adapted(layer, name, inputs, base) for (name, _), inputs, base in rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gated(self, layer: Any, inputs: Tensor, base: Tensor) -> Tensor:
        """``base`` plus the low-rank parts of all the layer's adapters, each times its gate."""
        assert self._gates is not None
        held = [(place, name) for place, name in enumerate(self._known) if name in layer.lora_A]
        down = torch.cat([layer.lora_A[name].weight for _, name in held])
        up = torch.cat([layer.lora_B[name].weight * layer.scaling[name] for _, name in held], dim=1)
        ranks = [layer.lora_A[name].weight.shape[0] for _, name in held]
        columns = zip(held, ranks, strict=True)
        gates = torch.cat([self._gates[:, [place]].expand(-1, rank) for (place, _), rank in columns], dim=1)
        gates = gates.reshape(gates.shape[0], *[1] * (inputs.ndim - 2), gates.shape[1])
        hidden = functional.linear(inputs.to(down.dtype), down) * gates
        return (base + functional.linear(hidden, up)).to(base.dtype)


class _Reopened(contextlib.AbstractContextManager[None]):
    """A context that may be entered any number of times, opened again each time."""

    def __init__(self, open_context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._open = open_context
        self._entered: list[contextlib.AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._open())
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.pop().__exit__(*error)


def _adapted(layer: Any, name: str, inputs: Tensor, base: Tensor) -> Tensor:
    """``base + scaling * B(A(inputs))`` for each adapter of the name, in the adapters' precision."""
    output = base
    for part in parts_of(name):
        if part in layer.lora_A:
            down, up = layer.lora_A[part], layer.lora_B[part]
            given = layer.lora_dropout[part](inputs.to(down.weight.dtype))
            output = output + up(down(given)) * layer.scaling[part]
    return output.to(base.dtype)


def _runs(names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(list(rows))) for name, rows in groupby(names))


def _index(rows: Sequence[int], device: torch.device) -> Tensor:
    """Row numbers on ``device``, without waiting for it."""
    return torch.tensor(rows).to(device, non_blocking=True)
