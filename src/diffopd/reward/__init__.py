"""Scorers of images, ``(images, prompts) -> Scores``, and group-normalised advantages."""
