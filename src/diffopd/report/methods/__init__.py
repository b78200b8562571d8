"""Any set of runs as one page: curves, tables, verdicts."""
