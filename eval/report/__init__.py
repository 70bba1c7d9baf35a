"""The report: one self-contained page about runs and scores, drawn from what they left on disk."""

from .page import write_report

__all__ = ["write_report"]
