"""Scorers behind an address: the client, the server and what passes between them."""
