"""What a teacher is told: one contract for every file in conf/context, and each by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.context import Context, Edit, Reference, Text, Vlm
from diffopd.types import Picture, Prompts

FILES = sorted((Path(__file__).parents[2] / "conf" / "context").glob("*.yaml"))
CHOICES = [path for path in FILES if path.stem != "by_model"]  # which stands for one of these
TARGETS = (Picture("a.png", "aa", 512, 512), Picture("b.png", "bb", 256, 768))
SHOWN = Picture("c.png", "cc", 64, 64)


def prompts(**changes) -> Prompts:
    """Two rows with targets and captions; the second has a reference of its own."""
    captions = [{"captions": {"text": text, "long": f"{text}, at length"}} for text in ("a {cat}", "a dog")]
    rows = Prompts(("a {cat}", "a dog"), ("t", "t"), tuple(captions), (0, 1), (0, 1), TARGETS)
    return replace(rows.with_references([(), (SHOWN,)]), **changes)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_context_changes_what_is_told_and_nothing_else(path):
    node = OmegaConf.load(path)
    if OmegaConf.is_missing(node, "key"):
        node.key = "long"
    context = instantiate(node)
    assert isinstance(context, Context)
    before = prompts()
    told = context(before)
    assert told != before
    assert replace(told, texts=before.texts, references=before.references) == before
    assert any(told.key(row) != before.key(row) for row in range(2))  # so it is encoded anew
    assert context(before) == told
    if context.shows_target:
        names = [tuple(Path(picture.path).name for picture in row) for row in told.references]
        assert [row[-1] for row in names] == ["a.png", "b.png"]
        with pytest.raises(ValueError, match="there is none for 'a dog'; choose data=pairs, which has"):
            context(prompts(targets=(TARGETS[0], None)))


def test_the_target_is_the_only_reference_with_a_sentence_around_the_caption():
    told = Reference(template="{caption} As shown.")(prompts())
    assert told.texts == ("a {cat} As shown.", "a dog As shown.")
    assert told.references == ((TARGETS[0],), (TARGETS[1],))


def test_an_edit_keeps_the_references_and_puts_the_target_last():
    told = Edit(template="Like the last: {caption}")(prompts())
    assert told.texts == ("Like the last: a {cat}", "Like the last: a dog")
    assert told.references == ((TARGETS[0],), (SHOWN, TARGETS[1]))


def test_a_vision_language_model_sees_the_target_within_its_limits():
    told = Vlm(least_pixels=128**2, most_pixels=256**2, multiple=32)(prompts())
    assert told.texts == prompts().texts
    assert [(p.digest, p.height, p.width) for (p,) in told.references] == [
        ("aa", 256, 256),  # half of 512 x 512
        ("bb", 128, 416),  # a third of the pixels: 147.8 x 443.4, cut to multiples
    ]
    small = Vlm(least_pixels=128**2, most_pixels=256**2, multiple=32)(
        prompts(targets=(replace(SHOWN, width=96), SHOWN))
    )
    assert [(p.height, p.width) for (p,) in small.references] == [(128, 160), (128, 128)]


@pytest.mark.parametrize(("least", "most"), [(2**10 - 1, 2**12), (2**13, 2**12)])
def test_limits_between_which_no_size_lies(least, most):
    with pytest.raises(ValueError, match=rf"least_pixels={least} must be at least .*\.most_pixels={most}"):
        Vlm(least_pixels=least, most_pixels=most, multiple=32)


def test_a_better_caption_by_its_key():
    assert Text(key="long")(prompts()).texts == ("a {cat}, at length", "a dog, at length")
    lines = ({"prompt": "a", "better": "a better one"}, {"prompt": "b", "better": " "})
    line = Prompts(("a", "b"), ("t", "t"), lines, (0, 1), (0, 1))
    assert Text(key="better")(line.select([0])).texts == ("a better one",)
    with pytest.raises(ValueError, match=r"context\.key=better: there is no such caption for 'b'"):
        Text(key="better")(line)
    with pytest.raises(ValueError, match=r"it has \['long', 'text'\]"):
        Text(key="short")(prompts())


@pytest.mark.parametrize("kind", [Reference, Edit])
def test_a_template_has_a_place_for_the_caption(kind):
    with pytest.raises(ValueError, match=r"context\.template='as shown' has no \{caption\}"):
        kind(template="as shown")
