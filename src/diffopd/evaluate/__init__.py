"""``python -m diffopd.evaluate``: a model's scores on a benchmark, in a folder of their own."""
