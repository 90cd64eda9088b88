"""The parser of the command line: help where nothing is asked, suggestions where something is unknown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from helixsim.errors import ExitCode, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that suggests commands, values and options, and lists its commands where none is given."""

    def set_defaults(self, **values: Any) -> None:
        """Set defaults; the parser of a command is kept beside its ``func``, to report what it does not know."""
        super().set_defaults(**values, **({"parser": self} if "func" in values else {}))

    def parse_all(self, arguments: Sequence[str], namespace: argparse.Namespace) -> argparse.Namespace:
        """Parse the arguments and refuse those that are unknown, as a part of the command that was given."""
        args, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            parser: Parser = getattr(args, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser.suggestion(unknown)}")
        return args

    def suggestion(self, unknown: Sequence[str]) -> str:
        """Return what may have been meant by unknown options."""
        options = [option for action in self._actions for option in action.option_strings]
        given = (argument.partition("=")[0] for argument in unknown if argument.startswith("-"))
        return next(filter(None, (did_you_mean(option, options) for option in given)), "")

    def error(self, message: str) -> NoReturn:
        """End with exit code 2: with the help if no command was given, else with usage and message."""
        commands = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        missing = [action for action in commands if message.endswith(f"required: {action.metavar}")]
        if missing:
            self.print_help(sys.stderr)
            self.exit(ExitCode.CONFIG, f"\n{self.prog}: error: no {missing[0].metavar} given\n")
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), known)
            raise argparse.ArgumentError(action, f"unknown: {str(value)!r}{hint} (known: {', '.join(known)})")
