"""The judge's label against a stub of an OpenAI-compatible server in this process."""

import base64
import io

import pytest
import torch
from PIL import Image

from diffopd.reward.checked import RewardError
from diffopd.types import Picture, Prompts
from support.stub_server import serving


@pytest.fixture
def judge(build_judge):
    """``judge(address, **changes)`` from its config."""

    def make(at, **changes):
        told = {"address": f"{at}/v1", "backoff": 0.0, "retries": 1}
        return build_judge("vlm_judge", **{**told, **changes})

    return make


def shown(content):
    """Brightness of each picture of a request, and its question."""
    *images, text = content["messages"][0]["content"]
    data = [image["image_url"]["url"].partition(",")[2] for image in images]
    pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]
    return [picture.getpixel((0, 0))[0] for picture in pictures], text["text"], pictures


def by_difference(path, headers, content):
    (*taught, drawn), _, _ = shown(content)
    label = "same" if abs(taught[0] - drawn) < 9 else "mostly" if abs(taught[0] - drawn) < 99 else "different"
    return 200, {"choices": [{"message": {"content": f"Not Answer: partly. Answer: '{label}'."}}]}


@pytest.fixture
def folder(tmp_path):
    for number, tone in enumerate((255, 0)):
        Image.new("RGB", (12, 9), (tone,) * 3).save(tmp_path / f"{number}.png")
    return tmp_path


IMAGES = torch.tensor([1.0, 0.75, 0.0]).view(3, 1, 1, 1).expand(3, 3, 8, 6)
PROMPTS = Prompts(("a plim", "the plim", "plims"), ("t",) * 3, ({},) * 3, (0, 1, 2), (0, 1, 2))


def test_the_folder_s_first_picture_is_what_drawn_ones_are_compared_with(judge, folder):
    with serving(by_difference) as address:
        scores = judge(address, path=str(folder))(IMAGES, PROMPTS)
    assert scores.value.tolist() == [4, 3, 1]
    assert scores.scale.startswith("[1, 4]")


def test_a_prompt_s_own_picture_is_shown_before_the_drawn_one_at_one_size(judge, folder):
    seen = []

    def note(path, headers, content):
        seen.append(shown(content))
        return by_difference(path, headers, content)

    own = Prompts(*PROMPTS._columns()[:5], (Picture(str(folder / "1.png"), "", 12, 9),) * 3)
    with serving(note) as address:
        assert judge(address, image_size=16)(IMAGES[2:], own.select([2])).value.tolist() == [4]
    ((tones, question, pictures),) = seen
    assert tones == [0, 0]
    assert {picture.size for picture in pictures} == {(16, 16)}
    assert "[plims]" in question
    assert "same, mostly, partly, different" in question


def test_what_is_missing_is_told(judge, folder):
    reward = judge("http://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"'a plim' has no picture .* name the folder .* reward\.path="):
        reward.check_prompt(PROMPTS.select([0]))
    (folder / "empty").mkdir()
    with pytest.raises(Exception, match=r"reward\.path=.*empty.* holds no pictures"):
        judge("http://127.0.0.1:1", path=str(folder / "empty"))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"reply": "?"}, r"reward\.reply \(or reward\.question\) must hold \{labels\}"),
        ({"labels": {"same": 4}}, r"reward\.labels must have at least two labels"),
        ({"labels": {"Same": 4, "same": 1}}, r"reward\.labels must differ in more than case, got Same, same"),
        ({"labels": {True: 4, "no": 1}}, r"reward\.labels must be words, got True; put it in quotes"),
        ({"labels": {"same": "high", "no": 1}}, r"reward\.labels\.same=high must be a finite number"),
        ({"num_pictures": 0}, r"reward\.num_pictures=0 must be at least 1"),
        ({"concurrency": 0}, r"reward\.concurrency=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_errors(judge, setting, message):
    with pytest.raises(Exception, match=message):
        judge("http://127.0.0.1:1", **setting)


def test_a_reply_without_a_label_is_asked_again_and_then_an_error(judge, folder):
    asked = []

    def mute(path, headers, content):
        asked.append(1)
        return 200, {"choices": [{"message": {"content": "I cannot say; answer: nothing"}}]}

    with serving(mute) as address, pytest.raises(RewardError, match=r"asked 2 times .* 'Answer: <label>'"):
        judge(address, path=str(folder))(IMAGES[:1], PROMPTS.select([0]))
    assert len(asked) == 2
