"""Optional bridges that let stock benchmark toolkits run on a current Python, torch, Lightning and NumPy.

The toolkits of the field are no longer maintained, but the packages that they import still change. A *bridge*
installs one toolkit and holds a small cure for each thing that breaks. A cure changes only the toolkit's own
modules while they are imported: `torch`, Lightning and `tensorflow` stay the same for all other code.

Two ways to use a bridge:

- `enable("hear")` writes an import hook into this environment. From then on the stock commands work there:
  `python -m heareval.embeddings.runner MODULE`, `python -m heareval.predictions.runner DIR`,
  `python -m hearvalidator.validate MODULE`; with `enable("s3prl")` `python -m s3prl.run_downstream ...`,
  a checkout's `python run_downstream.py ...` and `S3PRLUpstream("ajepa")`; with `enable("xares")`
  `python -m xares.run ...`. `disable()` removes the hook, `status()` shows it.
- `run("heareval.predictions.runner", [...])` and `imported("s3prl.hub")` apply the cures to this process
  only.

Without either, an environment is not changed.
"""

from .bridges import BRIDGES, Bridge, HarnessError
from .manage import disable, enable, imported, run, status

__all__ = ["BRIDGES", "Bridge", "HarnessError", "disable", "enable", "imported", "run", "status"]
