"""A training looked at before hours are spent: its plan, what is wrong with it, what it will take.

Nothing is imported here: ``python -m diffopd.doctor`` refuses a mistake before anything heavy is.
"""
