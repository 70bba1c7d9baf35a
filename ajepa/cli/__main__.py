"""`python -m ajepa.cli`."""

import sys

from . import main

sys.exit(main())
