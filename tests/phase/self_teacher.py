"""A teacher of one's own: the student's average, told more about each row than the student is."""

from __future__ import annotations

import torch

from diffopd.teacher import Target


class SelfTeacher(Target):
    """The average of the student, which reads each prompt with more words."""

    def __init__(self, *, template: str, guidance_scale: float) -> None:
        self.template, self.guidance_scale = template, guidance_scale

    def check(self, base_config):
        """There are no weights to fit."""

    def join(self, learner):
        self.learner = learner

    def given(self, prompts, conditioning):
        told = prompts.with_texts([self.template.format(text) for text in prompts.texts])
        context = self.learner.conditioning(told)
        return torch.no_grad()(self.learner.average.given(context, self.guidance_scale))
