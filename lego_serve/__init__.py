"""Serves many text-to-image and editing workflows from shared, independently scaled model nodes."""

__version__ = "1.0.0"
