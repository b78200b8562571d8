"""A small world of colored shapes and lettered signs that the embedded model draws."""
