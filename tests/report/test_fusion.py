from __future__ import annotations

from typing import Any

import pytest

from splitfed.report import fusion, sentences, validate, verdict_sentence, words
from splitfed.report.schema import Report, validate_all
from tests.support.reports import (
    fused_both,
    fused_report,
    fusion_part,
    private_report,
    sample_report,
    unhelped_report,
)


def fused(method: str = "distill", **changes: Any) -> Report:
    return validate(fused_report(method=method, fusion=fusion_part(method, **changes)))


def privately(mode: str = "dp-frozen", method: str = "distill", **changes: Any) -> Report:
    return validate(private_report(mode=mode, fusion=fusion_part(method, **changes)))


@pytest.mark.parametrize(
    ("method", "meaning"),
    [
        (
            "distill",
            "own model after learning from all parties' averaged outputs on the reference images",
        ),
        ("average", "private layers of all parties matched and averaged"),
        ("ensemble", "predictions of all parties' models averaged"),
    ],
)
def test_the_fused_model_means_what_its_method_made(method: str, meaning: str) -> None:
    assert words.meaning(fused(method), "fused") == meaning


def test_under_noise_the_personal_model_learnt_and_the_release_is_called_noised() -> None:
    assert words.meaning(privately(epsilon=0.5), "fused") == (
        "personal model after learning from all parties' averaged outputs on the reference "
        "images, released with noise"
    )
    for epsilon in (None, 0.0):
        assert "with noise" not in words.meaning(privately(epsilon=epsilon), "fused")
    assert words.meaning(privately("party-update"), "fused").startswith("own model after")


def test_references_are_without_noise_only_where_there_is_noise_to_leave_out() -> None:
    quiet = "reference: local models, nothing shared but outputs"
    assert words.meaning(fused(), "outputs_only") == quiet
    assert words.meaning(privately(), "outputs_only") == f"{quiet}, without noise"


def test_what_was_exchanged_is_told_with_its_size_and_whose_it_was() -> None:
    assert fusion.told(fused()) == [
        "After the last round every party's model learnt from the averaged outputs of all parties' "
        "models on the reference images.",
        "Exchanged were class probabilities, one row for each of the 1,000 public reference "
        "images, which have no labels. No image, no label and no layer left for it. They came from "
        "hospital-a and hospital-b.",
        "This party released 39.1 KiB for it. No noise was added: nothing bounds what the others "
        "can learn from it about single training images.",
    ]


@pytest.mark.parametrize("method", ["average", "ensemble"])
def test_private_layers_leave_by_consent_and_for_good(method: str) -> None:
    said = " ".join(fusion.told(fused(method)))
    assert "by each party's own consent ([fusion] release_private in party.toml)" in said
    assert "whoever received them can keep it" in said
    assert "166.8 KiB" in said
    assert "No image, no label and no layer" not in said


@pytest.mark.parametrize(
    ("epsilon", "said"),
    [
        (0.5012, "It was released with noise and spent ε = 0.51 on its own, a part of the total."),
        (0.0, "It spent no ε of its own: it follows from layers that were trained with noise."),
        (None, "Its ε was not recorded."),
    ],
)
def test_the_epsilon_of_fusion_alone_is_never_rounded_down_or_made_up(
    epsilon: float | None, said: str
) -> None:
    assert fusion.told(privately(epsilon=epsilon))[-1].endswith(said)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            "void",
            "was void: what was released for it was refused.",
        ),
        ("not reached", "was not reached: the run ended before it."),
        ("none", "did not take place."),
    ],
)
def test_a_fusion_that_failed_is_told_as_plainly(outcome: str, said: str) -> None:
    nothing = fused(outcome=outcome, payload_bytes=0, parties=[], kept="partial")
    assert fusion.told(nothing) == [
        f"Fusion by distillation was agreed, but it {said} There is no fused model.",
        "This party released nothing for it.",
    ]


def test_what_left_for_a_void_fusion_is_told_all_the_same() -> None:
    lines = fusion.told(fused("average", outcome="void", parties=["hospital-a"]))
    assert "by each party's own consent" in lines[1]
    assert lines[1].endswith("They came from hospital-a.")


def test_what_noised_layers_say_is_covered_by_their_own_noise() -> None:
    said = " ".join(fusion.told(privately("dp-all", "ensemble")))
    assert "Exchanged were private layers of the noised model" in said
    assert "With the shared layers they are that model" in said
    assert "It spent no ε of its own: it follows from layers that were trained" in said


def test_without_an_agreed_fusion_nothing_is_told() -> None:
    none = fusion_part("none", outcome="none", kind=None, payload_bytes=None, validation=None)
    for report in (sample_report(), sample_report(fusion=none)):
        checked = validate(report)
        assert fusion.told(checked) == fusion.choices(checked) == []
        assert fusion.promises({"hospital-a": checked}) == []
        assert fusion.left({"hospital-a": checked}) == ((), ())
    assert words.meaning(validate(sample_report(fusion=none)), "fused") == "no fusion was agreed"


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, True),
        ({"payload_bytes": 0}, False),
        ({"payload_bytes": None}, True),  # nobody counted, so nobody may say that they stayed
        ({"payload_bytes": None, "outcome": "not reached"}, False),
        ({"payload_bytes": 9, "outcome": "void"}, True),
    ],
)
def test_layers_count_as_left_unless_they_are_known_to_have_stayed(
    changes: dict[str, Any], left: bool
) -> None:
    found = fusion.left({"hospital-a": fused("average", **changes)})
    assert found == ((), ("hospital-a",) if left else ())


def test_outputs_that_left_are_no_layers() -> None:
    assert fusion.left(validate_all(fused_both())) == (("hospital-a", "hospital-b"), ())


def test_the_kept_model_is_named_with_the_figures_that_decided() -> None:
    assert fusion.kept_line(fused()) == (
        "Kept: the fused model (own validation images: trained alone 92.1 %, shared layers "
        "averaged 94.3 %, after fusion 95.8 %)."
    )
    unknown = {"local_only": None, "partial": None, "fused": None}
    assert fusion.kept_line(fused(validation=unknown)) == "Kept: the fused model."
    assert fusion.kept_line(validate(sample_report(kept="local_only"))) == (
        "Kept: the model trained alone."
    )
    assert fusion.kept_line(validate(sample_report())) == ""
    alone = validate(fused_report(fusion=fusion_part(kept="local_only"), kept="local_only"))
    assert fusion.kept_line(alone).endswith(
        "after fusion 95.8 %); no other is better there by more than one standard error."
    )


def test_the_promise_is_about_the_own_validation_images_only() -> None:
    (said,) = fusion.promises(validate_all(fused_both()))
    assert "about those images and no others" in said
    assert "can still be worse" in said


def test_a_model_that_nobody_judged_has_no_promise() -> None:
    unjudged = {"local_only": 0.9, "partial": 0.9, "fused": None}
    (said,) = fusion.promises({"hospital-a": fused(validation=unjudged)})
    assert "there is no promise" in said


def test_the_verdict_on_a_fused_model_is_as_plain_when_it_did_not_help() -> None:
    helped, unhelped = fused(), validate(unhelped_report())
    assert verdict_sentence(helped).startswith("Federation helped you. On hospital-a's own 1,500")
    assert verdict_sentence(unhelped) == (
        "Federation did not help you. On hospital-b's own 1,500 test images the fused model is "
        "right 1.1 percentage points less often than the model trained alone (95 % interval of the "
        "difference: −2.0 to −0.2)."
    )
    assert sentences.verdict(unhelped).kind == "not-helped"


def test_which_model_was_saved_is_said_where_fusion_did_not_make_it() -> None:
    said = sentences.ending(validate(fused_report(kept="partial")))
    assert said.startswith("The model that was saved is the federated model, not the fused one")
    assert sentences.ending(validate(unhelped_report())).startswith(
        "The model that was saved is the one trained alone"
    )
    assert sentences.ending(fused()) == ""
