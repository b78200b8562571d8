"""A sampler of your own, in a distillation and for drawing.

    python examples/own_sampler.py                        # minutes on a CPU
    python examples/own_sampler.py trainer.max_epochs=2   # any setting of `diffopd train`

See docs/sampler.md for the samplers there are, and docs/from_python.md for the functions.
"""

from __future__ import annotations

import math
import sys

import diffopd
from diffopd.flow import euler, flow_sde
from diffopd.sampler import TransitionSampler


class FadingNoise(TransitionSampler):
    """The Flow-GRPO SDE with a noise level that falls linearly to 0: early steps explore, late ones refine.

    A step says which Gaussian the next latent is drawn from. The rollout, its gradients and the grid are the
    base class's. At any noise level the SDE has the marginals of the ODE, so each step may have its own.
    """

    max_noise_level = math.inf
    noiseless_end = True
    uses_history = False

    def solve(self, step, latent, velocity, previous_clean):
        """The Gaussian of one step, from the velocity at its latent."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        if not self.stochastic(step):
            return euler(latent, velocity, sigma, sigma_next)
        level = self.noise_level * (1 - step / (self.num_steps - 1))
        return flow_sde(latent, velocity, sigma, sigma_next, noise_level=level)


def main() -> None:
    """Distil with it, then draw with it."""
    # Configs name classes by their module: this file's folder is where Python looks for modules first.
    own = ["sampler._target_=own_sampler.FadingNoise", "sampler.noise_level=0.7"]
    config = diffopd.compose(
        "mopd_sde", [*own, "name=fading_noise", "trainer.max_epochs=40", "~report", *sys.argv[1:]]
    )
    run = diffopd.train_model(config)

    model = diffopd.load_model(adapter=run.adapter, overrides=[*own, "guidance_scale=1"])
    prompts = ["a photo of a red circle", 'a sign that says "CAT"']
    images = diffopd.sample_images(model, prompts, num_images=3)
    labels = [f"{prompt} ({number})" for prompt in prompts for number in range(3)]
    diffopd.image_sheet(images, labels).save(run.folder / "fading_noise.png")
    print(run.folder / "fading_noise.png")


if __name__ == "__main__":
    main()
