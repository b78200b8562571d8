"""The share of signal is that of gradients whose signal and noise are known."""

from __future__ import annotations

import pytest
import torch

from diffopd.callbacks import GradientSignal, RoundCheckpoint
from diffopd.types import Prompts

SIZE = 4000


def prompts(*tasks):
    rows = tuple(range(len(tasks)))
    return Prompts(tasks, tasks, ({},) * len(tasks), rows, rows)


@pytest.fixture
def noisy(tiny_phase):
    """``noisy(noise)``: two updates a round, whose expected gradients are all ones and all twos."""

    class Noisy(tiny_phase):
        def __init__(self, noise, tasks_of=None):
            super().__init__()
            self.adapter = torch.nn.Linear(SIZE, 1, bias=False)
            self.noise, self.tasks_of, self.logged = noise, tasks_of, {}

        def configure_optimizers(self):
            return [torch.optim.SGD(self.adapter.parameters(), lr=0.1)]

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch if self.tasks_of is None else prompts(*self.tasks_of(self.current_epoch))

        def training_step(self, batch, batch_idx):
            optimizer, weight = self.optimizers(), self.adapter.weight
            for update in range(2):
                draw = torch.Generator().manual_seed(10 * self.current_epoch + update)
                signal = self.signal(batch) * (update + 1)
                weight.grad = signal + self.noise * torch.randn(1, SIZE, generator=draw)
                optimizer.step()

        def signal(self, batch):
            return torch.ones(1, SIZE)

        def on_train_epoch_end(self):
            self.logged[self.current_epoch] = self.trainer.callback_metrics.get("train/gradient_signal")

    return Noisy


def test_without_noise_all_is_signal(fit, noisy):
    assert fit(noisy(0.0), [GradientSignal(num_rounds=2)], 2).callback_metrics[
        "train/gradient_signal"
    ].item() == pytest.approx(1.0)


def test_the_share_of_known_gradients(fit, noisy):
    # Squared norms an entry: signal 1 and 4, noise 9 and 9, so 5 of 23.
    found = fit(noisy(3.0), [GradientSignal(num_rounds=6)], 6).callback_metrics["train/gradient_signal"]
    assert found.item() == pytest.approx(5 / 23, abs=0.02)


def test_noise_alone_is_no_signal(fit, noisy):
    class Blind(noisy):
        def signal(self, batch):
            return torch.zeros(1, SIZE)

    found = fit(Blind(1.0), [GradientSignal(num_rounds=6)], 6).callback_metrics["train/gradient_signal"]
    assert abs(found.item()) < 0.02


def test_two_rounds_worked_by_hand(fit, tiny_phase):
    class Hand(tiny_phase):
        def training_step(self, batch, batch_idx):
            self.adapter.weight.grad = torch.tensor([[3.0, 4.0] if self.current_epoch else [1.0, 0.0]])
            self.optimizers().step()

        def configure_optimizers(self):
            self.adapter = torch.nn.Linear(2, 1, bias=False)
            return [torch.optim.SGD(self.adapter.parameters(), lr=0.1)]

    found = fit(Hand(), [GradientSignal(num_rounds=2)], 2).callback_metrics["train/gradient_signal"]
    assert found.item() == pytest.approx(3 / 13)  # the product 3, squared norms 1 and 25


def test_tasks_in_turn_are_compared_each_with_itself(fit, noisy):
    class Opposed(noisy):
        def signal(self, batch):
            return torch.ones(1, SIZE) * (1 if "ocr" in batch.tasks else -1)

    phase = Opposed(0.0, lambda number: ("ocr", "ocr") if number % 2 else ("composition",))
    found = fit(phase, [GradientSignal(num_rounds=4)], 4).callback_metrics["train/gradient_signal"]
    assert found.item() == pytest.approx(1.0)


def test_a_value_is_of_its_own_rounds(fit, noisy):
    class Turning(noisy):
        def signal(self, batch):
            return torch.ones(1, SIZE) * (1 if self.current_epoch < 3 or self.current_epoch % 2 else -1)

    phase = Turning(0.0)
    trainer = fit(phase, [GradientSignal(num_rounds=3)], 6)
    # Rounds 0 to 2 agree; then 3 agrees with 2, 4 and 5 each oppose the round before.
    assert trainer.callback_metrics["train/gradient_signal"].item() == pytest.approx(-1 / 3)


def test_only_the_first_optimizer_is_looked_at(fit, tiny_phase):
    class Two(tiny_phase):
        def training_step(self, batch, batch_idx):
            student, fake = self.optimizers()
            sign = 1.0 if self.current_epoch % 2 else -1.0
            self.adapter.weight.grad = torch.ones_like(self.adapter.weight)
            self.fake.weight.grad = sign * torch.ones_like(self.fake.weight)
            fake.step()
            student.step()

        def configure_optimizers(self):
            self.fake = torch.nn.Linear(8, 1, bias=False)
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.adapter, self.fake)]

    found = fit(Two(), [GradientSignal(num_rounds=2)], 2).callback_metrics["train/gradient_signal"]
    assert found.item() == pytest.approx(1.0)


def test_a_resumed_run_logs_the_same(fit, noisy, tmp_path):
    def values(folder, *rounds):
        metrics = None
        for until in rounds:
            saved = RoundCheckpoint(
                folder=str(tmp_path / folder), every_n_rounds=1, keep_last=9, keep_every_n_rounds=None
            )
            before = sorted((tmp_path / folder).glob("round_*"))
            metrics = fit(
                noisy(3.0),
                [GradientSignal(num_rounds=4), saved],
                until,
                ckpt_path=str(before[-1]) if before else None,
            ).callback_metrics
        return metrics["train/gradient_signal"].item()

    assert values("whole", 8) == values("stopped", 6, 8)


@pytest.mark.parametrize("num_rounds", [1, 0])
def test_one_round_has_none_to_compare_with(num_rounds):
    with pytest.raises(ValueError, match=rf"num_rounds must be at least 2, got {num_rounds}"):
        GradientSignal(num_rounds=num_rounds)
