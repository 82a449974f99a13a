"""Suites ``burst`` and ``multi``: what is answered in time at given rates, in bursts or of several workflows."""
