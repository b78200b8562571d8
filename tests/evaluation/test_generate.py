import pytest
import torch

from diffopd.evaluation import generate
from diffopd.randomness import normal_rows
from diffopd.sampler import FlowSampler
from diffopd.types import Prompts

PROMPTS = Prompts(("one", "two", "three"), ("t",) * 3, ({},) * 3, (4, 0, 9), (0, 1, 2))


def noise(indices, seed=0):
    return normal_rows(seed, "evaluation/noise", 0, indices, (3, 4, 4))


def draw(model, prompts, sampler, **changes):
    settings = {"guidance_scale": 1.0, "adapters": None, "seed": 0, "batch_size": 2, **changes}
    return generate(model, prompts, sampler=sampler, **settings)


def test_images_start_from_the_noise_of_their_index(model, sampler):
    # Without a bias the velocity is 0 and the noise stays as it is.
    torch.testing.assert_close(draw(model, PROMPTS, sampler), noise((4, 0, 9)).clamp(0, 1))
    torch.testing.assert_close(draw(model, PROMPTS, sampler, seed=1), noise((4, 0, 9), 1).clamp(0, 1))


def test_the_rollout_goes_from_sigma_one_to_zero(model, sampler):
    # A constant velocity v over the whole way from 1 to 0 moves the latent by -v.
    expected = (noise((4, 0, 9)) + 0.5).clamp(0, 1)
    torch.testing.assert_close(draw(model, PROMPTS, sampler, adapters="bright"), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_an_image_does_not_depend_on_its_batch(model, batch_size):
    sampler = FlowSampler(num_steps=3, noise_level=0.7, shift=3.0, guidance_scale=1.0)
    whole = draw(model, PROMPTS, sampler, batch_size=3)
    torch.testing.assert_close(draw(model, PROMPTS, sampler, batch_size=batch_size), whole)
    torch.testing.assert_close(draw(model, PROMPTS.select([2]), sampler, batch_size=batch_size), whole[2:])


def test_stochastic_steps_draw_fresh_noise(model):
    sampler = FlowSampler(num_steps=3, noise_level=0.7, shift=3.0, guidance_scale=1.0)
    draw(model, PROMPTS.select([0]), sampler)
    states = [latent for latent, _, _ in model.calls]
    assert len(states) == 3
    assert not torch.allclose(states[0], states[1])  # the velocity is 0: only fresh noise and drift move it


def test_guidance_and_adapters_may_differ_by_row(model, sampler):
    # Guided: uncond + scale * (cond - uncond), with the unconditional bias 0.
    images = draw(
        model, PROMPTS, sampler, guidance_scale=[1.0, 2.0, 3.0], adapters=["bright", "dark", "bright"]
    )
    shift = torch.tensor([0.5, -1.0, 1.5])[:, None, None, None]
    torch.testing.assert_close(images, (noise((4, 0, 9)) + shift).clamp(0, 1))


def test_without_guidance_the_empty_prompt_costs_nothing(model, sampler):
    draw(model, PROMPTS, sampler, guidance_scale=1.0, batch_size=3)
    assert [len(latent) for latent, _, _ in model.calls] == [3] * 4
