"""The commands of ``python -m loadgen``."""
