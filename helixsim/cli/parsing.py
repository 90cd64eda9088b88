"""The command-line parser: help without a command, suggestions for unknown names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from helixsim.errors import ExitCode, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that suggests commands, values and options, and prints its help without a command."""

    def set_defaults(self, **values: Any) -> None:
        """Set defaults; the parser of a command is stored beside its ``func``, to report unknown arguments."""
        super().set_defaults(**values, **({"parser": self} if "func" in values else {}))

    def parse_all(self, arguments: Sequence[str], namespace: argparse.Namespace) -> argparse.Namespace:
        """Parse the arguments; unknown ones are an error of the command that was given."""
        args, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            parser: Parser = getattr(args, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser.suggestion(unknown)}")
        return args

    def suggestion(self, unknown: Sequence[str]) -> str:
        """Return a suggestion for the first unknown option that resembles a known one."""
        options = [option for action in self._actions for option in action.option_strings]
        given = (argument.partition("=")[0] for argument in unknown if argument.startswith("-"))
        return next(filter(None, (did_you_mean(option, options) for option in given)), "")

    def error(self, message: str) -> NoReturn:
        """Exit with code 2: print the help if no command was given, else usage and message."""
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
