"""Load tests of one server: single runs, searches for the highest rate, comparisons of two results, and reports."""
