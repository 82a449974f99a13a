"""Suites of tiers: the sizes of suite ``mixed`` at one number of steps, all or some of the requests in a tier."""
