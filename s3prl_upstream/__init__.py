"""The s3prl (SUPERB) upstream: waveforms of different lengths in, all layers out.

    python run_downstream.py -m train -u ajepa -k CHECKPOINT -d speech_commands -c CONFIG -n NAME

`hubconf` has the names for `-u`, `options` what `-g` takes; `sets` converts data sets for s3prl.
`ajepa harness enable s3prl` adds these names to the stock commands; `python -m ajepa.s3prl_upstream` does so
for one process.
"""

from .expert import UpstreamExpert
from .options import UpstreamError, UpstreamOptions

__all__ = ["UpstreamError", "UpstreamExpert", "UpstreamOptions"]
