from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffopd.model import guided_velocity
from diffopd.types import Conditioning


class Recorder:
    """Velocity = pooled value x gain of the row's adapter; remembers each call's rows."""

    def __init__(self) -> None:
        self.gain = torch.tensor(1.0, requires_grad=True)
        self.calls: list[tuple[int, object]] = []

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (1, 1, 1)

    def encode(self, texts) -> Conditioning:
        values = torch.tensor([[float(text or 0)] for text in texts])
        return Conditioning(values[:, :, None], values)

    def condition(self, prompts) -> Conditioning:
        return self.encode(prompts.texts)

    def velocity(self, latent: Tensor, sigma: Tensor, conditioning: Conditioning, adapters=None) -> Tensor:
        assert len(latent) == len(sigma) == len(conditioning)
        self.calls.append((len(latent), adapters))
        return self.gain * conditioning.pooled[:, :, None, None].expand_as(latent) + 0 * latent

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.fixture
def states():
    return torch.zeros(3, 1, 1, 1), torch.tensor([0.9, 0.5, 0.1])


def test_each_row_has_its_own_scale_and_unguided_rows_cost_one_row(states):
    model = Recorder()
    conditioning, empty = model.encode(["2", "3", "4"]), model.encode(["1"])
    velocity = guided_velocity(model, *states, conditioning, empty, [1.0, 2.0, 4.5], ["a", "b", "c"])
    # 2; 1 + 2 (3 - 1); 1 + 4.5 (4 - 1)
    assert velocity.flatten().tolist() == [2.0, 5.0, 14.5]
    assert model.calls == [(5, ["a", "b", "c", "b", "c"])]


def test_scale_one_asks_for_no_unconditional_row(states):
    model = Recorder()
    velocity = guided_velocity(model, *states, model.encode(["2", "3", "4"]), model.encode(["1"]), 1.0, "a")
    assert velocity.flatten().tolist() == [2.0, 3.0, 4.0]
    assert model.calls == [(3, "a")]


@pytest.mark.parametrize("scale", [3, 3.0, [3.0, 3.0, 3.0], torch.full((3,), 3.0)])
def test_one_scale_for_all_rows(states, scale):
    model = Recorder()
    velocity = guided_velocity(model, *states, model.encode(["2", "3", "4"]), model.encode(["1"] * 3), scale)
    assert velocity.flatten().tolist() == [4.0, 7.0, 10.0]  # 1 + 3 (c - 1)
    assert model.calls == [(6, None)]


def test_gradients_flow_through_both_sides(states):
    model = Recorder()
    conditioning, empty = model.encode(["2", "3", "4"]), model.encode(["1"])
    for tensor in (conditioning.pooled, empty.pooled):
        tensor.requires_grad_(True)
    guided_velocity(model, *states, conditioning, empty, [1.0, 2.0, 4.5]).sum().backward()
    assert conditioning.pooled.grad is not None
    assert empty.pooled.grad is not None
    assert conditioning.pooled.grad.flatten().tolist() == [1.0, 2.0, 4.5]
    assert empty.pooled.grad.item() == -(1.0 + 3.5)
    assert model.gain.grad is not None
    assert model.gain.grad.item() == 2 + 5 + 14.5


def test_a_wrong_number_of_scales_is_refused(states):
    model = Recorder()
    with pytest.raises(ValueError, match="got 2 guidance scales for 3 samples"):
        guided_velocity(model, *states, model.encode(["2", "3", "4"]), model.encode([""]), [1.0, 2.0])


def test_scales_on_a_device_are_refused(states):
    model = Recorder()
    scale = torch.ones(3, device="meta")
    with pytest.raises(ValueError, match="got a tensor on meta"):
        guided_velocity(model, *states, model.encode(["2", "3", "4"]), model.encode([""]), scale)


def test_a_wrong_number_of_unconditional_rows_is_refused(states):
    model = Recorder()
    with pytest.raises(ValueError, match=r"one entry or one per sample \(3\), it has 2"):
        guided_velocity(model, *states, model.encode(["2", "3", "4"]), model.encode(["", ""]), 2.0)
