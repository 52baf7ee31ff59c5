"""``python -m memphis_sync.cli`` is ``memphis-sync``."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
