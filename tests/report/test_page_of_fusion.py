from __future__ import annotations

import pytest

from splitfed.report import validate
from splitfed.report.page import combined_page, party_page
from splitfed.report.schema import validate_all
from tests.report.reading import Reader
from tests.support.reports import (
    fused_report,
    fusion_part,
    sample_report,
    score_row,
    unhelped_report,
)


def test_a_page_compares_all_five_models_and_says_what_fusion_did() -> None:
    text = Reader(party_page(validate(fused_report()))).text
    for expected in (
        "Federation helped you.", "the fused model is right 3.3", "Trained alone local_only",
        "Outputs shared, no layers outputs_only", "After fusion fused kept",
        "Beyond accuracy", "95.7 % (94.5 to 96.8)", "Balanced accuracy", "AUROC", "0.987",
        "an image of malignant gets a higher probability", "Calibration error", "0.031",
        "What fusion did", "39.1 KiB", "This party kept the fused model", "95.8 %",
        "about those images and no others", "reference images left for fusion.",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_fusion_that_did_not_help_is_as_prominent_as_one_that_did() -> None:
    page = party_page(validate(unhelped_report()))
    assert '<div class="verdict not-helped">' in page
    text = Reader(page).text
    for expected in (
        "Federation did not help you.",
        "This party kept the model trained alone",
        "Trained alone local_only kept",
        "The model that was saved is the one trained alone",
        "Trained alone, the model that was kept, on the 1,500 test images",
    ):
        assert expected in text, expected


@pytest.mark.parametrize("amount", [2, 3, 10, 12])
def test_a_page_names_every_class_in_the_table_and_in_both_margins(amount: int) -> None:
    names = tuple(f"kind {i:02}" for i in range(amount))
    page = party_page(validate(fused_report(classes=names)))
    for name in names:
        assert page.count(f'<th scope="row">{name}</th>') == 2
        assert page.count(f'<th scope="col"><span>{name}</span></th>') == 1
    assert ("AUROC" in page) == (amount == 2)


def test_of_many_classes_a_page_says_how_many_it_leaves_out() -> None:
    names = tuple(f"kind {i:02}" for i in range(15))
    text = Reader(party_page(validate(fused_report(classes=names)))).text
    assert "The 12 classes that were found least; 3 more are in report.json." in text
    assert "What is taken for what" not in text


def test_images_without_an_answer_are_told_beside_the_matrix() -> None:
    report = fused_report()
    report["evaluation"]["fused"]["confusion"][0][0] -= 1
    assert (
        "For 1 image the model gave no finite answer" in Reader(party_page(validate(report))).text
    )


def test_a_report_without_the_newer_figures_has_a_page_without_them() -> None:
    report = sample_report()
    report["evaluation"] |= {key: score_row(0.9) for key in ("local_only", "partial", "full")}
    text = Reader(party_page(validate(report))).text
    for absent in ("Beyond accuracy", "What fusion did", "Class by class", "AUROC"):
        assert absent not in text, absent
    assert "Test loss" in text


def test_private_layers_are_not_said_to_have_stayed_when_they_left_for_fusion() -> None:
    consenting = fused_report(method="average")
    refusing = fused_report("hospital-b", fusion=fusion_part("average", payload_bytes=0))
    left = Reader(party_page(validate(consenting))).text
    assert "No image and no label left. Private tensors left once, by consent" in left
    assert "Left once, for fusion (private): 4 tensors" in left
    stayed = Reader(party_page(validate(refusing))).text
    assert "No private tensor, no image and no label left." in stayed
    assert "Stayed (private): 4 tensors" in stayed
    reports = validate_all({"hospital-a": consenting, "hospital-b": refusing})
    combined = Reader(combined_page(reports, {})).text
    assert "for fusion: those of hospital-a." in combined
    assert "Left hospital-a once, for fusion (private)" in combined
    assert "Stayed at hospital-b (private)" in combined


def test_a_fusion_without_a_validation_figure_has_no_table_of_dashes() -> None:
    report = fused_report(fusion=fusion_part(validation=None))
    page = party_page(validate(report))
    assert "Own validation accuracy" not in page
    assert "This party kept the fused model." in Reader(page).text
    assert "there is no promise" in Reader(page).text
