"""GenEval: objects, counts, colors and positions by a detector."""
