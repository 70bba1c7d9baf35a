"""Log-mel spectrograms, and what weights expect of a clip's level and end."""

from .inputs import InputConfig, levelled
from .logmel import LogMel, LogMelConfig

__all__ = ["InputConfig", "LogMel", "LogMelConfig", "levelled"]
