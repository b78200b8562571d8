"""Scorers that cannot tell better from worse are refused before anything is measured."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffopd.evaluation import Benchmark, UntrustedError, check_benchmark, check_scorer
from diffopd.files.png import save_png
from diffopd.reward.checked import RewardError
from diffopd.reward.drawn.composition import CompositionReward
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.mixture import MixtureReward
from diffopd.types import Detection, KnownPair

CONF = Path(__file__).parents[2] / "conf"
EMBEDDED = ("by_task", "composition", "ocr", "picture_quality", "spectrum")


def darkness(images, prompts):
    return 1 - images.mean((1, 2, 3))


class Brightness:
    """A user's scorer that knows a pair."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, images, prompts):
        assert prompts.texts == ("a lamp",)
        return self.factor * images.mean((1, 2, 3))

    def known_pair(self):
        return KnownPair.of(torch.ones(3, 8, 8), torch.zeros(3, 4, 4), "a lamp")


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_reward_passes_its_own_check(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        reward = instantiate(compose(overrides=["+domain=drawn", f"+reward={name}"]).reward)
    lines = list(check_scorer(reward, "reward"))
    assert lines
    assert all(" for a good image, " in line for line in lines)


def test_text_is_read_in_both_manners_of_reading():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        reward = instantiate(
            compose("evaluate", overrides=["benchmark=ocr", "benchmark.path=x"]).benchmark.metric.reward
        )
    assert list(check_scorer(reward, "ocr")) == [
        "ocr (OcrReward): check passed, 1 for a good image, 0 for a bad one"
    ]


def reader(domain):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(overrides=[f"+domain={domain}", "+reward=ocr"]).reward)


def test_the_pair_of_a_reader_has_the_size_of_the_models_pictures():
    """A sign that hangs in a large picture is read only where lines are found first."""
    assert list(check_scorer(reader("drawn"), "ocr", side=32)) == [
        "ocr (OcrReward): check passed, 1 for a good image, 0 for a bad one"
    ]
    (line,) = check_scorer(reader("photos"), "ocr", side=512)
    assert line == "ocr (OcrReward): check passed, 1 for a good image, 0 for a bad one"
    with pytest.raises(UntrustedError, match="cannot be trusted"):
        list(check_scorer(reader("drawn"), "ocr", side=512))


def test_small_pairs_are_enlarged_to_the_models_pictures():
    sizes = []

    class Noting(Brightness):
        def __call__(self, images, prompts):
            sizes.append(tuple(images.shape[-2:]))
            return super().__call__(images, prompts)

    list(check_scorer(Noting(), "t", side=6))
    list(check_scorer(Noting(), "t", side=16))
    list(check_scorer(Noting(), "t"))
    assert sizes == [(8, 8), (6, 6), (16, 16), (16, 16), (8, 8), (4, 4)]


def test_each_member_of_a_mixture_is_checked():
    mixture = MixtureReward(
        rewards={"light": Brightness(), "dark": darkness},
        weights={"light": 1, "dark": 1},
        normalize="none",
    )
    assert list(check_scorer(mixture, "t")) == [
        "t.rewards.light (Brightness): check passed, 1 for a good image, 0 for a bad one",
        "t.rewards.dark (darkness): not checked, as it has no pair of a good and a bad image",
    ]
    assert list(check_scorer(mixture, "t", pairs="scorer_pairs.t"))[1].endswith(
        "a bad image; give it a pair with "
        "'+scorer_pairs.t={better: a.png, worse: b.png, prompt: ..., metadata: {}}'"
    )


class SeesCats:
    """A detector of photographs: a cat wherever there is more than noise."""

    def __init__(self, known_pair, *, blind):
        self.known_pair = known_pair
        self.blind = blind

    def __call__(self, images):
        cat = Detection("cat", (0.0, 0.0, 9.0, 9.0), 0.95, "brown")
        rough = [(image[:, 1:] - image[:, :-1]).abs().mean() > 0.2 for image in images]
        return [[] if self.blind or noise else [cat] for noise in rough]


def test_a_detector_of_photographs_has_to_find_the_cat():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        reward = instantiate(compose(overrides=["+reward=geneval"]).reward)
    know = reward.detector.known_pair
    reward.check_prompt(know().prompt)
    reward.detector = SeesCats(know, blind=False)
    assert list(check_scorer(reward, "composition")) == [
        "composition (CompositionReward): check passed, 1 for a good image, 0 for a bad one"
    ]
    reward.detector = SeesCats(know, blind=True)
    with pytest.raises(UntrustedError, match=r"gives 0 to .* 'a photo of a cat', and 0 to"):
        list(check_scorer(reward, "composition"))


def test_a_detector_without_a_pair_is_told():
    reward = CompositionReward(detector=lambda images: [[] for _ in images], score="dense")
    assert list(check_scorer(reward, "composition", pairs="scorer_pairs.composition")) == [
        "composition (CompositionReward): not checked, as its detector knows no pair of images; give it a "
        "pair with '+scorer_pairs.composition={better: a.png, worse: b.png, prompt: ..., metadata: {}}'"
    ]


@pytest.mark.parametrize(
    ("factor", "values"), [(-1.0, "gives -1 to .*'a lamp', and -?0 to"), (0.0, "gives 0 .* and 0 to")]
)
def test_the_wrong_order_and_equal_values_are_refused(factor, values):
    with pytest.raises(UntrustedError, match=rf"^t \(Brightness\) {values}.*check_scorers=false$"):
        list(check_scorer(Brightness(factor), "t"))


def test_a_scorer_that_fails_is_told_as_such():
    with pytest.raises(RewardError, match=r"t \(Brightness\) returned 'value' = nan"):
        list(check_scorer(Brightness(torch.nan), "t"))


def test_pairs_of_the_user_come_first(benchmark, tmp_path):
    files = {"better": torch.zeros(3, 8, 8), "worse": torch.ones(3, 6, 6)}
    paths = {name: str(save_png(image, tmp_path / f"{name}.png")) for name, image in files.items()}
    benchmark.tasks["words"].metric.reward = darkness
    pairs = {"words": {**paths, "prompt": "night", "metadata": {}}}
    lines = list(check_benchmark(benchmark, pairs))
    assert lines[0] == "words (darkness): check passed, 1 for a good image, 0 for a bad one"
    assert [line.partition(":")[0] for line in lines[1:]] == ["tags (brightness)", "brightness (brightness)"]
    benchmark.tasks["words"].metric.reward = benchmark.tasks["tags"].metric.reward
    with pytest.raises(UntrustedError, match=r"words \(brightness\) gives 0 .* 'night', and 1"):
        list(check_benchmark(benchmark, pairs))


def test_pairs_that_cannot_be_used_are_named(benchmark, tmp_path):
    with pytest.raises(
        ValueError, match=r"scorer_pairs has \['word'\]; the benchmark's scorers are \['brightness', "
    ):
        list(check_benchmark(benchmark, {"word": {}}))
    entry = {"better": str(tmp_path / "absent.png"), "worse": "", "prompt": "x", "metadata": {}}
    with pytest.raises(
        ValueError, match=r"scorer_pairs\.words\.better=.*absent\.png cannot be read as an image"
    ):
        list(check_benchmark(benchmark, {"words": entry}))


def test_metrics_that_are_no_scorers_are_passed_over():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        mini: Benchmark = instantiate(compose("evaluate").benchmark)
    names = {line.partition(" ")[0] for line in check_benchmark(mini, {})}
    assert "frechet" not in names
    assert {"composition", "ocr", "spectrum", "aesthetic.rewards.contrast"} <= names


def test_the_made_up_photograph_is_sound():
    pair = sunset_and_noise()
    for image in (pair.better, pair.worse):
        assert image.shape == (3, 256, 256)
        assert image.min() >= 0
        assert image.max() <= 1
    neighbours = [image.diff(dim=2).abs().mean() for image in (pair.better, pair.worse)]
    assert neighbours[0] < neighbours[1] / 20


def test_the_setting_is_on():
    assert OmegaConf.load(CONF / "evaluate.yaml").check_scorers is True
