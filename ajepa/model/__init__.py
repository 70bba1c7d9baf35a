"""The user's interface: an encoder from waveforms to embeddings, and how to load one."""

from .embedding import Embedding
from .encoder import AudioEncoder

__all__ = ["AudioEncoder", "Embedding"]
