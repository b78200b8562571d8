from __future__ import annotations

import json

import pytest
import torch

from diffopd.adapter import EMA, blend, blend_in_bf16, ema_decay, old_policy_decay, ramp_decay


def test_ema_equals_the_reference_at_every_step(golden_dir):
    golden = json.loads((golden_dir / "ema.json").read_text())
    ema = EMA(decay=golden["decay"], update_interval=golden["update_step_interval"])
    average = {"w": torch.zeros(1)}
    for step, (parameter, expected) in enumerate(zip(golden["parameter"], golden["ema"], strict=True)):
        moved = ema.update(average, {"w": torch.tensor([parameter])}, step)
        assert moved == (step % 8 == 7)
        assert average["w"].item() == expected


def test_ema_decay_warms_up_to_its_cap():
    assert ema_decay(0, 0.9) == 0.1
    assert ema_decay(8, 0.9) == 0.5
    assert ema_decay(10_000, 0.9) == 0.9


def test_blend_moves_towards_the_current_values():
    average, current = {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([2.0, 1.0])}
    blend(average, current, 0.75)
    assert average["w"].tolist() == [1.25, 2.5]
    assert current["w"].tolist() == [2.0, 1.0]
    blend(average, current, 1.0)
    assert average["w"].tolist() == [1.25, 2.5]


def test_decay_zero_copies_whatever_was_there():
    average = {"w": torch.tensor([float("nan")])}
    blend(average, {"w": torch.tensor([2.0])}, 0.0)
    assert average["w"].item() == 2.0


def test_blend_needs_the_same_layers():
    with pytest.raises(ValueError, match="different layers"):
        blend({"a": torch.zeros(1)}, {"b": torch.zeros(1)}, 0.5)


def test_ema_moves_parameters_that_require_gradients():
    parameter = torch.nn.Parameter(torch.zeros(1))
    EMA(decay=0.9, update_interval=1).update({"w": parameter}, {"w": torch.ones(1)}, 0)
    assert parameter.item() == pytest.approx(0.9)
    assert parameter.grad_fn is None


@pytest.mark.parametrize(
    ("decay_type", "step", "expected"),
    [
        (0, 100, 0.0),
        (1, 0, 0.0),
        (1, 100, 0.1),
        (1, 500, 0.5),
        (1, 9000, 0.5),
        (2, 75, 0.0),
        (2, 175, 0.75),
        (2, 9000, 0.999),
    ],
)
def test_old_policy_decay_has_the_released_values(decay_type, step, expected):
    assert old_policy_decay(step, decay_type) == pytest.approx(expected, abs=1e-12)


def test_ramp_decay_starts_rises_and_stops():
    assert [ramp_decay(step, start=10, rate=0.01, cap=0.05) for step in (0, 10, 12, 100)] == [
        0,
        0,
        0.02,
        0.05,
    ]


def test_unknown_decay_types_are_refused():
    with pytest.raises(ValueError, match="decay_type=3 is not known; choose 0, 1 or 2"):
        old_policy_decay(1, 3)


@pytest.mark.parametrize(("decay", "interval"), [(1.5, 1), (-0.1, 1), (0.9, 0)])
def test_impossible_settings_are_refused(decay, interval):
    with pytest.raises(ValueError, match=r"ema\.decay"):
        EMA(decay=decay, update_interval=interval)


def test_an_average_in_bf16_hardly_moves():
    """A student that stays: 2,000 moves bring an average of .9999 by 1 - .9999^2000 = 18.1 % of the way.

    In bf16 one from 0, as a LoRA's B starts, stops where a move is less than half of the last binary digit,
    at 2.5 to 5.1 %; one from elsewhere, as A starts, hardly leaves it.
    """
    generator = torch.Generator().manual_seed(0)
    start = {"A": torch.randn(2048, generator=generator) / 64, "B": torch.zeros(2048)}
    moved = {
        "A": start["A"] + 0.1 * torch.randn(2048, generator=generator) / 64,
        "B": 0.01 * torch.randn(2048, generator=generator),
    }

    def way(average):
        """Share of the way from start to student, along that way."""
        return {
            key: float(
                (value - start[key]) @ (moved[key] - start[key]) / (moved[key] - start[key]).square().sum()
            )
            for key, value in average.items()
        }

    shares = []
    for move in (blend, blend_in_bf16):
        average = {key: value.clone() for key, value in start.items()}
        for _ in range(2000):
            move(average, moved, 0.9999)
        shares.append(way(average))
    exact, released = shares
    assert exact == pytest.approx({"A": 0.1813, "B": 0.1813}, abs=1e-3)
    assert 0.025 < released["B"] < 0.051
    assert abs(released["A"]) < 0.01


def test_an_average_in_bf16_is_lerp():
    average = {"w": torch.tensor([1.0, -2.0, 0.3])}
    blend_in_bf16(average, {"w": torch.tensor([2.0, 1.0, 0.3])}, 0.75)
    expected = torch.tensor([1.25, -1.25, 0.3]).bfloat16().float()
    assert torch.equal(average["w"], expected)
