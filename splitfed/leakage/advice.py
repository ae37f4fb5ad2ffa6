"""The table in plain sentences: which split gives images away, and what the noise does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CLEAR = 0.5
"""Correlation from which a reconstruction shows what is on the image, if it is also nearest to its
own image among all of its class. No law: look at the pictures."""

CAVEAT = (
    "Look at the pictures. A better attack may find more: a low figure is no proof, only noise "
    "with its epsilon bounds every attack."
)
Row = Mapping[str, Any]


def leaks(row: Row) -> bool | None:
    """Whether the best reconstruction shows an image; None where it was not measured."""
    found = row["inversion"]
    if found is None:
        return None
    return any(map(recognisable, found["images"]))


def recognisable(image: Mapping[str, Any]) -> bool:
    """Whether one reconstruction is of this image and no other: whoever has the images finds it.
    (An identification as of Yin et al. 2021, "See through gradients".)"""
    return bool(image["identified"] and image["correlation"] >= CLEAR)


def recognised(row: Row) -> str:
    """How many of the attacked images are: "2 of 3"."""
    images = row["inversion"]["images"]
    return f"{sum(map(recognisable, images))} of {len(images)}"


def tells_members(row: Row) -> bool | None:
    """Whether members are told from others: the whole interval lies above one half."""
    found = row["membership"]
    return None if found is None else bool(found["low"] > 0.5)


def advice(rows: Sequence[Row], mode: str) -> list[str]:
    """Sentences for a person: on pictures, on membership, on noise, and what none of it proves."""
    plain = [row for row in rows if row["mode"] == "none"]
    told = [_on_splits(plain), _on_members(plain)]
    if mode == "none":
        told.append("The agreement adds no noise, so what noise would do was not measured.")
    else:
        told.append(_on_noise([row for row in rows if row["mode"] != "none"], mode))
    return [*filter(None, told), CAVEAT]


def _on_splits(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row["inversion"] is not None]
    if not measured:
        return ""
    bad = [row["split"] for row in measured if leaks(row)]
    agreed = next((row for row in measured if row["agreed"]), None)
    if not bad:
        text = "Without noise no split that was tried gave back a recognisable image"
    else:
        text = f"Without noise, sharing {_listed(bad)} gave back a recognisable image"
    if agreed is None:
        return f"{text}."
    how = "is one of those" if leaks(agreed) else "did not" if bad else "is among them"
    return (
        f"{text}; the agreed split ({agreed['split']}) {how} ({recognised(agreed)} images, "
        f"{agreed['inversion']['psnr']:.1f} dB at best)."
    )


def _on_members(rows: Sequence[Row]) -> str:
    measured = [row for row in rows if row["membership"] is not None]
    if not measured:
        return ""
    bad = [row["split"] for row in measured if tells_members(row)]
    if not bad:
        return (
            "Without noise members could not be told from other images by their loss under any "
            "split."
        )
    worst = max(measured, key=lambda row: float(row["membership"]["auc"]))
    return (
        f"Without noise members can be told from other images better than by chance when "
        f"{_listed(bad)} {'is' if len(bad) == 1 else 'are'} shared: AUC "
        f"{worst['membership']['auc']:.2f} at most, 0.5 is chance."
    )


def _on_noise(rows: Sequence[Row], mode: str) -> str:
    pictures = [row["split"] for row in rows if leaks(row)]
    members = [row["split"] for row in rows if tells_members(row)]
    measured = [row for row in rows if row["inversion"] is not None]
    if not measured:
        return f'The noise of mode "{mode}" could not be measured: {rows[0]["refused"]}'
    best = max(float(row["inversion"]["psnr"]) for row in measured)
    first = (
        f'With the noise of mode "{mode}", {_listed(pictures)} still gave back a recognisable image'
        if pictures
        else f'With the noise of mode "{mode}" no split gave back a recognisable image'
    )
    second = (
        f"members are still told apart under {_listed(members)}"
        if members
        else "members were not told apart"
    )
    return f"{first} ({best:.1f} dB at best), and {second}."


def _listed(names: Sequence[str]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
