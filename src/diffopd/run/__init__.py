"""A run's folder: what it was made from, whether it is finished, where it resumes."""
