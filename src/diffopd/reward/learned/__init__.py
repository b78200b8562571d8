"""Scorers that are published networks."""
