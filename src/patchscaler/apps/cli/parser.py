"""An argument parser that answers a mistake with one line, and keeps experts' options apart."""

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Options of an `experts` group are left out of `--help`; `--help-all` has them."""

    def __init__(self, **options: Any):
        super().__init__(**({"allow_abbrev": False} | options))
        self.experts: list[argparse._ArgumentGroup] = []
        self.everything = False

    def experts_group(self, title: str) -> Any:
        """A group of options that only `--help-all` lists."""
        group = self.add_argument_group(title)
        self.experts.append(group)
        return group

    def format_help(self) -> str:
        hidden = [] if self.everything else self.experts
        kept = {action: action.help for group in hidden for action in group._group_actions}
        for action in kept:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in kept.items():
                action.help = text

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].split("=")[0]
            what = "no such option" if name.startswith("-") else "one argument too many"
            self.error(f"{name}: {what}. Hint: {nearest(name, self.names(), '--help lists them')}")
        return found

    def names(self) -> list[str]:
        """Option strings, those of subcommands among them."""
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found += parser.names()
        return found

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        message = message.replace("unrecognized arguments", "no such option")
        self.exit(2, f"{self.prog}: {message}\n")


class HelpAll(argparse.Action):
    """`--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        parser.everything = True
        parser.print_help()
        parser.exit()


def nearest(text: str, known: Iterable[str], otherwise: str) -> str:
    """The hint for a misspelt word."""
    found = difflib.get_close_matches(text, list(known), 1)
    return f"did you mean {found[0]}?" if found else otherwise
