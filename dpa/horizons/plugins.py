"""Features and families of your own: Python files or modules that register them when imported."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from dpa.errors import ConfigError


def load_plugins(names: Iterable[str]) -> None:
    """Import each plugin once.

    Parameters
    ----------
    names : iterable of str
        Paths that end in ``.py``, or names of installed modules. They are code and run as such:
        give only files you trust.

    Raises
    ------
    ConfigError
        When one cannot be found or fails on import.
    """
    for name in names:
        try:
            _import(name)
        except ConfigError:
            raise
        except Exception as e:  # the edge to other people's code: whatever it raises is told
            raise ConfigError(
                f"horizons.plugins: {name} cannot be imported ({type(e).__name__}: {e})",
                "mend it, or leave it out",
            ) from e


def _import(name: str) -> None:
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name).resolve()
    if not path.is_file():
        raise ConfigError(f"horizons.plugins: {name} does not exist", "give the path of a file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    module_name = f"dpa_plugin_{path.stem}_{digest}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"horizons.plugins: {name} is no Python file", "give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
