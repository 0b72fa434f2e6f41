"""What edge and hub must agree on: kit model, batch, topics and messages. Imports nothing of ours."""
