"""From the broker's messages to the store: receives batches and statuses, hands on acknowledgements and live data."""
