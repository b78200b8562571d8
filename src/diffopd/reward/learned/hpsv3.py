"""HPSv3: Qwen2-VL with a head that scores picture and prompt by what people prefer.

References:
    Ma et al., "HPSv3", 2025, arXiv:2508.03789. Preprocessing, instruction and head as in the released
    inference code: pictures of about 256 x 28 x 28 pixels, positions of tokens in a row, the head's first
    output at the token ``<|Reward|>``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoImageProcessor, PreTrainedModel, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from diffopd.files.png import to_picture
from diffopd.reward.learned.lazy_network import Frozen, Precision, checked_batch_size, load_pretrained
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.learned.weights import tokenizer_folder, weights_folder
from diffopd.types import KnownPair, Prompts, Scores

REWARD_TOKEN, PICTURE_TOKEN = "<|Reward|>", "<|image_pad|>"
PIXELS = 256 * 28 * 28
"""Of a picture as the network sees it, about."""
WIDTHS = (1024, 16, 2)
"""Outputs of the head's layers; its two numbers are the score's mean and a logarithm of its spread."""
DESCRIPTION = "HPSv3, unbounded, higher is better"


class Hpsv3Network(PreTrainedModel):
    """The published network.

    Attributes:
        model: Qwen2-VL without its head for words.
        head: Three linear layers, in fp32 whatever the precision of the rest.
    """

    config_class = Qwen2VLConfig
    main_input_name = "input_ids"
    _keep_in_fp32_modules_strict = ["head"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        self.model = Qwen2VLModel(config)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((text.hidden_size, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, " batch token"],
        attention_mask: Int[Tensor, " batch token"],
        pixel_values: Float[Tensor, " patch width"],
        image_grid_thw: Int[Tensor, " picture 3"],
    ) -> Float[Tensor, " batch token 2"]:
        """The head's outputs at every token.

        Positions count tokens in a row, those of a picture too: the released forward hands the model no grid
        of the picture to make others of.
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(3, len(input_ids), -1)
        hidden = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            use_cache=False,
        ).last_hidden_state
        return self.head(hidden.float())


class Hpsv3Reward:
    """HPSv3's score; the part ``log_spread`` is the head's second output.

    Args:
        path: Folder with config, safetensors, tokenizer and image processor, as ``diffopd.convert`` makes it.
        revision: Of a hub id; None = newest.
        instruction: What the network is told; ``{text_prompt}`` stands for the prompt. It was trained with
            the published one, so that any other changes the scores.
        batch_size: Images in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        instruction: str,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        if "{text_prompt}" not in instruction or instruction.count(REWARD_TOKEN) != 1:
            raise ValueError(
                f"reward.instruction must hold {{text_prompt}}, and {REWARD_TOKEN} once, got {instruction!r}"
            )
        folder = weights_folder(path, revision, reward="hpsv3", setting="reward.path")
        place = tokenizer_folder(str(folder), kind=Qwen2Tokenizer, setting="reward.path")
        self.tokenizer: Any = Qwen2Tokenizer.from_pretrained(place, local_files_only=True)
        for token in (REWARD_TOKEN, PICTURE_TOKEN):
            if token not in self.tokenizer.get_vocab():
                raise ValueError(f"reward.path={path}: the tokenizer lacks {token}; convert the folder again")
        # The variant on Pillow: the other needs torchvision.
        self.processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        self.instruction = instruction
        self.batch_size = checked_batch_size(batch_size)
        load = functools.partial(_load, folder)
        self._frozen: Frozen[Hpsv3Network] = Frozen(load, dtype=dtype, device=device, setting="reward")

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        network, found = self._frozen.network, []
        reward_token = self.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        for first in range(0, len(prompts), self.batch_size):
            rows = range(first, min(first + self.batch_size, len(prompts)))
            inputs = self.inputs(images[rows.start : rows.stop], [prompts.texts[row] for row in rows])
            inputs = {name: tensor.to(self._frozen.device) for name, tensor in inputs.items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(self._frozen.dtype)
            found.append(network(**inputs)[inputs["input_ids"] == reward_token])
        score, log_spread = torch.cat(found).to(images.device).unbind(1)
        return Scores(score, {"log_spread": log_spread}, DESCRIPTION)

    def inputs(self, images: Float[Tensor, " batch 3 height width"], texts: list[str]) -> dict[str, Tensor]:
        """What the network is given, prompts padded on the right."""
        factor = self.processor.patch_size * self.processor.merge_size
        height, width = smart_resize(images.shape[-2], images.shape[-1], factor, PIXELS, PIXELS)
        pictures = [to_picture(image).resize((width, height), resample=3) for image in images]  # bicubic
        seen = self.processor(images=pictures, return_tensors="pt")
        tokens = seen["image_grid_thw"].prod(1) // self.processor.merge_size**2
        conversations = [self._conversation(text) for text in texts]
        shown = [
            text.replace(PICTURE_TOKEN, PICTURE_TOKEN * int(count), 1)
            for text, count in zip(conversations, tokens, strict=True)
        ]
        encoded = self.tokenizer(shown, padding=True, padding_side="right", return_tensors="pt")
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "pixel_values": seen["pixel_values"],
            "image_grid_thw": seen["image_grid_thw"],
        }

    def _conversation(self, text: str) -> str:
        # A prompt with the name of a token in it is no token.
        clean = text.replace(REWARD_TOKEN, "").replace(PICTURE_TOKEN, "")
        told = self.instruction.replace("{text_prompt}", clean)
        content = [{"type": "image"}, {"type": "text", "text": told}]
        message = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def hpsv3_tensors(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a :class:`Hpsv3Network` from the released state dict, of either version of transformers.

    Raises:
        ValueError: If a layer of the head is missing.
    """
    places = {0: 0, 3: 2, 5: 4}  # the released head counts dropout
    found: dict[str, Tensor] = {}
    for name, tensor in released.items():
        if name.startswith("rm_head."):
            place, _, kind = name.removeprefix("rm_head.").partition(".")
            found[f"head.{places.get(int(place), place)}.{kind}"] = tensor.float()
        elif name.startswith("visual."):
            found[f"model.{name}"] = tensor
        elif name.startswith(("model.language_model.", "model.visual.")):
            found[name] = tensor
        elif name.startswith("model."):
            found[f"model.language_model.{name.removeprefix('model.')}"] = tensor
        elif name != "lm_head.weight":  # of words, which are never drawn
            raise ValueError(f"the tensor {name} is unknown")
    if missing := sorted({f"head.{place}.weight" for place in places.values()} - set(found)):
        raise ValueError(f"the head's {', '.join(missing)} are missing")
    return found


def _load(folder: Path, dtype: torch.dtype) -> Hpsv3Network:
    return load_pretrained(Hpsv3Network, folder, dtype, setting="reward.path")
