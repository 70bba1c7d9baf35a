"""EVAR (github.com/nttcslab/eval-audio-repr), by which M2D, ATST and BYOL-A are compared: our encoders in it.

    python -m ajepa.evar_model EVAR_CHECKOUT      # once
    cd EVAR_CHECKOUT
    python lineareval.py config/ajepa.yaml esc50 --options=weight_file=/absolute/path/of/runs/first

EVAR is a checkout without a plug-in mechanism: its commands know the representations that their own lines
import. So the first command adds three things to the checkout: `evar/ar_ajepa.py`, which imports
`representation` from here; `config/ajepa.yaml`; and a line in `evar/__init__.py` (empty in EVAR) that imports
the first. All its commands then work as they are.

EVAR cuts or pads every clip to its task's length, with zeros, and does not say where a clip ends: the padding
is heard as silence, by every encoder alike.
"""
