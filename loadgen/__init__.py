"""Load tests and honest comparisons: what a server is asked, how fast it answers, next to a baseline.

Stands alone: it knows a server by its HTTP API and imports nothing of ``lego_serve``.
"""
