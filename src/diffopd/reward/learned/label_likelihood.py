"""How probable a reply is that begins with each of some labels, by the next-token probabilities of a model.

The probability of a label is the product of its tokens', each given the prompt and the tokens before it::

    p(l) = p(l_1 | prompt) p(l_2 | prompt, l_1) ... p(l_n | prompt, l_1, ..., l_(n-1))

There is no mean over tokens: it is the probability of an event, and a label of more tokens is as probable as
the model says. Where a label begins with all tokens of another ("same style" and "same"), the shorter one
stands for the replies that do not become the longer one, ``p(same) - p(same style)``, so that no reply stands
for two labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = tuple[int, ...]


def continuations(labels: Sequence[Tokens]) -> list[Tokens]:
    """What a model has to read after the prompt, so that it has predicted every token of every label.

    One forward pass predicts the token after each token that it reads, so a beginning of another is left out.

    Examples:
        >>> continuations([(1,), (2,)])
        [()]
        >>> continuations([(1, 2, 3), (1, 4), (5,)])
        [(1, 2)]
    """
    read = {label[:-1] for label in labels}
    return sorted(tokens for tokens in read if not any(_is_longer(other, tokens) for other in read))


def log_likelihoods(
    following: Mapping[Tokens, Float[Tensor, " batch vocabulary"]], labels: Sequence[Tokens]
) -> Float[Tensor, " batch label"]:
    """Logarithm of the probability that a reply begins with each label, and with no longer one.

    Args:
        following: What was read after the prompt -> log-probabilities of the next token; all beginnings of
            labels are there, the empty one among them.
        labels: Their tokens, no two alike.

    Examples:
        Half of all replies begin with token 1; half of these continue with token 0, which is another label.

        >>> half = torch.tensor([[0.5, 0.5]]).log()
        >>> log_likelihoods({(): half, (1,): half}, [(1,), (1, 0)]).exp()
        tensor([[0.2500, 0.2500]])
    """
    begun = [sum_of_tokens(following, label) for label in labels]
    found = []
    for label, whole in zip(labels, begun, strict=True):
        longer = [place for place, other in enumerate(labels) if _is_longer(other, label)]
        nearest = [a for a in longer if not any(_is_longer(labels[a], labels[b]) for b in longer)]
        if nearest:
            share = torch.stack([begun[place] - whole for place in nearest]).exp().sum(0)
            whole = whole + torch.log1p(-share.clamp(max=1))
        found.append(whole)
    return torch.stack(found, 1)


def sum_of_tokens(
    following: Mapping[Tokens, Float[Tensor, " batch vocabulary"]], label: Tokens
) -> Float[Tensor, " batch"]:
    """Logarithm of the probability that a reply begins with a label, whatever comes after it."""
    return torch.stack([following[label[:place]][:, token] for place, token in enumerate(label)]).sum(0)


def _is_longer(tokens: Tokens, other: Tokens) -> bool:
    """Whether ``tokens`` begins with all of ``other``, and has more."""
    return len(tokens) > len(other) and tokens[: len(other)] == other
