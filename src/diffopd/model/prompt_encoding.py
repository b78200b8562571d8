"""How a pipeline's text encoders are asked: each different prompt once, from the cache where there is one."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn

from diffopd.model.identity import encoding_identity
from diffopd.model.prompt_cache import PromptCache
from diffopd.model.whole import Component
from diffopd.types import Conditioning, Prompts
from diffopd.weights.finite import check_finite


class PromptEncoding(nn.Module, ABC):
    """The part of a :class:`~diffopd.model.PipelineModel` that turns prompts into conditioning.

    Kept between calls: the encoding of the empty prompt, and which encoders' weights were checked.
    """

    kind: ClassVar[type[DiffusionPipeline]]
    encoders: ClassVar[tuple[str, ...]]
    empty_prompt: ClassVar[str] = ""
    pipeline: Any
    path: str
    text_length: int
    offload_text_encoders: bool
    prompt_cache: PromptCache | None
    _components: Mapping[str, Component]

    def _hold_encoders(self) -> None:
        """Freeze the pipeline's encoders and make them attributes."""
        self._empty: Conditioning | None = None
        self._unchecked: list[str] = []
        for name in self.encoders:
            encoder = getattr(self.pipeline, name)
            if encoder is not None:
                encoder.requires_grad_(False).eval()
                self._unchecked.append(name)
            if self.offload_text_encoders:
                object.__setattr__(self, name, encoder)  # not registered: it stays where it is on .to(device)
            else:
                setattr(self, name, encoder)

    def _open_cache(self, prompt_cache: str | None, text_dtype: str) -> None:
        """Open the cache, if there is one.

        The encoders' weights are checked now, or with a cache at their first use: with all prompts in it,
        nothing else reads them.
        """
        if prompt_cache is None:
            self._check_encoders()
            self.prompt_cache = None
        else:
            self.prompt_cache = PromptCache(prompt_cache, self._encoding(text_dtype))

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the backbone is."""

    @abstractmethod
    def encode_prompts(self, texts: list[str]) -> Conditioning:
        """Encode prompts exactly as the stock pipeline does, under the caller's grad mode.

        What does not depend on a prompt may be left to :meth:`completed`.
        """

    def completed(self, conditioning: Conditioning) -> Conditioning:
        """An encoding with what is the same for every prompt, and is therefore not kept in a cache."""
        return conditioning

    def encode(self, texts: Sequence[str], *, grad: bool = False) -> Conditioning:
        """Encode prompts exactly as the stock pipeline does; each different text once.

        With a prompt cache, those on disk are read instead, and the others kept there.

        Args:
            texts: The prompts; ``""`` is the empty prompt, whatever the family writes for it.
            grad: Let gradients reach the text encoders, which no cache can.
        """
        given = [text or self.empty_prompt for text in texts]
        unique = list(dict.fromkeys(given))
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            if self.prompt_cache is not None and not grad:
                conditioning = self.prompt_cache.conditioning(unique, self._encode_each).to(self.device)
            else:
                with self._encoders_at_hand():
                    conditioning = self.encode_prompts(unique)
            conditioning = self.completed(conditioning)
            if len(unique) == len(given):
                return conditioning
            row = {text: place for place, text in enumerate(unique)}
            return conditioning.select([row[text] for text in given])

    def condition(self, prompts: Prompts) -> Conditioning:
        """Encode all that the backbone is told about each row: its text.

        A family that takes more, such as pictures, encodes it here, and :meth:`Prompts.key` names it.

        Raises:
            ValueError: If a row has references and the family reads none.
        """
        if any(prompts.references):
            raise ValueError(self.no_pictures())
        return self.encode(prompts.texts)

    def no_pictures(self) -> str:
        """That the family reads no pictures, and what to do."""
        return (
            f"{type(self).__name__} reads no reference pictures; choose a model that does, model=flux2_klein "
            "or model=z_image_turbo, or leave them out: for a teacher context=text, else prompts without "
            "references"
        )

    def encode_ahead(self, texts: Sequence[str], rank: int, num_processes: int) -> None:
        """Encode this process's share of many prompts, and the empty one, into the prompt cache.

        Args:
            texts: All prompts of a training, the same on all processes.
            rank: Number of this process.
            num_processes: How many there are.
        """
        assert self.prompt_cache is not None
        given = [text or self.empty_prompt for text in ("", *texts)]
        self.prompt_cache.fill(given, self._encode_each, rank=rank, num_processes=num_processes)

    def unconditional(self) -> Conditioning:
        """The encoding of the empty prompt, one row, computed once.

        Whoever trains the text encoders asks ``encode([""])`` instead.
        """
        if self._empty is None:
            self._empty = self.encode([""])
        return self._empty.to(self.device)

    @torch.no_grad()
    def _encode_each(self, texts: Sequence[str]) -> Iterator[Conditioning]:
        """Encode prompts one by one, with one visit of the text encoders to the backbone's device."""
        with self._encoders_at_hand():
            for text in texts:
                yield self.encode_prompts([text]).select([0]).to(torch.device("cpu"))

    def _encoding(self, text_dtype: str) -> dict[str, Any]:
        """What an encoding depends on beside its prompt."""
        present = [name for name in self.encoders if getattr(self, name) is not None]
        return {
            "pipeline": self.kind.__name__,
            "encoders": encoding_identity(self._components, present),
            "text_length": self.text_length,
            "text_dtype": text_dtype,
            "libraries": {"diffusers": diffusers.__version__, "transformers": transformers.__version__},
        }

    @contextlib.contextmanager
    def _encoders_at_hand(self) -> Iterator[None]:
        """Text encoders on the backbone's device; offloaded ones leave it again."""
        moved = [getattr(self, name) for name in self.encoders] if self.offload_text_encoders else []
        for encoder in filter(None, moved):
            encoder.to(self.device)
        try:
            self._check_encoders()
            yield
        finally:
            for encoder in filter(None, moved):
                encoder.to("cpu")

    def _check_encoders(self) -> None:
        """Check the values of encoders that were not checked yet."""
        for name in self._unchecked:
            check_finite(getattr(self, name), self._components[name].where, setting="model.text_dtype")
        self._unchecked = []
