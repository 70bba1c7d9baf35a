"""The opt-in bridge that lets stock benchmark toolkits run on a current Python, torch, Lightning and NumPy.

The toolkits that the field compares itself with stand still, while what they import does not. A *bridge*
installs one toolkit and holds a small cure for each of its breaks. A cure reaches into the toolkit's own
modules while they are imported, and into nothing else: `torch`, Lightning and `tensorflow` stay as they are
for everyone else.

Two ways to use a bridge:

- `enable("hear")` writes an import hook into this environment. From then on the untouched commands work
  there: `python -m heareval.embeddings.runner MODULE`, `python -m heareval.predictions.runner DIR`,
  `python -m hearvalidator.validate MODULE`; with `enable("s3prl")` `python -m s3prl.run_downstream ...`,
  a checkout's `python run_downstream.py ...` and `S3PRLUpstream("ajepa")`; with `enable("xares")`
  `python -m xares.run ...`. `disable()` takes the hook away, `status()` shows it.
- `run("heareval.predictions.runner", [...])` puts the cures in place for this process alone.

An environment where neither was asked for is not touched.
"""

from .bridges import BRIDGES, Bridge, HarnessError
from .manage import disable, enable, run, status

__all__ = ["BRIDGES", "Bridge", "HarnessError", "disable", "enable", "run", "status"]
