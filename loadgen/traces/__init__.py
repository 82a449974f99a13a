"""Request traces: readers of the published ones, one native format, a synthesiser, statistics and scaling."""
