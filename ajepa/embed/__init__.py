"""Embeddings of many files: a job that can be stopped, shared by processes and extended, and its results."""

from .read import Embeddings, read_embeddings

__all__ = ["Embeddings", "read_embeddings"]
