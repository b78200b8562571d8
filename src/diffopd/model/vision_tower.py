"""Prompts with pictures for a pipeline whose text encoder is a language model: it is lent eyes.

The language model stays the pipeline's own. A vision-language model of the same size gives what it lacks: the
vision tower and its connector, the picture's place among the tokens, and the form of a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLConfig, Qwen3VLModel, Qwen3VLTextModel

from diffopd.files.fingerprint import cached_sha256_of
from diffopd.files.names import MODEL_CONFIG
from diffopd.files.paths import resolve_path
from diffopd.files.picture import read_picture
from diffopd.files.png import to_picture
from diffopd.model.component import quiet_loading, reading
from diffopd.types import Conditioning, Picture
from diffopd.weights.files import TRANSFORMERS, check_weight_files, weight_files
from diffopd.weights.finite import check_finite
from diffopd.weights.hub import HUB_ERRORS

MOST_TOKENS = 1024
"""Tokens of a prompt with its pictures; longer ones are cut off at the end, as released."""
LAYER = -2
"""Hidden state that is the encoding: that before the last layer, as Z-Image reads its prompts."""
_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")


@final
class VisionTower:
    """Encodes a prompt together with pictures by Qwen3-VL with the language weights of a pipeline.

    The language model's parameters are those of the pipeline's text encoder, not copies: they are in memory
    once, and move with it.

    Attributes:
        identity: SHA-256 over the files that were read, which an encoding depends on.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, released trainer for Z-Image-Turbo: the teacher's context.
    """

    def __init__(self, path: str, text_encoder: nn.Module) -> None:
        """Load the tower, and join it to the language model.

        Args:
            path: A folder of Qwen3-VL as transformers saves it, or a hub id.
            text_encoder: The pipeline's language model.

        Raises:
            ValueError: If there is no such model, or its language model has another shape.
        """
        where = f"model.vision_tower={path}"
        folder = _folder(path, where)
        files = weight_files(folder, TRANSFORMERS, where)
        check_weight_files(files, where)
        self.identity = "".join(cached_sha256_of(file) for file in [folder / MODEL_CONFIG, *files])
        language = getattr(text_encoder, "model", text_encoder)
        with reading(where), quiet_loading():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            # The variant on Pillow: the other needs torchvision.
            self._processor: Any = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, backend="pil"
            )
            self._model, missing = _without_language(folder, next(language.parameters()).dtype)
        if missing:
            raise ValueError(
                f"{where}: {len(missing)} tensors of the vision tower are missing (first: {missing[0]}); "
                "fetch the folder again"
            )
        check_finite(self._model.visual, where, setting="model.text_dtype")
        self._model.language_model = _sharing(self._model.config.text_config, language, where)
        self._model.requires_grad_(False).eval()
        self._template = self._tokenizer.chat_template or _template_beside(folder, where)
        self._where = where

    @torch.no_grad()
    def encode(self, text: str, pictures: Sequence[Picture], device: torch.device) -> Conditioning:
        """One prompt with its pictures before it; one row.

        Args:
            text: The prompt.
            pictures: In order.
            device: Where the text encoder is.

        Raises:
            ValueError: If a picture's size is not a whole number of its tokens, or the pictures alone fill
                the longest prompt.
        """
        model = self._model.to(device)
        seen = self._seen(pictures)
        counts = (seen["image_grid_thw"].prod(1) // self._processor.merge_size**2).tolist()
        ids = self._ids(text, counts).to(device)
        marked = ids == model.config.image_token_id
        if int(marked.sum()) != sum(counts):
            raise ValueError(
                f"{self._where}: {sum(counts)} tokens of pictures do not fit into a prompt of {MOST_TOKENS} "
                f"({pictures[0].path}); show fewer or smaller pictures (context.most_pixels)"
            )
        hidden = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=marked.int(),
            pixel_values=seen["pixel_values"].to(device),
            image_grid_thw=seen["image_grid_thw"].to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states[LAYER]
        return Conditioning(hidden, lengths=(hidden.shape[1],))

    def to(self, device: torch.device | str) -> None:
        """Move the tower; the language model is moved by its pipeline."""
        self._model.to(device)

    def _seen(self, pictures: Sequence[Picture]) -> Any:
        """Patches of the pictures, each at its own size."""
        side = self._processor.patch_size * self._processor.merge_size
        for picture in pictures:
            if picture.height % side or picture.width % side:
                raise ValueError(
                    f"{picture.path}: {picture.height} x {picture.width} pixels; {self._where} sees pictures "
                    f"whose height and width are multiples of {side} (context.multiple)"
                )
        images = [to_picture(read_picture(picture)) for picture in pictures]
        return self._processor(images=images, do_resize=False, return_tensors="pt")

    def _ids(self, text: str, counts: Sequence[int]) -> Tensor:
        """Tokens of the conversation, with as many places for each picture as it has tokens."""
        content = [*({"type": "image"} for _ in counts), {"type": "text", "text": text}]
        written = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        token = self._tokenizer.convert_ids_to_tokens(self._model.config.image_token_id)
        head, *rest = written.split(token, len(counts))
        places = [token * count + part for count, part in zip(counts, rest, strict=True)]
        return self._tokenizer("".join([head, *places]), return_tensors="pt").input_ids[:, :MOST_TOKENS]


def _folder(path: str, where: str) -> Path:
    """The local folder; a hub id is fetched first."""
    place = Path(resolve_path(path))
    if place.is_dir():
        return place
    try:
        return Path(snapshot_download(path, allow_patterns=list(_FILES)))
    except (*HUB_ERRORS, ValueError) as error:
        raise ValueError(
            f"{where}: there is no such folder ({place.absolute()}), and the hub has no model of that name: "
            f"{' '.join(str(error).split())}"
        ) from error


def _without_language(folder: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model with none of its language layers, and the vision tower's tensors that were not there."""
    config = Qwen3VLConfig.from_pretrained(folder, local_files_only=True)
    text: Any = config.text_config
    text.num_hidden_layers = 0
    loaded: Any = Qwen3VLModel.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
    )
    model, info = loaded
    return model, sorted(key for key in info["missing_keys"] if key.startswith("visual."))


def _sharing(config: Any, language: nn.Module, where: str) -> nn.Module:
    """Qwen3-VL's language model around the parameters of another of its shape."""
    own: Any = language.config
    config.num_hidden_layers = own.num_hidden_layers
    with torch.device("meta"):
        shell: Any = Qwen3VLTextModel(config)
    shapes = [{name: tuple(p.shape) for name, p in side.named_parameters()} for side in (shell, language)]
    differing = sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    )
    if differing:
        name = differing[0]
        raise ValueError(
            f"{where}: its language model and the pipeline's text encoder are of different shapes ({name}: "
            f"{shapes[0].get(name, 'absent')} and {shapes[1].get(name, 'absent')}); name the vision-language "
            "model of the text encoder's size"
        )
    for name, parameter in language.named_parameters():
        owner, _, leaf = name.rpartition(".")
        shell.get_submodule(owner)._parameters[leaf] = parameter
    shell.rotary_emb = type(shell.rotary_emb)(config)  # its table of frequencies is in no file
    return shell.to(next(language.parameters()).device)


def _template_beside(folder: Path, where: str) -> str:
    """The chat template of a model that keeps it in a file of its own."""
    file = folder / "chat_template.json"
    if not file.is_file():
        raise ValueError(f"{where}: its tokenizer has no chat template; fetch the folder again")
    return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
