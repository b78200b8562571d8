"""How each command begins and ends: its config, its messages, its exit code."""
