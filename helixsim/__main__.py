"""``python -m helixsim``: the same as the ``helixsim`` console script."""

from __future__ import annotations

import sys

from helixsim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
