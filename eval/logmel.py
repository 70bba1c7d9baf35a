"""The log-mel baseline under the name that HEAR commands use.

python -m heareval.embeddings.runner ajepa.eval.logmel --tasks-dir TASKS
"""

from .models.logmel import LogMelStatistics, get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = ["LogMelStatistics", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]
