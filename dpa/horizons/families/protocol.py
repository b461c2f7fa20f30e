"""The Protocol every family implements, and the registry that finds families by name.

A user adds a family in one file: write a class with these methods, put ``@register_family`` on
it, and name the file with ``--plugins``. docs/horizons.md shows an example.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeVar

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError
from dpa.horizons.types import Forecast, Rows, RowSchema, Singles

BARRIER_TARGET = "barriers"  # the name of the barrier heads among the targets to fit


@dataclass(frozen=True)
class FitLog:
    """What happened while a family was fitted.

    Parameters
    ----------
    curves : mapping of str to tuple of float
        Training curves, such as ``{"validation loss, 5m": (1.0, 0.98)}``: one value a step.
    notes : mapping of str to float
        Single numbers, such as the number of trees kept or the penalty chosen.
    """

    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)


class Family(Protocol):
    """A kind of model that forecasts scaled returns of every horizon.

    Attributes
    ----------
    name : str
        Identifier, such as ``"ridge"``; the folder of its files in a bundle.
    splits_by_target : bool
        Whether each target (a horizon's label, or ``"barriers"``) is a model of its own, which
        can be fitted as a task of its own. Then fitting several targets one after another, or in
        several objects saved into one folder, gives the same as fitting all at once.
    has_barriers : bool
        Whether it forecasts the barrier labels too.
    """

    name: ClassVar[str]
    splits_by_target: ClassVar[bool]
    has_barriers: ClassVar[bool]

    def __init__(self, schema: RowSchema, settings: FamiliesConfig) -> None: ...

    def fit(
        self,
        train: Rows,
        validation: Rows,
        seed: int,
        targets: tuple[str, ...] | None = None,
    ) -> FitLog:
        """Learn from `train`; `validation` (later, purged, maybe empty) is for early stopping.

        Parameters
        ----------
        train, validation : Rows
        seed : int
            Of every random number.
        targets : tuple of str, optional
            Horizon labels, or ``"barriers"``; none: all. Only a family that splits by target is
            given some.

        Raises
        ------
        DataError
            When there is nothing to learn from.
        """
        ...

    def predict(self, features: Singles) -> Forecast:
        """Forecast rows of shape (n_rows, n_features); each row's depends on that row alone."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was fitted into `folder` (made when missing); no pickle."""
        ...

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RunError
            When a file is missing, damaged, or belongs to other features or horizons.
        """
        ...

    def fingerprint(self) -> str:
        """Hash of everything that decides a forecast: equal parameters, equal fingerprint."""
        ...

    def importance(self) -> dict[str, float]:
        """How much each feature matters, >= 0, summing to 1 (or all 0), by feature name."""
        ...


_FAMILIES: dict[str, type[Family]] = {}
AnyFamily = TypeVar("AnyFamily", bound=type)


def register_family(family: AnyFamily) -> AnyFamily:
    """Class decorator: make a family known by its ``name``."""
    name = family.name  # type: ignore[attr-defined]
    if name in _FAMILIES and _FAMILIES[name].__qualname__ != family.__qualname__:
        raise ConfigError(f"family {name!r} is defined twice", "rename one of them")
    _FAMILIES[name] = family
    return family


def family_names() -> tuple[str, ...]:
    """Names of the families there are, in the order they were registered."""
    return tuple(_FAMILIES)


def family_class(name: str) -> type[Family]:
    """The family called `name`; a :class:`ConfigError` when there is none."""
    if name not in _FAMILIES:
        raise ConfigError(
            f"families: {name!r} is not known", f"use some of {', '.join(family_names())}"
        )
    return _FAMILIES[name]
