"""Where configs are and how they are read: command lines, saved configs, and which of them to trust."""
