"""`python -m offloop` is the command `offloop`."""

import sys

from ._cli import main

sys.exit(main())
