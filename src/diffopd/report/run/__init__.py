"""What one run leaves for people."""
