"""Load tests and comparisons: sends requests to a server, measures how fast it answers, and compares a baseline.

It knows a server by its HTTP API alone and imports nothing of ``lego_serve``.
"""
