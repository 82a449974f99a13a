"""The speed of a step in this process, without Ray: against diffusers, against uniform batches, and its planning."""
