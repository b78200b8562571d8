"""Scorers of drawings of the embedded world, and of plain properties of a picture."""
