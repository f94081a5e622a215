"""Figures and the page of a report, from what diagnostics measured."""
