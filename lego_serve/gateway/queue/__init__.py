"""The queue of durable jobs, as one gateway sees it: what its jobs ask for, and when they are expected to end."""
