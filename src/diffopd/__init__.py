"""On-policy distillation of diffusion models, as a composable experiment framework."""

__version__ = "0.1.0"
