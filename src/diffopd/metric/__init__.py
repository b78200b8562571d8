"""Evaluation metrics, their intervals, and result tables."""
