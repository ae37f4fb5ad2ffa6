"""Predictions from a bundle: offline, calibrated, and with their provenance.

``splitfed.load("runs/hospital-a").predict("scan.png")`` is all there is to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitfed.data import ImageSet
from splitfed.errors import ModelError
from splitfed.evaluation import predict
from splitfed.serve.bundle import Bundle, read_bundle
from splitfed.serve.calibration import tempered
from splitfed.serve.facts import Model
from splitfed.serve.images import Images, read_images


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the kept model says about one image.

    Attributes:
        image: its path, or its place in the array.
        label: the likeliest class, also where it abstains; None for a regression.
        probability: of that class, calibrated; None for a regression.
        probabilities: of every class by name, calibrated; None for a regression.
        value: the answer of a regression, a number or a list; None for a classification.
        abstained: True where the promised error rate does not cover this answer: treat it as
            no answer. Always False where the bundle has no calibration, which ``reason`` says.
        reason: why it abstained, or why nothing is promised; "" for a covered answer.
        agreement: whether the party's own model (the kept one; where the fused one is kept, the
            personal one) and the fused one choose the same class:
            ``{"answer": "agree" or "differ", "own": class, "fused": class}``; None where the
            bundle does not hold both.
        converted: the declared conversion that the image went through, or "".
        provenance: which model answered: party, peers, contract (hex), rounds, kept, verdict,
            privacy (mode), bundle (BLAKE3 of model.json, hex).
        promise: abstain_below (a probability), error_rate and images (validation) of the promise
            on answers that are not abstained from; None where there is none.
    """

    image: str | int
    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    value: float | list[float] | None
    abstained: bool
    reason: str
    agreement: dict[str, str] | None
    converted: str
    provenance: dict[str, Any]
    promise: dict[str, Any] | None = None

    def row(self) -> dict[str, Any]:
        """The prediction as ``splitfed predict --json`` states it."""
        return {
            "image": self.image,
            "class": self.label,
            "probability": self.probability,
            "abstained": self.abstained,
            "agreement": self.agreement,
            "provenance": self.provenance,
            "probabilities": self.probabilities,
            "value": self.value,
            "reason": self.reason,
            "converted": self.converted,
            "promise": self.promise,
        }


class Predictor:
    """A bundle's models in use. Nothing here trains, writes, or opens a socket.

    Args:
        bundle: as :func:`~splitfed.serve.read_bundle` gives it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        facts = bundle.facts
        self.provenance: dict[str, Any] = {
            "party": facts.party,
            "peers": list(facts.peers),
            "contract": facts.contract,
            "rounds": facts.rounds,
            "kept": facts.kept,
            "verdict": facts.verdict,
            "privacy": facts.privacy.mode,
            "bundle": bundle.digest,
        }

    def predict(self, images: Images) -> list[Prediction]:
        """Predictions for images, in their order; the same for the same images, always.

        Args:
            images: paths, an array or a tensor; see :func:`~splitfed.serve.read_images`,
                which refuses what training would have refused.

        Raises:
            DataError: naming every image that cannot be used; nothing was predicted.
            ModelError: an output that is not finite or not of the agreement's classes.
        """
        reading = read_images(images, self.bundle)
        outputs = self.outputs(reading.images)
        if not self.bundle.facts.classes:
            return [
                self._regressed(name, how, value)
                for name, how, value in zip(
                    reading.names, reading.converted, outputs.tolist(), strict=True
                )
            ]
        agreements = self._agreements(reading.images)
        return [
            self._classified(name, how, row, agreement)
            for name, how, row, agreement in zip(
                reading.names, reading.converted, outputs, agreements, strict=True
            )
        ]

    def outputs(self, images: ImageSet, model: Model | None = None) -> Tensor:
        """The answers of one model to an :class:`~splitfed.data.ImageSet`.

        Args:
            images: N of them, as :func:`~splitfed.serve.read_images` gives them.
            model: a key of the bundle's ``models``; None: the kept one.

        Returns:
            [N, K] float64 probabilities, calibrated for the kept model and plain for others;
            for a regression the values, [N] or [N, K] float64.

        Raises:
            ModelError: outputs that are not finite or have another number of classes.
        """
        facts = self.bundle.facts
        kept = model is None or model == facts.kept
        members = self.bundle.models[facts.kept if model is None else model]
        found = []
        for module in members:
            loss: Any = "cross_entropy" if facts.classes else "mse"
            said = predict(module, images, loss=loss, classes=len(facts.classes) or None)
            part = said.values if said.probabilities is None else said.probabilities
            assert part is not None  # one of the two is there
            found.append(part)
        mean = torch.stack(found).mean(dim=0)
        unfit = ~torch.isfinite(mean.reshape(len(mean), -1)).all(dim=1)
        if bool(unfit.any()):
            raise ModelError(
                f"the model's answer to image {int(unfit.nonzero()[0])} is not finite",
                "its values overflow on this image: check that it resembles the training images",
            )
        if facts.classes and facts.calibration is not None and kept:
            return tempered(mean, facts.calibration.temperature)
        return mean

    def _agreements(self, images: ImageSet) -> list[dict[str, str] | None]:
        models, names = self.bundle.models, self.bundle.facts.classes
        kept = self.bundle.facts.kept
        compared: tuple[Model, Model] = ("partial" if kept == "fused" else kept, "fused")
        if not set(compared) <= models.keys():
            return [None] * len(images)
        try:
            own, fused = (
                [names[place] for place in self.outputs(images, model).argmax(dim=1).tolist()]
                for model in compared
            )
        except ModelError:  # the one that does not answer: it must not take the answer away
            return [None] * len(images)
        return [
            {"answer": "agree" if one == other else "differ", "own": one, "fused": other}
            for one, other in zip(own, fused, strict=True)
        ]

    def _classified(
        self, name: str | int, converted: str, row: Tensor, agreement: dict[str, str] | None
    ) -> Prediction:
        classes = self.bundle.facts.classes
        place = int(row.argmax())
        probability = float(row[place])
        abstained, reason = self._abstains(probability)
        return Prediction(
            image=name,
            label=classes[place],
            probability=probability,
            probabilities=dict(zip(classes, row.tolist(), strict=True)),
            value=None,
            abstained=abstained,
            reason=reason,
            agreement=agreement,
            converted=converted,
            provenance=self.provenance,
            promise=self._promise,
        )

    @property
    def _promise(self) -> dict[str, Any] | None:
        found = self.bundle.facts.calibration
        if found is None or found.abstain_below is None:
            return None
        return {
            "abstain_below": found.abstain_below,
            "error_rate": found.error_rate,
            "images": found.images,
        }

    def _regressed(self, name: str | int, converted: str, value: Any) -> Prediction:
        return Prediction(
            image=name,
            label=None,
            probability=None,
            probabilities=None,
            value=value,
            abstained=False,
            reason="",
            agreement=None,
            converted=converted,
            provenance=self.provenance,
        )

    def _abstains(self, probability: float) -> tuple[bool, str]:
        found = self.bundle.facts.calibration
        if found is None:
            return False, "not calibrated: no error rate is promised"
        if found.abstain_below is None:
            return True, (
                f"no probability is high enough: {found.images} validation images cannot "
                f"promise {found.error_rate:.1%} errors at most"
            )
        if probability < found.abstain_below:
            return True, f"probability {probability:.3f} is below {found.abstain_below:.3f}"
        return False, ""


def load(path: Path | str, code: Path | str | None = None) -> Predictor:
    """Load the finished model in a run folder, ready to predict; also ``splitfed.load``.

    Building the model runs the code that its ``factory`` names, from this machine and never
    from the bundle; see :func:`~splitfed.serve.read_bundle`.

    Args:
        path: the run folder, such as ``runs/hospital-a``.
        code: folder of code that is searched besides installed packages, for a bundle that does
            not lie in the folder of its party.

    Raises:
        FolderError, ModelError: the bundle is missing, damaged, or its model cannot be built.
    """
    return Predictor(read_bundle(path, code))
