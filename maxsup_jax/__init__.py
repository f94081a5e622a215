"""Training objectives that replace label smoothing, and what they do."""

__version__ = '0.1.0'
