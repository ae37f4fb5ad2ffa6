"""Build a model from what the agreement says: ``package.module:Class`` and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitfed import lookup
from splitfed.errors import ModelError, UserError
from splitfed.random import forked


def build(factory: str, arguments: Mapping[str, Any], *, folder: Path | None = None) -> nn.Module:
    """The module that ``factory(**arguments)`` gives.

    A function of an installed package is called only if it says that it returns a module
    (``-> nn.Module``): whoever wrote the agreement chose its arguments, and thousands of
    functions would do something else with them. None of torch itself is: what of it says so takes
    code as text and runs it. Functions in ``folder`` are the party's own.

    Args:
        factory: ``package.module:Class`` of an nn.Module, or of a function returning one.
        arguments: keyword arguments, as they stand in federation.toml.
        folder: that of the party's file: searched besides installed packages.

    Raises:
        ModelError: no such class, not an nn.Module, or arguments it does not take.
    """
    found = lookup.find(factory, folder=folder, error=ModelError, what="model factory")
    if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
        raise ModelError(
            f"model factory {factory!r} is {_described(found)}, not an nn.Module",
            "name a class that derives from torch.nn.Module",
        )
    own = isinstance(found, type) or lookup.is_of(found, folder)
    if not own and not _promises(found):
        raise ModelError(
            f"model factory {factory!r} does not say that it returns an nn.Module "
            f"({lookup.source(found)}); it was not called",
            "name a class that derives from torch.nn.Module, write -> nn.Module at the function, "
            "or put a function of your own beside the party's file",
        )
    if not own and lookup.is_of(found, Path(torch.__file__).parent):
        raise ModelError(
            f"model factory {factory!r} is a function of torch itself, of which some run text as "
            "code; it was not called",
            "name a class, or put a function of your own beside the party's file",
        )
    with lookup.searching(folder):
        model = _call(factory, found, arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model factory {factory!r} returned {_described(model)}, not an nn.Module",
            "return the module",
        )
    return model


def initialise(
    factory: str, arguments: Mapping[str, Any], seed: int, *, folder: Path | None = None
) -> nn.Module:
    """:func:`build` with initial values that follow from ``seed`` alone.

    Equal factories and arguments give equal values at every party; the process's own random
    generators are left as they were. A model that draws from numpy's or Python's global
    generators is not reached by this: initialise with torch.

    Raises:
        ModelError: as :func:`build`.
    """
    with forked(seed, "model"):
        return build(factory, arguments, folder=folder)


def _call(factory: str, found: Callable[..., object], arguments: Mapping[str, Any]) -> object:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some callables written in C have none
        signature = None
    shown = f"{factory}{signature}" if signature is not None else factory
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as problem:
            raise ModelError(
                f"model factory {factory!r} cannot be called with {dict(arguments)}: {problem}",
                f"it is {shown}",
            ) from None
    try:
        return found(**arguments)
    except UserError:
        raise
    except Exception as problem:  # a constructor is foreign code
        raise ModelError(
            f"model factory {factory!r} fails with {dict(arguments)}: "
            f"{type(problem).__name__}: {problem}",
            f"check the arguments: it is {shown}",
        ) from problem


def _promises(found: Callable[..., object]) -> bool:
    """Whether a callable is annotated to return a module."""
    try:
        said = inspect.signature(found, eval_str=True).return_annotation
    except Exception:  # no signature, or annotations that name what is not there
        return False
    return isinstance(said, type) and issubclass(said, nn.Module)


def _described(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
