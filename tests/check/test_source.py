"""What is read from source equals what Python says of the imported class."""

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from diffopd.check.annotation import Allowed, allowed_by
from diffopd.check.source import is_installed, read_target

CONF = Path(__file__).parents[2] / "conf"
OPTIONAL = ("WandbLogger", "MLFlowLogger")  # their packages need not be installed to read them


def targets_in(node):
    """Every ``_target_`` of a file as it is read, before anything is composed."""
    if isinstance(node, dict):
        if (target := node.get("_target_", "???")) != "???" and "${" not in target:
            yield target
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_in(value)


FILES = [
    file for file in CONF.rglob("*.yaml") if "hydra" not in file.relative_to(CONF).parts
]  # which Hydra builds
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, and these are read at collection
READ = [yaml.load(file.read_text(encoding="utf-8"), LOADER) for file in FILES]
TARGETS = sorted({target for content in READ for target in targets_in(content)})


def test_the_configs_name_many_targets():
    assert len(TARGETS) > 40
    assert {"lightning.Trainer", "torch.optim.AdamW", "diffopd.phase.DistillPhase"} <= set(TARGETS)


def spread(named, target):
    """The fields of a phase's settings in their place, as a config has them."""
    if "settings" not in named or not hasattr(target, "settings_type"):
        return named
    fields = inspect.signature(target.settings_type).parameters
    items = (fields.items() if key == "settings" else [(key, value)] for key, value in named.items())
    return dict(pair for pairs in items for pair in pairs)


@pytest.mark.parametrize("name", TARGETS)
def test_source_and_signature_agree(name):
    target = read_target(name)
    assert target is not None
    if name.endswith(OPTIONAL):
        return
    signature = inspect.signature(get_object(name)).parameters
    named = {k: p for k, p in signature.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    named = spread(named, get_object(name))
    assert list(target.parameters) == list(named)
    assert {k for k, p in target.parameters.items() if p.required} == {
        k for k, p in named.items() if p.default is p.empty
    }
    assert target.takes_any == any(p.kind is p.VAR_KEYWORD for p in signature.values())


def test_class_constants_are_read():
    assert read_target("diffopd.loss.ReverseKL").constants == {
        "name": "reverse_kl",
        "needs_noise": True,
        "supervision": "teacher",
    }
    assert read_target("diffopd.phase.NFTPhase").constants["supervision"] == "advantage"


def test_constants_are_inherited_whether_or_not_the_class_has_a_constructor():
    inherited = {"needs_noise": True, "supervision": "transition_advantage"}
    assert inherited.items() <= read_target("diffopd.loss.GRPOGuard").constants.items()
    assert read_target("diffopd.loss.OPD").constants["needs_noise"] is False


def test_inherited_constructors_are_found():
    assert list(read_target("diffopd.sampler.DPM1Sampler").parameters) == [
        "num_steps",
        "noise_level",
        "shift",
        "guidance_scale",
    ]


def test_names_that_are_not_there():
    assert read_target("diffopd.loss.Missing") is None
    assert read_target("no_such_package.Thing") is None
    assert not is_installed("no_such_package.Thing")
    assert is_installed("diffopd.loss.Missing")


@pytest.mark.parametrize(
    ("target", "name", "good", "bad", "text"),
    [
        (
            "diffopd.phase.DistillPhase",
            "round",
            ["fused", "two_pass"],
            ["x", None, 1],
            "one of fused, two_pass",
        ),
        (
            "diffopd.phase.DistillPhase",
            "micro_batch_size",
            [1, None],
            [1.0, "1", True],
            "a whole number or null",
        ),
        ("diffopd.phase.DistillPhase", "gradient_clip", [1, 0.5], ["x", True, None, [1]], "a number"),
        ("diffopd.phase.DistillPhase", "ema", [{"decay": 1}], [1, None, [1]], "a mapping"),
        # An alias from another module, and one of another package.
        ("diffopd.phase.NFTPhase", "advantage_std", ["global", "group"], ["all"], "one of global, group"),
        (
            "lightning.Trainer",
            "deterministic",
            [True, None, "warn"],
            ["yes", 2],
            "warn or true or false or null",
        ),
        ("diffopd.adapter.LoRA", "target_modules", [["a"]], ["a", 1], "a list"),
    ],
)
def test_annotations_become_allowed_values(target, name, good, bad, text):
    allowed = allowed_by(read_target(target).parameters[name])
    assert all(allowed.accepts(value) for value in good)
    assert not any(allowed.accepts(value) for value in bad)
    assert str(allowed) == text


def test_annotations_of_our_classes_allow_what_a_target_makes():
    parameters = read_target("diffopd.phase.DistillPhase").parameters
    assert allowed_by(parameters["loss"]) == Allowed(frozenset({"object"}))
