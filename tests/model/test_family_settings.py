"""What the settings of a model do, on one tiny pipeline of each class."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffopd.adapter import adapter_parameters, set_trainable
from diffopd.config.folder import config_folder
from diffopd.model import BASE, PipelineModel
from diffopd.model.untrained import pipeline_to_train
from support.family_models import TEXTS, add_noisy_adapter, load, states
from support.tiny_families import IMAGE_SIZE, Family, make_family

CLASSES = ("sd3_5_medium", "flux1_dev", "flux2_klein", "z_image", "qwen_image")


@pytest.fixture(scope="session", params=CLASSES)
def family(request, tmp_path_factory) -> Family:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def model(family) -> PipelineModel:
    return load(family)


def test_decode_undoes_what_encode_images_scales(model):
    """Through the autoencoder's own calls: what we add around them is undone."""
    images = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    frames = (lambda x: x[:, :, None]) if model.frames else (lambda x: x)
    with torch.no_grad():
        latents = model.encode_images(images)
        raw = model.vae.encode(frames(images * 2 - 1)).latent_dist.mode()
        decoded = model.vae.decode(raw).sample
        ours = model.decode(latents)
    assert tuple(latents.shape[1:]) == model.latent_shape
    expected = (decoded[:, :, 0] if model.frames else decoded) / 2 + 0.5
    torch.testing.assert_close(ours, expected.clamp(0, 1), rtol=0, atol=1e-5)


def test_a_backbone_in_half_precision_keeps_adapters_and_velocities_in_fp32(family, model):
    half = load(family, "model.dtype=bf16")
    for loaded in (model, half):
        add_noisy_adapter(loaded, "student", 1)
    set_trainable(half.transformer, ["student"])
    assert half.transformer.dtype == torch.bfloat16
    latent, sigma, conditioning = states(half)
    rounded = half.velocity(latent, sigma, conditioning, "student")
    rounded.square().mean().backward()
    parameters = adapter_parameters(half.transformer, "student").values()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in parameters if p.grad is not None)
    with torch.no_grad():
        exact = model.velocity(latent, sigma, conditioning, "student")
    assert rounded.dtype == torch.float32
    # bf16 keeps 8 bits: a few percent of the size of the velocities after a few layers.
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_a_backbone_in_fp16_loses_no_small_gradient(family, model):
    """Losses are means over latents and steps: their gradients at the velocity are far below fp16's least."""
    half = load(family, "model.dtype=fp16")
    gradients = {}
    for loaded in (model, half):
        add_noisy_adapter(loaded, "student", 1)
        set_trainable(loaded.transformer, ["student"])
        parameters = list(adapter_parameters(loaded.transformer, "student").values())
        for weight in (1.0, 1e-8):
            velocity = loaded.velocity(*states(loaded), "student")
            assert velocity.dtype == torch.float32
            (weight * velocity.square().mean()).backward()
            found = [p.grad.flatten() for p in parameters if p.grad is not None]
            gradients[loaded is half, weight] = torch.cat(found) / weight
            loaded.zero_grad()
    exact, rounded = gradients[False, 1.0], gradients[True, 1.0]
    assert (rounded - exact).norm() < 0.1 * exact.norm()  # fp16 has 11 bits
    # Without scaling, the gradient is 0 at 1e-6 already.
    assert (gradients[True, 1e-8] - rounded).norm() < 0.01 * exact.norm()


def test_fp16_gradients_add_up_over_velocities_and_backwards(family):
    half = load(family, "model.dtype=fp16")
    add_noisy_adapter(half, "student", 1)
    set_trainable(half.transformer, ["student"])
    parameters = list(adapter_parameters(half.transformer, "student").values())

    def gradient(*losses):
        for loss in losses:
            loss.backward()
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        half.zero_grad()
        return found

    def velocity():
        return half.velocity(*states(half), "student").square().mean()

    together = gradient(1e-6 * velocity() + 1e-7 * velocity())
    apart = gradient(1e-6 * velocity(), 1e-7 * velocity())
    assert (together - apart).norm() < 0.03 * apart.norm()


def test_offloaded_encoders_stay_behind_and_encode_alike(family, model):
    offloaded = load(family, "model.offload_text_encoders=true", "model.vae_tiling=true")
    assert offloaded.vae.use_tiling
    assert not any("encoder" in name.partition(".")[0] for name, _ in offloaded.named_parameters())
    assert not any(
        p.requires_grad for name in offloaded.encoders for p in getattr(offloaded, name).parameters()
    )
    moves = []
    for name in offloaded.encoders:
        encoder = getattr(offloaded, name)
        encoder.to = lambda device, name=name: moves.append((name, str(device)))
    ours, theirs = offloaded.encode(TEXTS), model.encode(TEXTS)
    assert torch.equal(ours.embeds, theirs.embeds)
    assert ours.lengths == theirs.lengths
    assert len(moves) == 2 * len(offloaded.encoders)
    assert {device for _, device in moves[-len(offloaded.encoders) :]} == {"cpu"}


def test_attention_backends_are_those_of_diffusers(family, model):
    if family.name.startswith("sd3"):
        with pytest.raises(
            InstantiationException, match=r"model\.attention_backend=native, but SD3Transformer2DModel calls"
        ):
            load(family, "model.attention_backend=native")
        return
    latent, sigma, conditioning = states(model)
    with torch.no_grad():
        expected = model.velocity(latent, sigma, conditioning)
        chosen = load(family, "model.attention_backend=_native_math")
        ours = chosen.velocity(latent, sigma, conditioning)
    processors = [getattr(module, "processor", None) for module in chosen.transformer.modules()]
    backends = {p._attention_backend.value for p in processors if hasattr(p, "_attention_backend")}
    chosen.transformer.set_attention_backend("native")  # diffusers keeps the choice for later models, too
    assert backends == {"_native_math"}
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    with pytest.raises(InstantiationException, match=r"model\.attention_backend=fast cannot be used here"):
        load(family, "model.attention_backend=fast")


def test_a_grid_that_is_not_the_schedulers_is_refused(family):
    other = {
        "sd3_5_medium": "model.shift=2.0",
        "flux1_dev": "model.shift.least_mu=0.7",
        "flux2_klein": "model.shift.pixels_per_token=8",
        "z_image": "model.shift.shift=3.0",
        "qwen_image": "model.shift.terminal=null",
    }
    with pytest.raises(InstantiationException, match=r"model\.shift.*; set model\.shift"):
        load(family, other[family.name])


def test_embedded_guidance_is_asked_for_where_the_backbone_takes_it(family, model):
    has = family.name == "flux1_dev"
    with pytest.raises(InstantiationException, match=r"model\.embedded_guidance=" + ("null" if has else "3")):
        load(family, f"model.embedded_guidance={'null' if has else '3.0'}")
    if has:
        weaker = load(family, "model.embedded_guidance=1.0")
        with torch.no_grad():
            gap = weaker.velocity(*states(weaker)) - model.velocity(*states(model))
        assert gap.abs().max() > 1e-3


def test_another_pipeline_is_refused(family):
    other = "qwen_image" if family.name == "sd3_5_medium" else "sd3_5_medium"
    with initialize_config_dir(config_folder(), version_base="1.3"):
        settings = [f"model={other}", f"model.path={family.folder}", "prompt=x", "paths.run=."]
        node = compose("sample", overrides=settings).model
    with pytest.raises(InstantiationException, match=r"holds a \w+; a \w+Pipeline is needed"):
        instantiate(node)
    if family.name not in ("sd3_5_medium", "flux2_klein"):
        with pytest.raises(ValueError, match="only a StableDiffusion3Pipeline or a Flux2KleinPipeline is tr"):
            pipeline_to_train(path=str(family.folder))


# The compiler looks at every tensor's gradient, also where there can be none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("gradients", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_choice_of_adapters_compiles_anew(family, model, gradients):
    if family.name != "qwen_image" and not gradients:
        pytest.skip("one family each time, of the others gradients alone")
    compiled = load(family)
    for loaded in (model, compiled):
        for seed, name in enumerate(("a", "b")):
            add_noisy_adapter(loaded, name, seed)
        set_trainable(loaded.transformer, ["a", "b"])
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled.compile_blocks(backend=counter, fullgraph=True)
    given = states(model)
    counts = []
    with torch.set_grad_enabled(gradients):
        for names in (["a", "b", BASE, "a"], "a", "b", None, [BASE, "b", "a", "b"]):
            ours, expected = (loaded.velocity(*given, names) for loaded in (compiled, model))
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
            counts.append(counter.frame_count)
            if gradients and names is not None:
                for velocity in (ours, expected):
                    velocity.square().sum().backward()
    assert counts[0] > 0
    assert set(counts) == {counts[0]}
    if gradients:
        both = [
            torch.cat(
                [
                    p.grad.flatten()
                    for p in adapter_parameters(m.transformer, "a").values()
                    if p.grad is not None
                ]
            )
            for m in (compiled, model)
        ]
        assert (both[0] - both[1]).norm() < 1e-4 * both[1].norm()
