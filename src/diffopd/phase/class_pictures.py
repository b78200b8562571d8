"""Prior preservation: what the base model draws of a class, drawn once and learned beside the pictures."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffopd.files.atomic import atomic_save_safetensors
from diffopd.phase.processes import num_processes
from diffopd.phase.taught import TaughtPhase
from diffopd.randomness import normal_rows, numpy_generator
from diffopd.types import Prompts

log = logging.getLogger(__name__)

ROWS_OF_FILE = 16
"""Pictures in one file: what an interruption may lose."""
_LATENTS = "latents"


@final
class ClassPictures:
    """Latents of one prompt by the base model, drawn before the first round and kept in the run's folder.

    They are drawn by the phase's sampler at its guidance scale, from noise that depends on the seed and the
    picture's number alone, in files of 16. Each file says what it was made from and has a checksum: a file of
    other settings is not read, and one that is damaged is drawn again. The processes share the work.

    Attributes:
        prompt: Of all of them.
        number: How many there are.

    References:
        Ruiz et al., "DreamBooth", 2022, arXiv:2208.12242, Eq. 2.
    """

    def __init__(self, phase: TaughtPhase, prompt: str, number: int) -> None:
        """Keep what is asked for.

        Args:
            phase: Has the base model and the sampler.
            prompt: Of the class, e.g. ``a photo of a dog``.
            number: Of pictures, at least 1.
        """
        self.phase, self.prompt, self.number = phase, prompt, number
        self._latents: Tensor | None = None
        self._order = cache(self._order_of)

    def prepare(self, folder: Path) -> None:
        """Read what is in the folder and draw what is missing.

        Args:
            folder: The run's; the files are in ``class_pictures`` below it, by their settings.
        """
        phase = self.phase
        place = folder / "class_pictures" / self.made_from[:12]
        parts = [
            range(start, min(start + ROWS_OF_FILE, self.number))
            for start in range(0, self.number, ROWS_OF_FILE)
        ]
        missing = [rows for rows in parts if self._read(self._file(place, rows)) is None]
        phase.trainer.strategy.barrier("class pictures are looked at")
        if missing:
            log.info("drawing %d class pictures: %s", sum(map(len, missing)), self.prompt)
        rank, processes = phase.trainer.global_rank, phase.trainer.world_size
        for number, rows in enumerate(missing):
            own = number % processes == rank
            if own or phase.sharded:  # a sharded backbone has all processes take as many forwards
                latents = self._draw(rows)
                if own:
                    self._write(self._file(place, rows), latents)
        phase.trainer.strategy.barrier("class pictures are drawn")
        read = [self._read(self._file(place, rows)) for rows in parts]
        assert all(latents is not None for latents in read)
        self._latents = torch.cat([latents for latents in read if latents is not None])

    @property
    def made_from(self) -> str:
        """SHA-256 of all that the pictures depend on."""
        phase, sampler = self.phase, self.phase.sampler
        about: dict[str, Any] = {
            "base": phase.model.identity,
            "precision": str(phase.model.precision),
            "size": phase.model.size,
            "prompt": self.prompt,
            "seed": phase.seed,
            "sampler": type(sampler).__name__,
            "sigmas": sampler.sigmas().tolist(),
            "noise_level": sampler.noise_level,
            "guidance_scale": sampler.guidance_scale,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def beside(self, prompts: Prompts, num_rows: int) -> tuple[Prompts, Tensor]:
        """A class picture for each row: all come once, in a new order for each pass, before any again.

        Args:
            prompts: The rows.
            num_rows: Rows of this process in the round.

        Returns:
            Rows that are told the class prompt, and their latents in fp32 on the phase's device.
        """
        assert self._latents is not None, "prepare() comes first"
        first = self.phase.round * num_rows * num_processes()
        passes = [divmod(first + index, self.number) for index in prompts.indices]
        chosen = [self._order(number)[place] for number, place in passes]
        size = len(prompts)
        told = Prompts((self.prompt,) * size, prompts.tasks, ({},) * size, prompts.indices, prompts.groups)
        return told, self._latents[chosen].to(self.phase.device)

    def _order_of(self, pass_number: int) -> list[int]:
        return numpy_generator(self.phase.seed, "class/order", pass_number).permutation(self.number).tolist()

    @torch.no_grad()
    def _draw(self, rows: range) -> Tensor:
        """The pictures of some numbers, in micro-batches."""
        phase, drawn = self.phase, []
        size = len(rows)
        every = Prompts((self.prompt,) * size, ("",) * size, ({},) * size, tuple(rows), tuple(rows))
        for part in phase.micro_batches(size):
            prompts = every.select(part)

            def noise(purpose: str, prompts: Prompts = prompts) -> Tensor:
                shape = phase.model.latent_shape
                return normal_rows(phase.seed, f"class/{purpose}", 0, prompts.indices, shape).to(phase.device)

            velocity = phase.base.given(phase.conditioning(prompts), phase.sampler.guidance_scale)
            rollout = phase.sampler.rollout(
                velocity, noise("start"), lambda step, noise=noise: noise(f"step/{step}")
            )
            *_, last = rollout
            drawn.append(last.next_latent.float().cpu())
        return torch.cat(drawn)

    # Files.

    def _file(self, place: Path, rows: range) -> Path:
        return place / f"pictures_{rows.start:06d}_to_{rows.stop - 1:06d}.safetensors"

    def _write(self, file: Path, latents: Tensor) -> None:
        about = {"made_from": self.made_from, "prompt": self.prompt, "sha256": _digest(latents)}
        atomic_save_safetensors(file, {_LATENTS: latents}, about)

    def _read(self, file: Path) -> Tensor | None:
        """The latents of a file; None if there is none, or it is not what was written."""
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                about, latents = opened.metadata() or {}, opened.get_tensor(_LATENTS)
        except (SafetensorError, OSError) as error:
            log.warning("%s is damaged (%s); its pictures are drawn again", file, error)
            return None
        if about.get("made_from") != self.made_from or about.get("sha256") != _digest(latents):
            log.warning("%s is not what was written; its pictures are drawn again", file)
            return None
        return latents


def _digest(latents: Tensor) -> str:
    return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()
