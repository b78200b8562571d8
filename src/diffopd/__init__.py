"""On-policy distillation of diffusion models, as a composable experiment framework."""

__version__ = "0.2.0"
