"""The table in plain sentences: which split gives images away, and what the noise does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEAKS_DB, LEAKS_SSIM = 20.0, 0.3
"""A reconstruction this good shows what is on the image: at 20 dB the error is a tenth of the range
from black to white. No law: look at the pictures."""

CAVEAT = (
    "A better attack may find more: a low figure is no proof, only noise with its epsilon bounds "
    "every attack."
)
Row = Mapping[str, Any]


def leaks(row: Row) -> bool | None:
    """Whether the best reconstruction shows an image; None where it was not measured."""
    found = row["inversion"]
    if found is None:
        return None
    return any(map(recognisable, found["images"]))


def recognisable(likeness: Mapping[str, float]) -> bool:
    """Whether one reconstruction reaches both marks."""
    return likeness["psnr"] >= LEAKS_DB and likeness["ssim"] >= LEAKS_SSIM


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
    best = agreed["inversion"]["psnr"]
    if leaks(agreed):
        return (
            f"{text}; the agreed split ({agreed['split']}) is one of those: {best:.1f} dB at best."
        )
    return (
        f"{text}; the agreed split ({agreed['split']}) stayed below the mark of {LEAKS_DB:.0f} dB: "
        f"{best:.1f} dB at best. Look at the pictures: outlines can show below it."
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
