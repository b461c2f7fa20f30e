"""Command-line options made from the settings tree, so that the two cannot disagree.

Every field of :class:`dpa.config.Settings` becomes ``--field-name``, with its meaning, unit,
default and bounds in ``--help``. ``python -m dpa.options`` prints docs/options.md.
"""

import argparse
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dpa.config import ENV_PREFIX, Settings, absent, load_settings
from dpa.errors import ConfigError

ALIASES = {"path": ("--data",)}
NOT_AXES = ("data", "logging")  # sections whose settings cannot vary within a grid
_DESTINATION = "setting."


class UsageError(ConfigError):
    """The command line itself is wrong."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one-line :class:`UsageError` exceptions."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        keywords.setdefault("allow_abbrev", False)
        super().__init__(*args, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(f"{self.prog}: {message}", f"see '{self.prog} --help'")


@dataclass(frozen=True)
class Option:
    """One field of the settings tree as a command-line option.

    Parameters
    ----------
    section, name : str
        Where the field lives: ``settings.<section>.<name>``.
    info : FieldInfo
        Type, bounds, default and description.
    """

    section: str
    name: str
    info: FieldInfo

    @property
    def flag(self) -> str:
        """The option as typed, ``--n-clusters``."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The environment variable that sets the same field."""
        return f"{ENV_PREFIX}{self.section}__{self.name}".upper()

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types a value may have, None left out."""
        annotation = self.info.annotation
        if get_origin(annotation) in (Union, types.UnionType):
            return tuple(kind for kind in get_args(annotation) if kind is not type(None))
        return (annotation,)

    @property
    def optional(self) -> bool:
        """Whether the value may be none."""
        return type(None) in get_args(self.info.annotation)

    @property
    def is_list(self) -> bool:
        """Whether one value is itself a list."""
        return any(get_origin(kind) is tuple for kind in self.kinds)

    @property
    def kind(self) -> str:
        """The type in words, for help and tables."""
        kind = self.kinds[0]
        if get_origin(kind) is Literal:
            return " | ".join(str(choice) for choice in get_args(kind))
        words = {int: "integer", float: "number", str: "text", bool: "true | false"}
        return "list of text" if self.is_list else words[kind]

    @property
    def default(self) -> str:
        """The default as it would be typed."""
        return typed(self.info.default)

    @property
    def bounds(self) -> str:
        """Bounds in words, such as ``>= 5, <= 5000``; empty when there are none."""
        signs = {
            annotated_types.Ge: (">=", "ge"),
            annotated_types.Gt: (">", "gt"),
            annotated_types.Le: ("<=", "le"),
            annotated_types.Lt: ("<", "lt"),
        }
        found = [
            f"{sign} {typed(getattr(bound, attribute))}"
            for bound in self.info.metadata
            for kind, (sign, attribute) in signs.items()
            if isinstance(bound, kind)
        ]
        return ", ".join(found)

    def parse(self, text: str, origin: str) -> Any:
        """The value that `text` stands for.

        Raises
        ------
        ConfigError
            Naming `origin` (such as ``--window``), the text seen and the bounds.
        """
        value: Any = text.strip()
        if self.is_list and not absent(text):
            value = tuple(part.strip() for part in text.split(","))
        return self.check(value, origin)

    def check(self, value: Any, origin: str) -> Any:
        """`value` converted to the field's type and held against its bounds; none where allowed.

        A list without an entry is ``none`` as well.
        """
        if self.optional and absent(value):
            return None
        if self.is_list and absent(value):
            return ()
        annotation: Any = self.info.annotation
        if self.info.metadata:
            annotation = Annotated[(annotation, *self.info.metadata)]
        try:
            return TypeAdapter(annotation).validate_python(value)
        except ValidationError as e:
            wanted = self.kind + (f", {self.bounds}" if self.bounds else "")
            raise ConfigError(f"{origin}: {value!r} is not allowed", f"give {wanted}") from e


def typed(value: Any) -> str:
    """A settings value as it is typed on a command line: ``none``, ``true``, ``0.3``, ``A,B``."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(typed(part) for part in value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


@cache
def settings_options() -> dict[str, Option]:
    """Every option of the settings tree by field name, in the tree's order."""
    options: dict[str, Option] = {}
    for section, section_info in Settings.model_fields.items():
        model: Any = section_info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"settings section {section!r} is not a model")
        for name, info in model.model_fields.items():
            if name in options:
                raise TypeError(f"{options[name].section}.{name} and {section}.{name} collide")
            options[name] = Option(section, name, info)
    return options


def find_option(name: str, origin: str) -> Option:
    """The option called `name`: ``window`` or ``model.window``.

    Raises
    ------
    ConfigError
        Naming `origin` when no field is called so.
    """
    section, _, field = name.rpartition(".")
    option = settings_options().get(field)
    if option is None or (section and section != option.section):
        raise ConfigError(
            f"{origin}: unknown setting {name!r}",
            "see 'dpa config schema' for the fields there are",
        )
    return option


def add_settings_options(
    parser: argparse.ArgumentParser,
    sections: Iterable[str],
    axes: bool = False,
    positionals: str = "",
) -> None:
    """Add ``--config`` and one option for every field of `sections` to `parser`.

    Parameters
    ----------
    parser : ArgumentParser
        Receives one group of options a section.
    sections : iterable of str
        Sections of the settings tree, for example ``("model", "training")``.
    axes : bool
        Say in the help that an option takes a comma-separated list and so becomes an axis of
        the grid; :func:`read_axes` reads them.
    positionals : str
        Arguments without a flag, for the usage line: listing every option there hides them.
    """
    parser.usage = f"%(prog)s [options] {positionals}".rstrip()
    parser.add_argument("--config", metavar="FILE", help="YAML file with any part of the settings")
    for section in sections:
        model: Any = Settings.model_fields[section].annotation
        group = parser.add_argument_group(f"{section} settings", model.__doc__.splitlines()[0])
        for option in settings_options().values():
            if option.section == section:
                _add_option(group, option, axes and section not in NOT_AXES)


def _add_option(group: Any, option: Option, axis: bool) -> None:
    limits = f"; {option.bounds}" if option.bounds else ""
    words = f"{option.info.description} [{option.kind}{limits}; default {option.default}]"
    group.add_argument(
        *ALIASES.get(option.name, ()),
        option.flag,
        dest=_DESTINATION + option.name,
        metavar="VALUE[,VALUE...]" if axis or option.is_list else "VALUE",
        help=words.replace("%", "%%"),
    )


def given_options(arguments: argparse.Namespace) -> dict[str, str]:
    """Settings typed on the command line: field name to text."""
    return {
        key.removeprefix(_DESTINATION): text
        for key, text in vars(arguments).items()
        if key.startswith(_DESTINATION) and text is not None
    }


def read_overrides(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Nested overrides for :func:`dpa.config.load_settings` from a parsed command line."""
    overrides: dict[str, dict[str, Any]] = {}
    for name, text in given_options(arguments).items():
        option = settings_options()[name]
        overrides.setdefault(option.section, {})[name] = option.parse(text, option.flag)
    return overrides


def add_resume(parser: Any) -> None:
    """The options that finish an interrupted run."""
    parser.add_argument(
        "--resume", metavar="RUN", help="finish an interrupted run: id, directory or 'latest'"
    )
    parser.add_argument(
        "--accept-changed-code",
        action="store_true",
        help="resume although dpa was changed since the run began",
    )


def refuse_settings(arguments: argparse.Namespace) -> None:
    """A resumed run keeps its settings: refuse ``--config`` and every settings option."""
    given = ["config"] * bool(arguments.config) + list(given_options(arguments))
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise ConfigError(
            f"{flag}: a resumed run keeps the settings it began with", f"leave {flag} out"
        )


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Settings from a parsed command line: ``--config``, the environment, and the options."""
    return load_settings(arguments.config, read_overrides(arguments))


def read_axes(arguments: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """Values typed for every field: one value or, separated by commas, several.

    Returns
    -------
    dict
        Field name to the tuple of its values, in the order typed.

    Raises
    ------
    ConfigError
        Naming the option when a value is out of bounds or given twice.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for name, text in given_options(arguments).items():
        option = settings_options()[name]
        parts = [text] if option.section in NOT_AXES else text.split(",")
        values = tuple(option.parse(part, option.flag) for part in parts)
        axes[name] = check_distinct(values, option.flag)
    return axes


def check_distinct(values: tuple[Any, ...], origin: str) -> tuple[Any, ...]:
    """`values` if there is at least one and none twice; :class:`ConfigError` otherwise."""
    if not values:
        raise ConfigError(f"{origin}: holds no value", "give at least one")
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ConfigError(f"{origin}: {typed(twice[0])} is given twice", "give each value once")
    return values


def nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Field values as the nested mapping of the settings tree."""
    tree: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        tree.setdefault(settings_options()[name].section, {})[name] = value
    return tree


def option_table() -> str:
    """docs/options.md: one table a section of the settings tree."""
    lines = [
        "# Settings",
        "",
        "Made by `python -m dpa.options > docs/options.md`; a test compares it with the code.",
        "",
        "Every setting can be given in a YAML file (`--config FILE`, sections as below), in the",
        "environment (`DPA__MODEL__WINDOW=60`) and on the command line (`--window 60`).",
        "Precedence: defaults < YAML < environment < command line. `none` stands for absent.",
        "`python tune/grid.py` takes several values, separated by commas, for every setting but",
        "those of `data` and `logging`, and makes an axis of the grid of them. Everywhere else, as",
        "in `python tune/horizons.py`, a setting has one value, and commas separate the entries of",
        "a list. The grid reads the sections `data` to `costs`; predictors read all but `costs`.",
    ]
    for section, section_info in Settings.model_fields.items():
        model: Any = section_info.annotation
        lines += ["", f"## {section}", "", model.__doc__.splitlines()[0], ""]
        lines += ["| option | meaning | type | bounds | default |", "|---|---|---|---|---|"]
        for option in settings_options().values():
            if option.section == section:
                flags = ", ".join(
                    f"`{flag}`" for flag in (*ALIASES.get(option.name, ()), option.flag)
                )
                cells = (flags, option.info.description, option.kind, option.bounds, option.default)
                lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(option_table(), end="")
