"""What pretraining sees of a pipeline is what the stock pipeline does."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image

from diffopd.config.folder import config_folder
from diffopd.model.pretraining import KleinPretraining, SD3Pretraining, pretraining
from support.scripts import experiment_script
from support.tiny_runs import SMALL_KLEIN, SMALL_TRANSFORMER

TEXTS = ["a photo of a red circle", 'a sign that says "CAT"']


def untrained(name: str, small: tuple[str, ...]):
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose(f"pipeline/{name}", overrides=["+seed=0", *small])
    return instantiate(cfg.pipeline)


@pytest.fixture(scope="module")
def klein():
    view = pretraining(untrained("mini_klein_untrained", SMALL_KLEIN), text_length=28)
    assert isinstance(view, KleinPretraining)
    view.measure(pictures(16))
    view.pipeline.set_progress_bar_config(disable=True)
    return view


def pictures(number: int) -> torch.Tensor:
    return torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_klein_latents_are_normalized_by_channel(klein):
    latents = klein.encode(pictures(16))
    assert latents.shape == (16, 32, 8, 8)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.01


@pytest.mark.parametrize("with_reference", [False, True])
@torch.no_grad()
def test_the_stock_pipeline_takes_the_same_step(klein, with_reference):
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    stock = klein.pipeline(
        prompt=TEXTS,
        image=shown if with_reference else None,
        latents=noise,
        height=64,
        width=64,
        num_inference_steps=1,
        guidance_scale=1.0,
        max_sequence_length=28,
        output_type="latent",
    ).images
    references = None
    if with_reference:
        pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None].float() / 127.5 - 1
        references = klein.encode(pixels).expand(2, -1, -1, -1)
    velocity = klein.velocity(noise, torch.ones(2), TEXTS, references)
    norm = klein.pipeline.vae.bn
    std = torch.sqrt(norm.running_var + klein.pipeline.vae.config.batch_norm_eps).view(1, -1, 1, 1)
    expected = klein.pipeline._unpatchify_latents(
        (noise - velocity) * std + norm.running_mean.view(1, -1, 1, 1)
    )
    assert (stock - expected).abs().max() < 2e-3 * expected.abs().max()  # prompts are kept in half precision


@torch.no_grad()
def test_a_reference_changes_what_is_drawn(klein):
    noise, sigma = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    first, second = (
        klein.velocity(noise, sigma, TEXTS, klein.encode(pictures(4)[rows])) for rows in ([0, 1], [2, 3])
    )
    assert (first - second).abs().max() > 1e-4


def test_stable_diffusion_3_trains_its_text_encoders():
    view = pretraining(untrained("mini_untrained", SMALL_TRANSFORMER), text_length=0)
    assert isinstance(view, SD3Pretraining)
    assert set(view.trained) == {"transformer", "text_encoder", "text_encoder_2"}
    with torch.no_grad():
        view.measure(pictures(16))
        latents = view.encode(pictures(16))
    assert abs(float(latents.mean())) < 1e-2
    assert abs(float(latents.std()) - 1) < 1e-2


def test_a_pipeline_starts_from_a_trained_autoencoder(tmp_path):
    trained = untrained("mini_klein_untrained", SMALL_KLEIN).vae
    for value in trained.parameters():
        value.data.add_(0.5)
    trained.save_pretrained(tmp_path)
    start = f"pipeline.autoencoder={tmp_path}"
    started = untrained("mini_klein_untrained", (*SMALL_KLEIN, start)).vae.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in trained.named_parameters())
    with pytest.raises(InstantiationException, match=r"of another shape than pipeline\.vae gives it"):
        untrained("mini_klein_untrained", (*SMALL_KLEIN, start, "pipeline.vae.latent_channels=4"))


@torch.no_grad()
def test_the_gain_of_a_reference_is_measured_on_unseen_figures(klein):
    found = experiment_script("mini_klein/reference_gain").measure(klein, 2)
    assert set(found) == {"text", "copy", "elsewhere, text", "elsewhere"}
    for errors in found.values():
        assert list(errors) == [0.95, 0.75, 0.5, 0.25]
        assert all(error > 0 for error in errors.values())
