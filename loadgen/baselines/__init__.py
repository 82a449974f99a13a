"""The baselines: diffusers as a competent user runs it today, measured beside the server."""
