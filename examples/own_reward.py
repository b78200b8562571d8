"""A specialist for a reward of your own.

    python examples/own_reward.py                        # minutes on a CPU
    python examples/own_reward.py trainer.max_epochs=2   # any setting of `diffopd train`

See docs/own_reward.md for what a reward may do, and docs/from_python.md for the functions.
"""

from __future__ import annotations

import sys

import diffopd


class Redness:
    """How red pictures are: ``(batch, 3, height, width)`` in [0, 1] -> ``(batch,)``; more is better."""

    def __call__(self, images, prompts):
        """Red less the mean of green and blue."""
        red, green, blue = images.mean((2, 3)).unbind(1)
        return red - (green + blue) / 2


def main() -> None:
    """Train on it, then draw before and after."""
    # Configs name classes by their module: this file's folder is where Python looks for modules first.
    own = ["reward=custom", "reward._target_=own_reward.Redness", "name=redness", "trainer.max_epochs=20"]
    # The report would score the three built-in tasks.
    config = diffopd.compose("teacher_aesthetic", [*own, "~report", *sys.argv[1:]])
    run = diffopd.train_model(config)

    prompts = ["a painting of a blue ring in the dusk", "a painting of a red cross in the snow"]
    model = diffopd.load_model(adapter=run.adapter, overrides=["guidance_scale=1"])
    pictures = {}
    for name in (None, *model.adapters):
        pictures[name] = diffopd.sample_images(model, prompts, num_images=3, adapter=name)
        print(f"redness of {name or 'the base'}: {Redness()(pictures[name], prompts).mean():.3f}")
    labels = [f"{prompt} ({number})" for prompt in prompts for number in range(3)]
    diffopd.image_sheet(pictures["student"], labels).save(run.folder / "redness.png")
    print(run.folder / "redness.png")


if __name__ == "__main__":
    main()
