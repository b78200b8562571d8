"""Reference pictures: what the stock pipeline makes of ``image=``, row by row."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from diffopd import sample
from diffopd.adapter import adapter_parameters, set_trainable
from diffopd.evaluation import generate
from diffopd.files.png import save_png
from diffopd.model import BASE, guided_velocity
from diffopd.randomness import normal_rows
from diffopd.types import Conditioning, Picture, Prompts
from support.family_models import TEXTS, add_noisy_adapter, composed, load
from support.pictures import picture_file
from support.tiny_families import IMAGE_SIZE, Family, make_family

# The same sums in another order.
CLOSE = 1e-5


@pytest.fixture(scope="module", params=["flux2_klein", "flux2_klein_base"])
def family(request, tmp_path_factory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(family):
    return load(family)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Picture]:
    folder = tmp_path_factory.mktemp("pictures")
    return [picture_file(folder, 0), picture_file(folder, 1, 64, 96), picture_file(folder, 2)]


def prompts(*references: tuple[Picture, ...]) -> Prompts:
    numbers = tuple(range(len(references)))
    texts = tuple(TEXTS[row % len(TEXTS)] for row in numbers)
    told = Prompts(texts, ("task",) * len(texts), ({},) * len(texts), numbers, numbers)
    return told.with_references(references)


@pytest.fixture(scope="module")
def stock(family):
    return family.stock()


def stock_image(stock, model, row, told: Prompts, guidance_scale):
    """The library's own call with ``image=`` from the noise of a row."""
    noise = normal_rows(0, "evaluation/noise", 0, told.indices, model.latent_shape)
    shown = [Image.open(picture.path) for picture in told.references[row]]
    return stock(
        image=shown or None,
        prompt=told.texts[row],
        latents=noise[[row]],
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        max_sequence_length=model.text_length,
        output_type="pt",
    ).images


def test_a_rollout_with_references_is_the_stock_pipelines(family, stock, model, pictures):
    first, wide, third = pictures
    told = prompts((first,), (wide, third), ())
    scale = 1.0 if family.name == "flux2_klein" else 3.5
    ours = generate(
        model,
        told,
        sampler=instantiate(composed(family).sampler),
        guidance_scale=scale,
        adapters=None,
        seed=0,
        batch_size=3,
    )
    for row in range(3):
        theirs = stock_image(stock, model, row, told, scale)
        torch.testing.assert_close(ours[[row]], theirs, rtol=0, atol=CLOSE)
    blind = stock_image(stock, model, 0, prompts((), (), ()), scale)
    assert (ours[[0]] - blind).abs().max() > 100 * CLOSE  # what is shown matters
    other = stock_image(stock, model, 1, prompts((), (third, wide), ()), scale)
    assert (ours[[1]] - other).abs().max() > 10 * CLOSE  # and in which order


def test_the_command_shows_what_it_is_given(family, model, pictures, tmp_path, capsys):
    places = ",".join(picture.path for picture in pictures[:2])
    given = ["prompt=a red cat", f"references=[{places}]", "guidance_scale=1", "device=cpu", "debug=true"]
    sample.run(composed(family, *given, f"paths.run={tmp_path}"))
    ours = generate(
        model,
        prompts(tuple(pictures[:2])),
        sampler=instantiate(composed(family).sampler),
        guidance_scale=1,
        adapters=None,
        seed=0,
        batch_size=1,
    )
    save_png(ours[0], tmp_path / "expected.png")
    assert (tmp_path / "000.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"references: .*missing\.png is not there"):
        sample.run(composed(family, "prompt=x", "references=[missing.png]", f"paths.run={tmp_path}"))


def states(model, told: Prompts):
    latent = torch.randn(len(told), *model.latent_shape, generator=torch.Generator().manual_seed(11))
    return latent, torch.linspace(0.9, 0.2, len(told)), model.condition(told)


def test_student_teacher_and_base_share_a_forward_whatever_each_is_shown(family, pictures):
    """Each row has its own adapter and its own references, and gets what it gets alone."""
    model = load(family)
    for seed, name in enumerate(("student", "teacher")):
        add_noisy_adapter(model, name, seed)
    first, wide, third = pictures
    latent, sigma, given = states(model, prompts((), (first,), (), (first, wide), (third,), ()))
    names = ["student", "teacher", BASE, "teacher", "student", "student"]
    with torch.no_grad():
        mixed = model.velocity(latent, sigma, given, names)
        for row, name in enumerate(names):
            single = model.velocity(latent[[row]], sigma[[row]], given.select([row]), name)
            torch.testing.assert_close(mixed[[row]], single, rtol=0, atol=CLOSE)
        blind = model.velocity(latent, sigma, Conditioning(given.embeds), names)
    assert (mixed - blind)[[1, 3, 4]].flatten(1).abs().amax(1).min() > 100 * CLOSE
    torch.testing.assert_close(mixed[[0, 2, 5]], blind[[0, 2, 5]], rtol=0, atol=CLOSE)


def test_gradients_are_those_of_each_row_alone(family, pictures):
    model = load(family)
    add_noisy_adapter(model, "student", 1)
    set_trainable(model.transformer, ["student"])
    parameters = list(adapter_parameters(model.transformer, "student").values())
    latent, sigma, given = states(model, prompts((), (pictures[0],), (pictures[1],)))

    def gradient(parts):
        for rows in parts:
            velocity = model.velocity(latent[rows], sigma[rows], given.select(rows), ["student"] * len(rows))
            velocity.square().sum().backward()
        found = torch.cat([p.grad.flatten() for p in parameters])
        for parameter in parameters:
            parameter.grad = None
        return found

    together, alone = gradient([[0, 1, 2]]), gradient([[0], [1], [2]])
    assert alone.norm() > 0
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


def test_guidance_takes_the_prompt_away_and_not_the_references(tmp_path, pictures):
    model = load(make_family("flux2_klein_base", tmp_path))
    latent, sigma, given = states(model, prompts((pictures[0],), (pictures[1],)))
    with torch.no_grad():
        guided = guided_velocity(model, latent, sigma, given, model.unconditional(), 3.0)
        told = model.velocity(latent, sigma, given)
        empty = Conditioning(model.unconditional().embeds.expand(2, -1, -1), references=given.references)
        untold = model.velocity(latent, sigma, empty)
    torch.testing.assert_close(guided, untold + 3 * (told - untold), rtol=0, atol=CLOSE)


def test_a_reference_of_broken_tokens_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"64 x 72 pixels; .* multiples of 16"):
        model.condition(prompts((picture_file(tmp_path, 3, 64, 72),)))


@pytest.mark.parametrize("name", ["sd3_5_medium"])
def test_other_families_say_that_they_read_no_pictures(name, tmp_path, pictures):
    with pytest.raises(ValueError, match="SD3Model reads no reference pictures; choose a model that does"):
        load(make_family(name, tmp_path)).condition(prompts((pictures[0],)))
