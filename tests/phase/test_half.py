"""Networks that are trained whole in bf16 learn the same, and stay in fp32."""

import pytest
import torch

from support.slow import slow_but


@pytest.mark.parametrize(
    "experiment",
    slow_but(["mini64_autoencoder", "mini64_pretrain"], "mini64_pretrain", rest=pytest.mark.slow),
)
def test_bf16_changes_the_loss_by_rounding_alone(world, tmp_path, experiment):
    losses = {}
    for dtype in ("fp32", "bf16"):
        built = world.build(experiment, tmp_path / dtype, f"phase.dtype={dtype}", "trainer.max_epochs=1")
        built.fit()
        losses[dtype] = float(built.trainer.callback_metrics["train/loss"])
        assert {parameter.dtype for parameter in built.phase.parameters()} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.exhaustive  # the compiler takes minutes; tests/model has what is compiled anew
@pytest.mark.filterwarnings("ignore")  # of what compiles
def test_compiled_blocks_learn_the_same(world, tmp_path):
    losses = []
    for compiles in ("false", "true"):
        settings = (f"phase.compile={compiles}", "trainer.max_epochs=1")
        built = world.build("mini_pretrain", tmp_path / compiles, *settings)
        built.fit()
        losses.append(float(built.trainer.callback_metrics["train/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_another_precision_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"phase\.dtype=fp8 must be one of fp32, bf16, fp16"):
        world.build("mini_pretrain", tmp_path, "phase.dtype=fp8")
