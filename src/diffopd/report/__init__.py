"""What runs leave for people: tables, grids of samples, curves, a page.

Imports nothing, so that ``python -m diffopd.report`` answers before anything heavy is loaded.
"""
