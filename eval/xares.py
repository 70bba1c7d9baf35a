"""Our X-ARES encoders under the name that generated files import: `python -m ajepa.eval.xares SOURCE`."""

import sys

from .toolkits.xares.encoder import XaresEncoder, XaresError, encoder_class, main, write_encoder

__all__ = ["XaresEncoder", "XaresError", "encoder_class", "main", "write_encoder"]

if __name__ == "__main__":
    sys.exit(main())
