"""``python -m sd2_clip``: the same commands as ``sd2-clip``."""

import sys

from .cli import main

sys.exit(main())
