"""Configs with mistakes, and what becomes of them."""
