"""Traced functions in files that need no Python of their makers, and in web pages."""

from .file import export
from .loaded import Exported, load_exported
from .web import export_web

__all__ = ["Exported", "export", "export_web", "load_exported"]
