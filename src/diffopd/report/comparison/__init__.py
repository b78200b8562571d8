"""Rows of models side by side, as in the paper's tables."""
