"""The judge of taught pictures as a vision-language model that is loaded here; nothing is generated.

The question, labels and pictures are those of :mod:`diffopd.reward.learned.vlm_judge`. The mark comes from
the labels' probabilities as the beginning of the reply (:mod:`diffopd.reward.learned.label_likelihood`).

References:
    D-OPSD, 2026, arXiv:2605.05204 (VLM-J: one of four labels, as a mark from 4 to 1). The question is ours,
    and so is a mark from probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import RewardError, Sample
from diffopd.reward.learned.judge_question import WHY_NO_PAIR, JudgeQuestion
from diffopd.reward.learned.label_likelihood import continuations, log_likelihoods
from diffopd.reward.learned.lazy_network import Precision, checked_batch_size
from diffopd.reward.learned.vision_language_model import VisionLanguageModel
from diffopd.types import Prompts, Scores

Mark = Literal["label", "expected"]
_SCALES = {
    "label": "mark of the most probable label (VLM-J by probabilities)",
    "expected": "mean of the marks by their labels' probabilities (VLM-J by probabilities)",
}


class VlmJudgeLocal:
    """The most probable label's mark, or the mean mark; the model sees taught pictures, then the picture.

    The parts are ``label`` and ``expected``, both marks whichever is the value, and ``answered``, the
    probability that the reply begins with any of the labels.

    Args:
        model_path: Folder or hub id of the model, as transformers loads it.
        revision: Of a hub id; None = newest.
        question: What is asked; ``{prompt}`` stands for the prompt.
        reply: How to reply, after the question; ``{labels}`` stands for the labels.
        labels: Label -> mark.
        path: Folder of taught pictures, whose first ones are shown; None = each prompt's own picture.
        num_pictures: How many of the folder are shown.
        image_size: Pixels of each side of the squares that the model's processor gets.
        mark: ``label`` = mark of the most probable label, the first of equal ones; ``expected`` = mean of the
            marks, weighted by the labels' probabilities given that one of them is the reply.
        least_answered: Least probability of all labels together; a sample below it is an error. 0 = none.
        batch_size: Images in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    why_no_pair = WHY_NO_PAIR

    def __init__(
        self,
        *,
        model_path: str,
        revision: str | None,
        question: str,
        reply: str,
        labels: Mapping[str, float],
        path: str | None,
        num_pictures: int,
        image_size: int,
        mark: Mark,
        least_answered: float,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        if mark not in get_args(Mark):
            raise ValueError(f"reward.mark={mark} must be one of {', '.join(get_args(Mark))}")
        if not 0 <= least_answered <= 1:
            raise ValueError(f"reward.least_answered={least_answered} must be a number in [0, 1]")
        self.asked = JudgeQuestion(
            question=question,
            reply=reply,
            labels=labels,
            path=path,
            num_pictures=num_pictures,
            image_size=image_size,
        )
        self.mark = mark
        self.least_answered = least_answered
        self.batch_size = checked_batch_size(batch_size)
        self.model_path = model_path
        self.model = VisionLanguageModel(
            model_path, revision, dtype=dtype, device=device, setting="reward.model_path"
        )
        self.tokens = [self.model.tokens(label) for label in self.asked.marks]
        if len(set(self.tokens)) < len(self.tokens) or () in self.tokens:
            raise ValueError(
                f"reward.labels={', '.join(self.asked.marks)}: the tokenizer of reward.model_path="
                f"{model_path} makes {self.tokens} of them, and no two may be alike or empty; choose others"
            )

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Mark each image; no gradient.

        Raises:
            RewardError: If a probability is not a number, or the model would reply with none of the labels.
        """
        self.asked.check_prompts(prompts)
        samples = [Sample.of(images, prompts, row) for row in range(len(prompts))]
        found = [
            self._log_likelihoods(samples[first : first + self.batch_size])
            for first in range(0, len(samples), self.batch_size)
        ]
        logs = torch.cat(found).to(images.device)
        marks = logs.new_tensor(list(self.asked.marks.values()))
        label = marks[logs.argmax(1)]
        expected = logs.softmax(1) @ marks
        parts = {"label": label, "expected": expected, "answered": logs.logsumexp(1).exp()}
        return Scores(parts[self.mark], parts, f"{self.asked.range}, {_SCALES[self.mark]}")

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without a picture where there is no folder.

        Raises:
            ValueError: If it has none.
        """
        self.asked.check_prompt(prompt)

    def _log_likelihoods(self, samples: Sequence[Sample]) -> Float[Tensor, " sample label"]:
        """Log-probability of each label, checked."""
        contents = [
            self.asked.content(sample, told=self.model.plain(sample.prompt.texts[0])) for sample in samples
        ]
        following = self.model.following(contents, continuations(self.tokens))
        logs = log_likelihoods(following, self.tokens)
        for sample, row, first in zip(samples, logs, following[()], strict=True):
            self._check(sample, row, first)
        return logs

    def _check(
        self, sample: Sample, logs: Float[Tensor, " label"], first: Float[Tensor, " vocabulary"]
    ) -> None:
        """Raise where the model has no answer."""
        total = logs.logsumexp(0)
        answered = total.exp().item()
        if not torch.isfinite(total):
            problem = f"gives the labels the log-probabilities {logs.tolist()} for {sample}"
            remedy = (
                "if these are nan, set reward.dtype=bf16 or fp32; else choose other labels (reward.labels)"
            )
        elif answered < self.least_answered:
            likely = self.model.tokenizer.decode([int(first.argmax())])
            problem = (
                f"would reply with none of {', '.join(self.asked.marks)} to {sample}: together they have the "
                f"probability {answered:.3g}, below reward.least_answered={self.least_answered:g}; it would "
                f"begin with {likely!r} (probability {first.max().exp().item():.3g})"
            )
            remedy = "put the request in other words (reward.reply) or labels, or set reward.least_answered=0"
        else:
            return
        raise RewardError(
            type(self).__name__, f"model_path={self.model_path}", f"{problem}; {remedy}", sample
        )
