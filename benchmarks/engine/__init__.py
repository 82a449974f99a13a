"""How fast a step is, in this process and without Ray: against diffusers, against uniform batches, and its planning."""
