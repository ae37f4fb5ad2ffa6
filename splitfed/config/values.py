"""Checked values that both files use: names, addresses, keys, factories, free arguments."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from splitfed.signatures import is_signing_key

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
NAME_RULE = 'letters, digits, "-" and "_", starting with a letter or digit, 63 at most'

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_Z85_DIGITS = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_Z85 = re.compile(f"[{re.escape(_Z85_DIGITS)}]{{40}}")
_EVERY_INTERFACE = ("*", "0.0.0.0", "::")


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``tcp://host:port``; an IPv6 host comes without its brackets.

    Raises:
        ValueError: another scheme, no host, no port, or more than host and port.
    """
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no endpoint: {error}") from None
    if parts.scheme != "tcp" or not parts.hostname or not port:
        raise ValueError("is no tcp://host:port")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("has more than host and port")
    if any(character.isspace() for character in endpoint):
        raise ValueError("has a space in it")
    return parts.hostname, port


def is_factory(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:Name``."""
    return _FACTORY.fullmatch(text) is not None


def _name(text: str) -> str:
    if NAME_PATTERN.fullmatch(text) is None:
        raise ValueError("is no name")
    return text


def _factory(text: str) -> str:
    if not is_factory(text):
        raise ValueError("is no package.module:Name")
    return text


def _curve_key(text: str) -> str:
    """40 characters of Z85 (ZeroMQ RFC 32): eight groups of five, each below 2^32."""
    if _Z85.fullmatch(text) is None:
        raise ValueError("is no Z85 key")
    for start in range(0, len(text), 5):
        group = 0
        for character in text[start : start + 5]:
            group = group * 85 + _Z85_DIGITS.index(character)
        if group >= 1 << 32:
            raise ValueError("is no Z85 key")
    return text


def _signing_key(text: str) -> str:
    if not is_signing_key(text):
        raise ValueError("is no hexadecimal key")
    return text


def _address(text: str) -> str:
    host, _ = split_endpoint(text)
    if host in _EVERY_INTERFACE:
        raise ValueError("cannot be dialed")
    return text


def _bind(text: str) -> str:
    split_endpoint(text)
    return text


def _plain(value: Any) -> Any:
    """Only what JSON can say: the contract is hashed over it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError("is not a finite number")
            return value
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("has a key that is no text")
            return {key: _plain(item) for key, item in value.items()}
    raise ValueError(f"is a {type(value).__name__}")


def _one_or_many(value: Any) -> Any:
    """``"*"`` is short for ``["*"]``."""
    return (value,) if isinstance(value, str) else value


def _pattern(text: str) -> str:
    if not text or any(character.isspace() for character in text):
        raise ValueError("is no pattern")
    return text


Name = Annotated[str, AfterValidator(_name)]
Factory = Annotated[str, AfterValidator(_factory)]
CurveKey = Annotated[str, AfterValidator(_curve_key)]
SigningKey = Annotated[str, AfterValidator(_signing_key)]
Address = Annotated[str, AfterValidator(_address)]
Bind = Annotated[str, AfterValidator(_bind)]
Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Patterns = Annotated[
    tuple[Pattern, ...], BeforeValidator(_one_or_many), Field(strict=False, min_length=1)
]
