"""Text recognition by rapidocr, one thread, models from its own wheel."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LONGEST_SIDE = 960
"""Pixels to which larger pictures are shrunk before lines are looked for, as PaddleOCR does, which Flow-GRPO
reads with. At a quarter of it small writing in a picture of 1024 pixels is not found."""


class RapidTextRecognizer:
    """Reads text in images; the engine is made at the first call and kept.

    A sign that fills a small image needs no detector: recognition alone reads it, many images in one batch.
    """

    def __init__(
        self, *, upscale: int, detect: bool, batch_size: int, line_width: int, num_threads: int
    ) -> None:
        """Remember how to read.

        Args:
            upscale: Whole factor by which images are enlarged (bicubic) before reading.
            detect: Find lines of text first; otherwise each image is read as one line.
            batch_size: Images per recognition call.
            line_width: Width in pixels to which lines, scaled to 48 pixels of height, are padded at least.
            num_threads: Threads of the engine; 1 beside other work.
        """
        self.upscale = upscale
        self.detect = detect
        self.batch_size = batch_size
        self.line_width = line_width
        self.num_threads = num_threads
        self._engine: Any = None

    @property
    def engine(self) -> Any:
        """The rapidocr engine."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine behind: it holds native sessions, and is made again on demand."""
        return {**self.__dict__, "_engine": None}

    def __call__(self, images: Float[Tensor, " batch 3 height width"]) -> list[str]:
        """The text in each image, lines joined by spaces, ``""`` for none."""
        arrays = self._arrays(images)
        if self.detect:
            # The flags stick to the engine, so every call names all three.
            found = [self.engine(array, use_det=True, use_cls=False, use_rec=True).txts for array in arrays]
            return [" ".join(texts) if texts else "" for texts in found]
        from rapidocr.ch_ppocr_rec.typings import TextRecInput

        output = self.engine.text_rec(TextRecInput(img=arrays, return_word_box=False)) if arrays else None
        return [text or "" for text in output.txts] if output is not None else []

    def _arrays(self, images: Tensor) -> list[np.ndarray]:
        """Enlarged BGR uint8 arrays."""
        pixels = images.detach().float().cpu()
        if self.upscale != 1:
            pixels = torch.nn.functional.interpolate(pixels, scale_factor=self.upscale, mode="bicubic")
        bgr = (pixels.clamp(0, 1) * 255).round().byte().flip(1).permute(0, 2, 3, 1)
        return [np.ascontiguousarray(array) for array in bgr.numpy()]

    def _make_engine(self) -> Any:
        from rapidocr import RapidOCR

        logger = logging.getLogger("RapidOCR")  # warns once per empty image, twice beside a root handler
        logger.propagate = False
        engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "EngineConfig.onnxruntime.intra_op_num_threads": self.num_threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_side_len": LONGEST_SIDE,
                "Det.limit_type": "max",
                "Rec.rec_batch_num": self.batch_size,
                "Rec.rec_img_shape": [3, 48, self.line_width],
            }
        )
        logger.setLevel(logging.ERROR)
        engine._load_rec_model()
        return engine
