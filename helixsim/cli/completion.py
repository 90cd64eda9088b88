"""``helixsim completion SHELL``: a completion script, generated from the parsers of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print a completion script for bash, zsh or fish",
        description="Print a script that completes commands, options and their values.",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    from helixsim.cli.main import build_parser

    commands = list(_commands(build_parser(), ("helixsim",)))
    print(_fish(commands) if args.shell == "fish" else _bash(commands, is_zsh=args.shell == "zsh"))


@dataclass(frozen=True)
class _Command:
    """A command with its path, help, words (subcommands or values), and (options, values, help) of its options."""

    path: tuple[str, ...]
    help: str
    words: tuple[str, ...]
    options: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]


def _commands(parser: argparse.ArgumentParser, path: tuple[str, ...], text: str = "") -> Iterator[_Command]:
    words: list[str] = []
    found = []
    inner: list[tuple[str, argparse.ArgumentParser, str]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            inner += [(name, own, helps.get(name, "")) for name, own in action.choices.items()]
        elif not action.option_strings:
            words += [str(choice) for choice in action.choices or ()]
        elif action.help != argparse.SUPPRESS:
            values = tuple(str(choice) for choice in action.choices or ())
            found.append((tuple(action.option_strings), values, (action.help or "").replace("%%", "%")))
    yield _Command(path, text, (*(name for name, _, _ in inner), *words), tuple(found))
    for name, own, about in inner:
        yield from _commands(own, (*path, name), about)


def _bash(commands: list[_Command], *, is_zsh: bool) -> str:
    """Return the script; zsh runs that of bash by its own emulation."""
    below = "|".join(f'"{" ".join(one.path)}"' for one in commands if len(one.path) > 1)
    groups = "|".join(f'"{_path(one)}"' for one in commands if any(other.path[:-1] == one.path for other in commands))
    values = [
        f'        {"|".join(f"{_path(one)} {name}".join(chr(34) * 2) for name in names)}) words="{" ".join(known)}";;'
        for one in commands
        for names, known, _ in one.options
        if known
    ]
    words = [
        f'        "{_path(one)}") words="{" ".join([*one.words, *(name for own in one.options for name in own[0])])}";;'
        for one in commands
    ]
    return "\n".join(
        [
            *(["autoload -U +X bashcompinit && bashcompinit"] if is_zsh else []),
            "_helixsim() {",
            '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" at=helixsim words="" i',
            "    for ((i = 1; i < COMP_CWORD; i++)); do",
            f'        case "$at ${{COMP_WORDS[i]}}" in {below}) at="$at ${{COMP_WORDS[i]}}";; esac',
            "    done",
            '    case "$at $prev" in',
            *values,
            "    esac",
            '    if [ -n "$words" ]; then',
            '        COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            "        return",
            "    fi",
            '    case "$at" in',
            *words,
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            f'    case "$at" in {groups}) return;; esac',
            '    case "$cur" in -*) ;; *) COMPREPLY+=($(compgen -f -- "$cur"));; esac',
            "}",
            "complete -o filenames -F _helixsim helixsim",
        ]
    )


def _fish(commands: list[_Command]) -> str:
    lines = []
    for one in commands:
        parents = [f"__fish_seen_subcommand_from {name}" for name in one.path[1:]] or ["__fish_use_subcommand"]
        condition = f"-n '{'; and '.join(parents)}'"
        is_first = len(one.path) == 1
        helps = {other.path[-1]: other.help for other in commands if other.path[:-1] == one.path}
        lines += [
            f"complete -c helixsim {condition}{' -f' * is_first} -a {word} -d {_quoted(helps.get(word, ''))}"
            for word in one.words
        ]
        for names, known, text in one.options:
            flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)
            choice = f" -x -a {_quoted(' '.join(known))}" if known else ""
            lines.append(f"complete -c helixsim {condition} {flags}{choice} -d {_quoted(text)}")
    return "\n".join(lines)


def _path(one: _Command) -> str:
    return " ".join(one.path)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
