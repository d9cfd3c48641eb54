"""Command lines whose commands are modules: a command's module is imported only when that command is called."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any


def add_commands(
    parser: argparse.ArgumentParser,
    package: str,
    helps: Mapping[str, str],
    common: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Add commands to a parser; the parsed arguments hold the called command's function as `run`.

    The module of the command "export-cuts" is `<package>.export_cuts`. It has `add_arguments(parser)`, which adds the
    arguments of the command and may set the parser's description and epilog, and `run(arguments)`, which carries the
    command out and returns the exit code.

    Args:
        parser: The parser of the whole command line.
        package: Dotted name of the package that holds the modules.
        helps: By name of the command, one line of help without capital letter and full stop.
        common: Adds the arguments that all commands share.
    """
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)
    for name, text in helps.items():
        module = f"{package}.{name.replace('-', '_')}"
        description = f"{text[0].upper()}{text[1:]}."
        commands.add_parser(name, module=module, common=common, help=text, description=description)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks what may follow (`_ARGCOMPLETE` is set), and end; otherwise do nothing.

    `eval "$(register-python-argcomplete flowse)"` makes a shell ask; the package argcomplete has that command.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete  # who is asked has it: the shell's question is argcomplete's

    typed = os.environ.get("COMP_LINE", "").split()
    for action in parser._actions:
        for name, command in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
            if name in typed and isinstance(command, _CommandParser):
                command.load()
    argcomplete.autocomplete(parser)


class _CommandParser(argparse.ArgumentParser):
    """Parser of one command, which knows the command's arguments from the moment on when it parses."""

    def __init__(
        self, *, module: str, common: Callable[[argparse.ArgumentParser], None] | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._module, self._common, self._loaded = module, common, False

    def load(self) -> None:
        """Import the command and add its arguments, once."""
        if self._loaded:
            return
        self._loaded = True
        command = importlib.import_module(self._module)
        if self._common is not None:
            self._common(self)
        command.add_arguments(self)
        self.set_defaults(run=command.run)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Import the command, add its arguments and parse."""
        self.load()
        return super().parse_known_args(args, namespace)
