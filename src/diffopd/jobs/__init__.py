"""Many runs as one command: which are due, in which order, side by side."""
