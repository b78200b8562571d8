"""Classes of a user's own module: what is misspelt is said before anything is imported."""

import sys

import pytest

from diffopd.check import ConfigError, check_config
from diffopd.check.absent import why_absent

TEACHER = ("+experiment=teacher_aesthetic", "reward=custom")
FILES = {
    "own_scorers.py": "import abc\n\nclass Redness(abc.ABC):\n"
    "    def __init__(self, strength=1.0):\n        self.strength = strength\n"
    "    def __call__(self, images, prompts):\n        pass\n",
    "own_open.py": "from os.path import *\n",
    "own_late.py": "def __getattr__(name):\n    return name\n",
    "own_made.py": "globals().update(Blueness=type('Blueness', (), {}))\n",
    "own_slip.py": "class Redness:\n    def __call__(self, images prompts):\n        pass\n",
    "own_package/__init__.py": "",
    "own_package/scorers.py": "class Redness:\n    def __call__(self, images, prompts):\n        pass\n",
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """The working directory, which ``python -m`` puts first on the path, holds a user's modules."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert not [name for name in sys.modules if name.startswith("own_")], "nothing is imported for a check"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("own_scorer.Redness", "own_scorer is not installed, nor a module in the working directory; did you"
         " mean own_scorers?"),
        ("own_scorers.Rednes", "there is no Rednes in own_scorers; did you mean own_scorers.Redness?"),
        ("own_scorers", "own_scorers is a module; name a class in it, as own_scorers.MyClass"),
        ("own_package.scorer.Redness", "there is no scorer in own_package; did you mean own_package.scorers"),
        ("own_package.scorers.Blueness", "there is no Blueness in own_package.scorers"),
        ("diffopd.loss.advantages", "there is no advantages in diffopd.loss"),
        (".Redness", " is not installed"),
    ],
)  # fmt: skip
def test_reasons(target, reason):
    assert reason in why_absent(target)


@pytest.mark.parametrize(
    "target", ["own_open.join", "own_late.Any", "own_made.Blueness", "own_scorers.Redness.redder", "math.pi"]
)
def test_what_the_source_cannot_rule_out_passes(target):
    assert why_absent(target) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"^reward\._target_ is required and has no value; give it as reward\._target_="),
        (["reward._target_=own_scorers.Rednes"], r"^reward\._target_=own_scorers\.Rednes: there is no "),
        (["reward._target_=own_scorers.Redness", "+reward.strenght=2"],
         r"^reward\.strenght is not a setting of own_scorers\.Redness; did you mean reward\.strength\?"),
        (["reward._target_=own_package.scorers.Redness", "+reward.size=2"], "not a setting .*; it has none"),
        (["reward._target_=own_scorers.Redness", "+phase.held_out.x._target_=own_scorers.Red_ness"],
         r"^phase\.held_out\.x\._target_=own_scorers\.Red_ness: there is no Red_ness"),
        (["reward._target_=own_slip.Redness"], r"own_slip\.py, line 2: .*; own_slip cannot be imported"),
    ],
)  # fmt: skip
def test_refusals(composed, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_config(composed(*TEACHER, *overrides))


def test_a_reward_of_ones_own_passes(composed):
    own = ("reward._target_=own_scorers.Redness", "+reward.strength=2")
    check_config(composed(*TEACHER, *own, "+phase.held_out.x._target_=own_package.scorers.Redness"))
    check_config(composed("+experiment=mopd_ode", "reward.rewards.ocr._target_=own_package.scorers.Redness",
                          "~reward.rewards.ocr.recognizer"))  # fmt: skip
