"""Log-mel spectrograms, and what weights expect of a clip's level and end."""

from .config import LogMelConfig
from .inputs import InputConfig, levelled
from .logmel import LogMel

__all__ = ["InputConfig", "LogMel", "LogMelConfig", "levelled"]
