"""The process and its machine: start, signals, threads, rank, output."""
