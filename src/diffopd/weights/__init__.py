"""Where weights are and whether their files may be believed: folders, hub, tokenizers, hashes."""
