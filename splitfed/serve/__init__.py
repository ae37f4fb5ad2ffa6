"""A finished model in use: the bundle in the run folder, and predictions from it."""

from __future__ import annotations

from splitfed.serve.bundle import Bundle, check_files, read_bundle, write_bundle
from splitfed.serve.calibration import (
    Calibration,
    abstention,
    calibrate,
    fit_temperature,
    tempered,
    upper_bound,
)
from splitfed.serve.images import read_images
from splitfed.serve.predictor import Prediction, Predictor, load

__all__ = [
    "Bundle",
    "Calibration",
    "Prediction",
    "Predictor",
    "abstention",
    "calibrate",
    "check_files",
    "fit_temperature",
    "load",
    "read_bundle",
    "read_images",
    "tempered",
    "upper_bound",
    "write_bundle",
]
