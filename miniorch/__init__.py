"""miniorch: a container orchestrator small enough to read in an afternoon. Start with `miniorch/model.py`."""

__version__ = "0.1.0"
