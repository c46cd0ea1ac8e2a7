"""`python -m pnloc`."""

import sys

from pnloc.cli import main

sys.exit(main())
