"""Runs blocking and CPU-bound work off the event loop."""
