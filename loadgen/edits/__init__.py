"""Suites ``edits-*``: edits of a few templates over and over, with masks as large as in production."""
