"""Muon and AdamW as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diffopd.optimizer.muon import MuonAdamW

SETTINGS = {
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "adamw_lr": 0.003,
    "adamw_betas": (0.9, 0.99),
    "matrices_in": "blocks",
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, tokens):
        return self.blocks[0](self.embedding(tokens))


def net():
    torch.manual_seed(0)
    return Net()


def train(model, optimizer, steps, scheduler=None):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.tensor([step % 5, 1])).square().sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def test_each_parameter_moves_as_its_own_optimiser_moves_it():
    together, apart = net(), net()
    train(together, MuonAdamW(together.named_parameters(), **SETTINGS), 3)
    muon = torch.optim.Muon(
        [apart.blocks[0].weight], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    rest = [apart.embedding.weight, apart.blocks[0].bias]
    adamw = torch.optim.AdamW(rest, lr=0.003, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(3):
        muon.zero_grad()
        adamw.zero_grad()
        apart(torch.tensor([step % 5, 1])).square().sum().backward()
        muon.step()
        adamw.step()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_restored_optimiser_goes_on_as_if_it_had_not_stopped():
    whole, first = net(), net()
    whole_optimizer = MuonAdamW(whole.named_parameters(), **SETTINGS)
    train(whole, whole_optimizer, 6)
    optimizer = MuonAdamW(first.named_parameters(), **SETTINGS)
    train(first, optimizer, 3)
    second = net()
    second.load_state_dict(first.state_dict())
    restored = MuonAdamW(second.named_parameters(), **SETTINGS)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        restored.zero_grad()
        second(torch.tensor([step % 5, 1])).square().sum().backward()
        restored.step()
    for ours, theirs in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_scheduler_moves_both_learning_rates():
    model = net()
    optimizer = MuonAdamW(model.named_parameters(), **SETTINGS)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer, 2, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 / 4, 0.003 / 4])
    assert [part.param_groups[0]["lr"] for part in optimizer._parts] == pytest.approx([0.01 / 4, 0.003 / 4])


def test_no_matrix_for_muon_is_an_error():
    with pytest.raises(ValueError, match=r"optimizer\.matrices_in=attention"):
        MuonAdamW(net().named_parameters(), **{**SETTINGS, "matrices_in": "attention"})
