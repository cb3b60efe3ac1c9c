"""Traced functions in files: for any device, without the Python that made them; for pages."""

from .file import export
from .loaded import Exported, load_exported
from .web import export_web

__all__ = ["Exported", "export", "export_web", "load_exported"]
