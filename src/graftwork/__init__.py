"""Graftwork: register fine-tuned models, merge them, serve them with their adapters."""

__version__ = "0.1.0"
