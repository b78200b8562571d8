"""Files that are whole or absent, sealed by a checksum, and fingerprinted."""
