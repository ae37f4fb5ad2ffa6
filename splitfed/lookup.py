"""Find what a ``package.module:Name`` reference of the agreement or of party.toml names.

Naming code in a file runs that code, so the search is narrow: installed packages and the
folder of the party's own file, nothing else. The working directory is not searched, and a
file in the folder never shadows an installed module: two candidates are an error. Python's own
library makes neither models nor images, but runs commands and removes files: it is refused, and
so is a way to it through another module's names.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from splitfed.errors import UserError
from splitfed.reading import is_inside

_lock = threading.RLock()  # sys.path and sys.modules belong to the whole process
_owners: dict[str, Path] = {}
"""Top-level modules that were imported from a party's folder, with that folder."""


@contextmanager
def searching(folder: Path | None) -> Iterator[None]:
    """Let imports find installed packages and ``folder``, and nothing else.

    Modules of another party's folder are forgotten on entry, so that two parties in one
    process may each have a ``net.py``.
    """
    home = None if folder is None else folder.resolve()
    with _lock:
        _forget_all_but(home)
        before, known = list(sys.path), set(sys.modules)
        narrowed = _installed(before)
        sys.path[:] = narrowed if home is None else [*narrowed, str(home)]
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:] = before
            if home is not None:
                _own(home, set(sys.modules) - known)


def find(reference: str, *, folder: Path | None, error: type[UserError], what: str) -> object:
    """The object that ``reference`` names.

    Args:
        reference: ``package.module:Name``; the name may have dots.
        folder: that of the party's file, or None to search installed packages only.
        error: the class to raise, so that a bad model is a ModelError and bad data a DataError.
        what: what the reference is, for the message, such as ``"model factory"``.

    Raises:
        UserError: of class ``error``: no colon, no such module, a module that cannot be
            imported, no such name in it, a module that two places offer, or code of Python's
            own library.
    """
    module_name, colon, name = reference.partition(":")
    if not (colon and module_name and name):
        missing = "has no colon" if not colon else "is incomplete"
        raise error(
            f"{what} {reference!r} {missing}",
            'write "package.module:Name", such as "splitfed.models:ThreeLayerCNN"',
        )
    with searching(folder):
        _refuse_two_candidates(module_name, folder, error, f"{what} {reference!r}")
        _refuse_pythons_own(module_name, error, f"{what} {reference!r}")
        module = _module(module_name, folder, error, f"{what} {reference!r}")
    found: object = module
    for part in name.split("."):
        if part.startswith("__"):
            raise error(f"{what} {reference!r}: {part!r} is no name to call", "name the class")
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [n for n in dir(found) if n[0] != "_"])
            raise error(
                f"{what} {reference!r}: {module_name} ({_origin(module)}) has no {name!r}",
                f"did you mean {' or '.join(close)}?" if close else "check the name's spelling",
            )
        found = getattr(found, part)
        if isinstance(found, ModuleType):
            raise error(
                f"{what} {reference!r} leads into another module, {found.__name__}",
                f"name it where it is defined: {found.__name__}:Name",
            )
    if isinstance(found, type | FunctionType | BuiltinFunctionType | MethodType):
        _refuse_pythons_own(str(found.__module__), error, f"{what} {reference!r}")
    return found


def source(found: Any) -> str:
    """The file in which the code of ``found`` stands, for a person; "built in" where in none."""
    try:
        return inspect.getfile(inspect.unwrap(found))
    except (TypeError, OSError, ValueError):
        return "built in"


def is_of(found: object, folder: Path | None) -> bool:
    """Whether the code of ``found`` stands in ``folder``."""
    return folder is not None and is_inside(folder, Path(source(found)))


def _installed(path: list[str]) -> list[str]:
    """``path`` without the working directory, as far as it is there for no better reason than
    being it: ``python -m``, notebooks and an empty part of PYTHONPATH put it before Python's own
    library, a package that was installed from there comes after."""
    here = os.getcwd()
    own = sysconfig.get_path("stdlib")
    first = path.index(own) if own in path else 1
    return [
        entry
        for place, entry in enumerate(path)
        if entry != "" and (place >= first or entry not in (here, "."))
    ]


def _refuse_pythons_own(name: str, error: type[UserError], where: str) -> None:
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise error(
            f"{where}: {name} is part of Python itself, which holds no models and no images",
            "name a class or function of an installed package, or of a file beside the party's",
        )


def _module(name: str, folder: Path | None, error: type[UserError], where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as problem:  # importing runs foreign code: anything can come out of it
        absent = isinstance(problem, ModuleNotFoundError) and (
            problem.name == name or name.startswith(f"{problem.name}.")
        )
        if not absent:
            raise error(
                f"{where}: importing {name} fails: {type(problem).__name__}: {problem}",
                "mend that module, or install what it needs",
            ) from problem
        places = "no installed package" if folder is None else f"neither installed nor in {folder}"
        raise error(
            f"{where}: there is no module {name!r} ({places})",
            f"install its package, or put {name.partition('.')[0]}.py beside the party's file; "
            "the working directory is not searched",
        ) from None


def _refuse_two_candidates(
    name: str, folder: Path | None, error: type[UserError], where: str
) -> None:
    top = name.partition(".")[0]
    own = (
        [] if folder is None else [path for path in _files(folder.resolve(), top) if path.is_file()]
    )
    if not own:
        return
    loaded = sys.modules.get(top)
    spec = importlib.util.find_spec(top) if loaded is None else loaded.__spec__
    origin = "built in" if spec is None or spec.origin is None else spec.origin
    if Path(origin).resolve() not in own:
        raise error(
            f"{where}: {top!r} in {folder} has the name of another module ({origin})",
            "rename your file",
        )


def _files(home: Path, top: str) -> tuple[Path, Path]:
    return home / f"{top}.py", home / top / "__init__.py"


def _origin(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"


def _own(home: Path, new: set[str]) -> None:
    for top in {name.partition(".")[0] for name in new}:
        module = sys.modules.get(top)
        if module is not None and Path(_origin(module)).resolve() in _files(home, top):
            _owners[top] = home


def _forget_all_but(home: Path | None) -> None:
    strangers = {top for top, owner in _owners.items() if owner != home}
    for name in [name for name in sys.modules if name.partition(".")[0] in strangers]:
        del sys.modules[name]
    for top in strangers:
        del _owners[top]
