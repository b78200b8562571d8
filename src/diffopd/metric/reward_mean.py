"""Mean reward of one task, with its parts, a breakdown by tag, and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from diffopd.metric.interval import Interval, bootstrap_interval
from diffopd.metric.kept import Kept, by_index
from diffopd.reward.checked import score_checked
from diffopd.types import Prompts, Reward, Scores


class RewardMean(Metric):
    """Mean over images of a reward and of each of its parts.

    Every sample is kept with its global index, and an index seen twice counts once, so the padding of an
    uneven last batch over processes changes nothing.

    Args:
        reward: Scores the images given to ``update``.
        parts: Names of the reward's parts to report beside its value.
        tags: Values of ``metadata["tag"]`` to break down by. Overall scores are then the mean over the tags
            that occur, as GenEval has it, not over images. Empty for the plain mean.
    """

    full_state_update = False
    higher_is_better = True

    indices: list[Tensor]
    tag_numbers: list[Tensor]
    values: list[Tensor]

    def __init__(self, *, reward: Reward, parts: Sequence[str], tags: Sequence[str]) -> None:
        super().__init__()
        self.reward = reward
        self.parts = tuple(parts)
        self.tags = tuple(tags)
        self.add_state("indices", default=[], dist_reduce_fx="cat")
        self.add_state("tag_numbers", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def keep(self, images: Tensor | Scores, prompts: Prompts) -> Kept:
        """Value and parts of each image: of images, or of the scores this reward already gave them.

        Raises:
            RewardError: If an image cannot be scored.
            ValueError: If a row has a tag, or the scores lack a part, that this metric does not know.
        """
        self._tag_numbers(prompts)
        given = isinstance(images, Scores)
        scores = images if given else score_checked(self.reward, images, prompts, "reward")
        missing = set(self.parts) - set(scores.parts)
        if missing:
            raise ValueError(f"metric.parts names {sorted(missing)}; the reward has {sorted(scores.parts)}")
        columns = {"value": scores.value, **{part: scores.parts[part] for part in self.parts}}
        return Kept({name: column.detach().double().cpu() for name, column in columns.items()})

    def update(self, images: Tensor | Scores | Kept, prompts: Prompts) -> None:
        """Add a batch: images, the scores this reward already gave them, or what was kept of them.

        Raises:
            RewardError: If an image cannot be scored.
            ValueError: If a row has a tag, or the scores lack a part, that this metric does not know.
        """
        kept = images if isinstance(images, Kept) else self.keep(images, prompts)
        columns = [kept.rows[name] for name in ("value", *self.parts)]
        self.values.append(torch.stack(columns, 1).to(self.device))
        self.indices.append(torch.tensor(prompts.indices, device=self.device))
        self.tag_numbers.append(torch.tensor(self._tag_numbers(prompts), device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Overall ``value`` and parts, each tag's as ``tag/name``, and ``num_images``."""
        _, tags, values = self._samples()
        names = ("value", *self.parts)
        per_tag = {int(t): values[tags == t].mean(0) for t in tags.unique()}
        overall = torch.stack(list(per_tag.values())).mean(0)
        result = dict(zip(names, overall, strict=True))
        for number, means in per_tag.items():
            if self.tags:
                result |= {f"{self.tags[number]}/{n}": m for n, m in zip(names, means, strict=True)}
        return result | {"num_images": torch.tensor(float(len(values)))}

    def samples(self, name: str = "value") -> Tensor:
        """One value per image of all processes, ordered by sample index: what a paired comparison needs."""
        with self.sync_context():
            return self._samples()[2][:, ("value", *self.parts).index(name)]

    def strata(self) -> Tensor:
        """The tag number of each of :meth:`samples`."""
        with self.sync_context():
            return self._samples()[1]

    def interval(self, name: str = "value", **options: Any) -> Interval:
        """Bootstrap interval of an overall score; options as for :func:`bootstrap_interval`."""
        return bootstrap_interval(self.samples(name), strata=self.strata(), **options)

    def _tag_numbers(self, prompts: Prompts) -> list[int]:
        if not self.tags:
            return [0] * len(prompts)
        found = [str(line.get("tag")) for line in prompts.metadata]
        unknown = sorted(set(found) - set(self.tags))
        if unknown:
            raise ValueError(f"prompts carry the tags {unknown}; metric.tags has {list(self.tags)}")
        return [self.tags.index(tag) for tag in found]

    def _samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Index, tag and values of each distinct sample, by index."""
        if len(self.values) == 0:
            raise ValueError("the metric holds no images; update it before asking for its scores")
        rows = (dim_zero_cat(self.tag_numbers), dim_zero_cat(self.values))
        distinct, tags, values = by_index(dim_zero_cat(cast(list[Tensor], self.indices)), *rows)
        return distinct, tags, values
