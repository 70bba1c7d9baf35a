"""`python -m ajepa.cli`."""

import sys

from ajepa.cli import main

sys.exit(main())
