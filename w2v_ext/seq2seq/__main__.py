"""``python -m w2v_ext.seq2seq``."""

import sys

from .cli import main

sys.exit(main())
