"""The s3prl (SUPERB) upstream: waveforms of different lengths in, all layers out."""

from ajepa.s3prl_upstream.expert import UpstreamExpert

__all__ = ["UpstreamExpert"]
