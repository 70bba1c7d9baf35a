"""The s3prl (SUPERB) upstream: waveforms of different lengths in, all layers out.

    python run_downstream.py -m train -u ajepa -k CHECKPOINT -d speech_commands -c CONFIG -n NAME

`hubconf` holds the names for `-u`, `options` what `-g` takes, `sets` brings data sets into s3prl's form.
`ajepa harness enable s3prl` makes the stock commands know these names; `python -m ajepa.s3prl_upstream`
runs the same for one process.
"""

from .expert import UpstreamExpert
from .options import UpstreamError, UpstreamOptions

__all__ = ["UpstreamError", "UpstreamExpert", "UpstreamOptions"]
