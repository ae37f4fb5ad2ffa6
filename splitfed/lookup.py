"""Find what a ``package.module:Name`` reference of the agreement or of party.toml names.

Naming code in a file runs that code, so the search is narrow: installed packages and the
folder of the party's own file, nothing else. The working directory is not searched, and a
file in the folder never shadows an installed module: two candidates are an error.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from splitfed.errors import UserError

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
        # ``python -m`` and notebooks put the working directory first; console scripts do not.
        narrowed = before[1:] if before and before[0] in ("", os.getcwd()) else before
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
            imported, no such name in it, or a module that two places offer.
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
        module = _module(module_name, folder, error, f"{what} {reference!r}")
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [n for n in dir(found) if n[0] != "_"])
            raise error(
                f"{what} {reference!r}: {module_name} ({_origin(module)}) has no {name!r}",
                f"did you mean {' or '.join(close)}?" if close else "check the name's spelling",
            )
        found = getattr(found, part)
    return found


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
