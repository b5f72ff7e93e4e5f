"""``python -m w2v_ext.classify``."""

import sys

from .cli import main

sys.exit(main())
