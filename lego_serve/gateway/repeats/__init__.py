"""Requests that repeat one under its `Idempotency-Key`: what is kept for them, and how they wait for it."""
