"""Flags of one command: absl parses them, a person can read their help.

absl keeps one global set of flags to which every imported module adds its
own. A `CommandFlags` is a set apart, so that a command's help shows what the
command takes and nothing else.
"""

import textwrap

from absl import flags


class UsageError(Exception):
    """A command was not understood."""


class CommandFlags:
    """The flags of one command, in the order of its help.

    Args:
        command: Name of the command.
        summary: One sentence that begins the help.

    Example:

    >>> fit = CommandFlags("fit", "Train a model.")
    >>> fit.count("epochs", "Passes over the data.", default=30)
    >>> fit.parse(["--epochs=3"]).epochs
    3
    """

    def __init__(self, command, summary):
        self.command = command
        self.summary = summary
        self._values = flags.FlagValues()
        self._helps = {}
        self._needed = []
        self._argument = None

    def argument(self, name, help):
        """Adds a flag for a string that may be given without its name.

        The command cannot do without it.

        Args:
            name: Name of the flag.
            help: What it means.
        """
        self.text(name, help, needed=True)
        self._argument = name

    def text(self, name, help, default=None, needed=False):
        """Adds a flag for a string.

        Args:
            name: Name of the flag.
            help: What it means.
            default: String or `None`.
            needed: Whether the command cannot do without.
        """
        self._add(name, help, needed)
        flags.DEFINE_string(name, default, help, flag_values=self._values)

    def count(self, name, help, default=None, least=1, most=None):
        """Adds a flag for an integer.

        Args:
            name: Name of the flag.
            help: What it means.
            default: Integer or `None`.
            least: Integer, the smallest that is accepted.
            most: Integer, the largest that is accepted, or `None`.
        """
        self._add(name, help)
        flags.DEFINE_integer(
            *(name, default, help, least, most), flag_values=self._values
        )

    def seconds(self, name, help):
        """Adds a flag for a time.

        Args:
            name: Name of the flag.
            help: What it means.
        """
        self._add(name, help)
        flags.DEFINE_float(
            name, None, help, lower_bound=1.0, flag_values=self._values
        )

    def choice(self, name, help, options):
        """Adds a flag for one of several words.

        Args:
            name: Name of the flag.
            help: What it means.
            options: List of strings, the default first.
        """
        self._add(name, help)
        flags.DEFINE_enum(
            name, options[0], options, help, flag_values=self._values
        )

    def switch(self, name, help):
        """Adds a flag that is off unless given.

        Args:
            name: Name of the flag.
            help: What it means.
        """
        self._add(name, help)
        flags.DEFINE_bool(name, False, help, flag_values=self._values)

    def parse(self, arguments):
        """Returns an object whose attributes are the flags' values.

        Args:
            arguments: List of strings.

        Raises:
            UsageError: The arguments do not fit the flags.
        """
        try:
            rest = self._values([self.command, *arguments])[1:]
        except flags.Error as error:
            raise UsageError(f"{self.command}: {error}") from None
        bare = self._argument
        if bare and rest and self._values[bare].value is None:
            self._values[bare].value = rest.pop(0)
        if rest:
            raise UsageError(f"{self.command}: unexpected argument {rest[0]!r}")
        for name in self._needed:
            if self._values[name].value is None:
                raise UsageError(f"{self.command}: --{name} is needed")
        return self._values

    def help(self):
        """Returns the help of the command."""
        bare = f" {self._argument.upper()}" if self._argument else ""
        lines = [f"usage: keras-dha {self.command}{bare} [--flag=value ...]"]
        lines += ["", self.summary, ""]
        for name, text in self._helps.items():
            lines.append(self._head(self._values[name]))
            lines += _wrapped(text)
        return "\n".join([*lines, ""])

    def _add(self, name, help, needed=False):
        self._helps[name] = help
        if needed:
            self._needed.append(name)

    def _head(self, flag):
        if flag.boolean:
            return f"  --{flag.name}"
        words = getattr(flag.parser, "enum_values", None)
        kind = "|".join(words) if words else flag.flag_type().upper()
        note = ""
        if flag.name in self._needed:
            note = "  (needed)"
        elif flag.default is not None:
            note = f"  (default {flag.default})"
        return f"  --{flag.name}={kind}{note}"


def _wrapped(text):
    indent = " " * 6
    return textwrap.wrap(
        text, 78, initial_indent=indent, subsequent_indent=indent
    )
