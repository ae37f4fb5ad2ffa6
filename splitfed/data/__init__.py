"""A party's images: where they come from and how a model sees them."""

from __future__ import annotations

from splitfed.data.images import ImageSet, data_digest, split_validation
from splitfed.data.preprocessing import Preprocessing
from splitfed.data.source import load

__all__ = ["ImageSet", "Preprocessing", "data_digest", "load", "split_validation"]
