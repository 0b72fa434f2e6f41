"""The hub: takes batches off the broker, stores them, and shows kits, live data and results to people."""
