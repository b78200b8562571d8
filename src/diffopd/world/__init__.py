"""A small world of coloured shapes and lettered signs that the embedded model draws."""
