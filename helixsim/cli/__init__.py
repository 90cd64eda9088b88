"""The command line: ``main`` and one small module per command."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see ``helixsim.cli.main``."""
    from helixsim.cli.main import main as run

    return run(argv)
