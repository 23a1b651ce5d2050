"""The command line: `gpudeblur` and `python -m gpudeblur`."""

from .commands import app, main

__all__ = ["app", "main"]
