"""Suite ``first``: closed bursts of requests, a pipeline in its own process against the server."""
