"""What is happening now: receives committed batches, hands on values, alarms and kit views to the people watching."""
