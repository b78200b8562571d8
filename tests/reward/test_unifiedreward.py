"""UnifiedReward against a stub of an OpenAI-compatible server in this process."""

import base64
import io
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from diffopd.reward.checked import RewardError, score_checked
from diffopd.reward.learned.unifiedreward import UnifiedReward, parse_mark
from diffopd.types import Prompts
from support.stub_server import serving, unused_address

CONFIG = OmegaConf.load(Path(__file__).parents[2] / "conf/reward/unifiedreward.yaml")
PROMPTS = Prompts(
    tuple(f"prompt {i}" for i in range(5)), ("t",) * 5, ({},) * 5, tuple(range(40, 45)), (0,) * 5
)
IMAGES = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 6) / 4


def reward(at, **changes):
    settings = {key: value for key, value in CONFIG.items() if key != "_target_"}
    return UnifiedReward(**{**settings, "address": f"{at}/v1", "backoff": 0.0, "retries": 2, **changes})


def completion(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def asked(content):
    """Picture and question of a request."""
    image, text = content["messages"][0]["content"]
    assert image["type"] == "image_url"
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))), text["text"]


def mark_by_brightness(path, headers, content):
    picture, _ = asked(content)
    return 200, completion(
        f"Final Score: is 1 to 5. Final Score: {1 + round(picture.getpixel((0, 0))[0] / 64)}"
    )


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("Final Score: 4", 4.0),
        ("Final Score:\n3.75 of 5", 3.75),
        ("not Final Score: 2 but Final Score: 5", 5.0),
        ("Final Score: 6", None),
        ("Final Score: 5.5", None),
        ("Final Score: 10", None),
        ("Final Score: 45 of 100", None),
        ("Final Score: 3.", 3.0),
        ("Score: 3", None),
        ("", None),
    ],
)
def test_the_last_mark_of_a_reply_counts(reply, mark):
    assert parse_mark(reply) == mark


@pytest.mark.parametrize(
    ("scale", "factor", "said"), [("training", 0.2, "training scale"), ("table", 1.0, "table")]
)
def test_marks_in_order_in_both_scales(scale, factor, said):
    with serving(mark_by_brightness) as address:
        scores = score_checked(reward(address, scale=scale), IMAGES, PROMPTS, "reward")
    torch.testing.assert_close(scores.value, factor * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert scores.parts["mark"].tolist() == [1, 2, 3, 4, 5]
    assert said in scores.scale


def test_what_is_asked(monkeypatch):
    monkeypatch.setenv("UNIFIEDREWARD_TOKEN", "secret")
    seen = []

    def answer(path, headers, content):
        seen.append((path, headers, content))
        return 200, completion("Final Score: 3")

    with serving(answer) as address:
        reward(address)(IMAGES[1:2], PROMPTS.select([1]))
    ((path, headers, content),) = seen
    picture, question = asked(content)
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (content["model"], content["temperature"]) == ("UnifiedReward-7b-v1.5", 0)
    assert (picture.size, picture.getpixel((100, 100))) == ((512, 512), (64, 64, 64))
    assert question.startswith(
        "<image>\nYou are given a text caption and a generated image based on that caption. "
    )
    assert question.endswith(
        "after 'Final Score:'.\nYour task is provided as follows:\nText Caption: [prompt 1]"
    )


def test_as_many_questions_at_once_as_allowed():
    together = threading.Barrier(3, timeout=60)

    def answer(path, headers, content):
        together.wait()  # passes only if three are asked at the same time
        return 200, completion("Final Score: 3")

    with serving(answer) as address:
        scores = reward(address, concurrency=3)(IMAGES[:3], PROMPTS.select([0, 1, 2]))
    assert scores.value.tolist() == pytest.approx([0.6] * 3)


def test_failures_that_pass_are_tried_again():
    tries = []

    def answer(path, headers, content):
        tries.append(1)
        if len(tries) < 3:
            return (503, {}) if len(tries) == 1 else (200, completion("I cannot say."))
        return 200, completion("Final Score: 2")

    with serving(answer) as address:
        scores = reward(address, concurrency=1)(IMAGES[:1], PROMPTS.select([0]))
    assert scores.parts["mark"].tolist() == [2]
    assert len(tries) == 3


def test_a_reply_without_a_mark_is_quoted():
    with serving(lambda *_: (200, completion("A fine picture."))) as address:
        with pytest.raises(RewardError) as refused:
            score_checked(reward(address, concurrency=1), IMAGES, PROMPTS, "reward")
    assert str(refused.value) == (
        f"reward.address={address}/v1 (UnifiedReward) holds no mark: 'A fine picture.', asked 3 times for "
        "sample 40 (task 't', prompt 'prompt 0'); it must say 'Final Score: <1 to 5>'"
    )
    assert torch.equal(refused.value.sample.image, IMAGES[0])


def test_a_refusal_is_not_tried_again():
    tries = []

    def answer(path, headers, content):
        tries.append(1)
        return 404, {"error": "there is no such model"}

    with serving(answer) as address:
        with pytest.raises(RewardError, match=r"answers 404: there is no such model, asked for sample 40"):
            reward(address, concurrency=1)(IMAGES[:1], PROMPTS.select([0]))
    assert len(tries) == 1


@pytest.mark.parametrize("reply", [{"choices": []}, [], {"choices": [{"message": "x"}]}])
def test_what_is_no_chat_completion_is_quoted(reply):
    with serving(lambda *_: (200, reply)) as address:
        with pytest.raises(RewardError, match="is not a chat completion"):
            reward(address)(IMAGES[:1], PROMPTS.select([0]))


def test_a_server_that_is_down_is_named_with_its_setting():
    address = unused_address()
    with pytest.raises(
        RewardError, match=rf"^reward\.address={address}/v1 .* does not answer .*Connection refused"
    ):
        score_checked(reward(address), IMAGES, PROMPTS, "reward")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": "raw"}, r"reward\.scale must be one of training, table, got 'raw'"),
        ({"question": "How good?"}, r"reward\.question must hold \{prompt\}"),
        ({"concurrency": 0}, r"reward\.concurrency=0 and .* must be at least 1"),
        ({"address": "localhost:80"}, r"reward\.address=localhost:80 must be an address such as"),
        ({"timeout": 0.0}, r"reward\.timeout=0\.0 must be above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_settings_that_cannot_work(changes, message):
    with pytest.raises(ValueError, match=message):
        reward("http://127.0.0.1:1", **changes)
