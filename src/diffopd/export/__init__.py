"""A trained adapter in the formats of other tools, each read back and compared."""
