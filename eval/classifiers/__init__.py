"""Classifiers: what a linear probe or a fine-tuning leaves for use, as a folder."""

from __future__ import annotations

from .folder import ClassifierError, load_classifier, save_classifier

__all__ = ["ClassifierError", "load_classifier", "save_classifier"]
