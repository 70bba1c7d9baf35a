"""What users hold: an encoder from waveforms to embeddings, and how one is loaded."""

from .embedding import Embedding
from .encoder import AudioEncoder

__all__ = ["AudioEncoder", "Embedding"]
