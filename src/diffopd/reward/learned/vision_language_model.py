"""A vision-language model of transformers: how probable each next token of its reply to a question is."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PROCESSOR_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedModel,
)

from diffopd.reward.learned.label_likelihood import Tokens
from diffopd.reward.learned.lazy_network import Frozen, Precision, load_pretrained
from diffopd.reward.learned.vision_server import Content
from diffopd.reward.learned.weights import weights_folder
from diffopd.weights.files import read_json
from diffopd.weights.tokenizers import check_tokenizer, check_tokenizer_files

_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""Inputs with an entry for each token, beside the tokens and their mask: which of them stand for pictures."""
_THINKS = "<think>"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_ADVICE = "name one that transformers knows as image-text-to-text, such as Qwen/Qwen3-VL-8B-Instruct"


class VisionLanguageModel:
    """A model with its processor, from one folder; its weights load at the first question.

    Args:
        path: Folder or hub id with config, safetensors, tokenizer, chat template and image processor.
        revision: Of a hub id; None = newest.
        dtype: Precision of the network: fp32, bf16 or fp16.
        device: ``"auto"`` = a GPU if there is one; or a device's name.
        setting: Config path of ``path``, for messages.

    Attributes:
        tokenizer: The model's own.

    Raises:
        ValueError: If there is no such folder, or what it holds cannot be asked about pictures.
    """

    def __init__(
        self, path: str, revision: str | None, *, dtype: Precision, device: str, setting: str
    ) -> None:
        folder = weights_folder(path, revision, reward=None, setting=setting)
        where = f"{setting}={path}"
        kind, self._processor, self._template = _parts(folder, where)
        self.tokenizer: Any = self._processor.tokenizer
        names = "|".join(map(re.escape, _special_tokens(self._processor)))
        self._special = re.compile(names or r"(?!)")
        load = functools.partial(_load, kind, folder, setting)
        self._frozen: Frozen[PreTrainedModel] = Frozen(
            load, dtype=dtype, device=device, setting=setting.rpartition(".")[0]
        )
        self._check_chat(where)

    def tokens(self, text: str) -> Tokens:
        """Tokens of a reply."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def plain(self, text: str) -> str:
        """A text without names of special tokens: what a prompt says opens no picture and ends no turn."""
        while (less := self._special.sub("", text)) != text:
            text = less
        return text

    @torch.no_grad()
    def following(
        self, contents: Sequence[Content], ahead: Sequence[Tokens]
    ) -> dict[Tokens, Float[Tensor, " batch vocabulary"]]:
        """Log-probabilities of the token after the prompt, and after each beginning of a reply.

        Args:
            contents: Pictures and question of each row, as many pictures in all of them.
            ahead: What is read after the prompt, each in a forward pass of its own.

        Returns:
            Beginning of a reply -> log-probabilities, in fp32, on the network's device.
        """
        network, device = self._frozen.network, self._frozen.device
        inputs = {name: tensor.to(device) for name, tensor in self.inputs(contents).items()}
        for name, tensor in inputs.items():
            if tensor.is_floating_point():
                inputs[name] = tensor.to(self._frozen.dtype)
        found: dict[Tokens, Tensor] = {}
        for tokens in ahead:
            number = len(tokens) + 1
            logits = network(**_with_tokens(inputs, tokens), use_cache=False, logits_to_keep=number).logits
            log_probs = logits[:, -number:].float().log_softmax(-1)
            for place in range(number):
                found.setdefault(tokens[:place], log_probs[:, place])
        return found

    def inputs(self, contents: Sequence[Content]) -> dict[str, Tensor]:
        """What the network is given: one conversation per row, padded on the left, so that all end alike."""
        chats = [self._chat(len(pictures), question) for pictures, question in contents]
        begins = self.tokenizer.bos_token  # a template may have written it
        encoded = self._processor(
            images=[list(pictures) for pictures, _ in contents],
            text=chats,
            padding=True,
            padding_side="left",
            add_special_tokens=not (begins and chats[0].startswith(begins)),
            return_tensors="pt",
        )
        return dict(encoded)

    def _chat(self, num_pictures: int, question: str) -> str:
        """The conversation up to the model's reply: pictures, then the question."""
        content = [*({"type": "image"} for _ in range(num_pictures)), {"type": "text", "text": question}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # templates without such a switch pay no heed to it
        )

    def _check_chat(self, where: str) -> None:
        """Check how the template writes a conversation.

        Raises:
            ValueError: If pictures have no place in it, or it has the model think first.
        """
        chat = self._chat(2, "?")
        token = getattr(self._processor, "image_token", None)
        if token is not None and chat.count(token) != 2:
            raise ValueError(
                f"{where}: its chat template has {chat.count(token)} places for 2 pictures ({token}); it is "
                f"not that of a vision-language model. Fetch the folder again, or {_ADVICE}"
            )
        if chat.rstrip().endswith(_THINKS):
            raise ValueError(
                f"{where}: its chat template begins each reply with {_THINKS}, so a label is not what comes "
                "next; name a model that replies without thinking (an Instruct one)"
            )


def _parts(folder: Path, where: str) -> tuple[type[PreTrainedModel], Any, str]:
    """The network's class, the processor, and the chat template.

    Raises:
        ValueError: If transformers knows no such model, or a file is missing or another model's.
    """
    try:
        config: Any = AutoConfig.from_pretrained(folder, **_LOCAL)
        kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
        processor = PROCESSOR_MAPPING.get(type(config), None)
        if kind is None or processor is None:
            raise ValueError(f"a {config.model_type} is no vision-language model")
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **_LOCAL)
        # The variant on Pillow: the other needs torchvision.
        image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **_LOCAL)
        file = folder / "processor_config.json"
        settings = read_json(file, f"{where}/{file.name}") if file.is_file() else {}
        made = _made(processor, tokenizer, image_processor, settings)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        text = " ".join(f"{error}".split())
        raise ValueError(f"{where} cannot be asked about pictures: {text}; {_ADVICE}") from error
    check_tokenizer_files(folder, type(tokenizer), where)
    check_tokenizer(tokenizer, config.get_text_config().vocab_size, where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return kind, made, _template(folder, tokenizer, settings, where)


def _made(kind: Any, tokenizer: Any, image_processor: Any, settings: dict[str, Any]) -> Any:
    """A processor from its parts and the settings that its class takes."""
    parts = {"tokenizer": tokenizer, "image_processor": image_processor, "video_processor": None}
    wanted = kind.get_attributes()
    if unknown := sorted(set(wanted) - set(parts)):
        raise ValueError(f"its {kind.__name__} needs more than pictures and text ({', '.join(unknown)})")
    taken = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in settings.items() if name in taken and name not in wanted}
    # Its part for videos needs torchvision and is never asked; so it is None, which the class would not take.
    made = object.__new__(kind)
    made.check_argument_for_proper_class = lambda name, part: None
    made.__init__(**{name: parts[name] for name in wanted}, **given)
    del made.check_argument_for_proper_class
    return made


def _template(folder: Path, tokenizer: Any, settings: dict[str, Any], where: str) -> str:
    """The chat template, which lies in a file of its own, with the processor's settings or the tokenizer's.

    Raises:
        ValueError: If there is none.
    """
    file = folder / "chat_template.json"
    beside = read_json(file, f"{where}/{file.name}").get("chat_template") if file.is_file() else None
    found = settings.get("chat_template") or beside or tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    if not found:
        raise ValueError(
            f"{where} has no chat template (chat_template.jinja), by which a question is asked; fetch the "
            "folder again, or name an Instruct model"
        )
    return str(found)


def _special_tokens(processor: Any) -> list[str]:
    """Names of the tokens that are more than text, those of pictures among them; longer ones first."""
    added = processor.tokenizer.added_tokens_decoder.values()
    names = {token.content for token in added if token.special}
    names |= {getattr(processor, f"{kind}_token", None) for kind in ("image", "video")}
    return sorted(filter(None, names), key=lambda name: (-len(name), name))


def _with_tokens(inputs: dict[str, Tensor], tokens: Tokens) -> dict[str, Tensor]:
    """The inputs with the same further tokens in each row."""
    ids = inputs["input_ids"]
    more = ids.new_tensor(tokens).expand(len(ids), -1)
    added = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    added |= {name: torch.zeros_like(more) for name in _PER_TOKEN}
    return {
        name: torch.cat([tensor, added[name].to(tensor.dtype)], 1) if name in added else tensor
        for name, tensor in inputs.items()
    }


def _load(kind: type[PreTrainedModel], folder: Path, setting: str, dtype: torch.dtype) -> PreTrainedModel:
    return load_pretrained(kind, folder, dtype, setting=setting)
