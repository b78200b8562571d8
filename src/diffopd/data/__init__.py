"""Batches for training: prompts for phases that sample, drawings for pretraining."""
