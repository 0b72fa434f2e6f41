"""Training kits in software, each a program and an async context manager; and the simulated workshop."""
