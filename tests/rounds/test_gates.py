"""The laws of the two gates: nothing leaves that the contract does not name, and every
party reaches the same verdict on what comes in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import torch

from splitfed.errors import Defect, UserError
from splitfed.rounds.checks import offer_fault, update_norm
from splitfed.rounds.gates import admit, release, shorten
from splitfed.rounds.spending import Unaccounted
from splitfed.rounds.terms import Terms, run_id
from splitfed.store import LedgerEntry
from splitfed.tensors import CHUNK_SIZE, describe, manifest_of, manifest_root, pack, unpack
from splitfed.transport.events import Offer
from splitfed.types import TensorSpec

RUN = b"r" * 32


class Outbox:
    """Remembers what was stored, in order."""

    def __init__(self) -> None:
        self.rows = []
        self.payloads = []

    def release(self, row, payload, manifest, *, debit, sign):
        debit()
        self.rows.append(row)
        self.payloads.append(payload)
        head = b"h" * 32
        return LedgerEntry(
            number=1, time=1.0, row=row, previous=bytes(32), head=head, signature=sign(1, head)
        )


class Signer:
    def sign(self, body: bytes) -> bytes:
        return b"s" * 64


def tensors(value: float = 0.0):
    return {
        "conv1.bias": torch.full((3,), value),
        "conv1.weight": torch.full((3, 2), value),
        "norm.count": torch.tensor(7),
    }


TERMS = Terms(
    contract=b"c" * 32,
    parties=("a", "b"),
    signing_keys={"a": "0" * 64, "b": "1" * 64},
    shared=describe(tensors()),
    rounds=4,
    max_update_norm=1.0,
    weights={"a": 1.0, "b": 1.0},
    minimum_parties=2,
)


def let_out(update, outbox, terms=TERMS, spending=None):
    return release(
        update,
        terms=terms,
        base=tensors(),
        run=RUN,
        round=2,
        party="a",
        signer=Signer(),
        outbox=outbox,
        spending=Unaccounted() if spending is None else spending,
    )


def offer_of(update, **changes) -> tuple[Offer, bytes]:
    payload = pack(update)
    manifest = manifest_of(payload, describe(update))
    fields = {
        "kind": "update", "run": RUN, "round": 2, "party": "b", "manifest": manifest,
        "signature": b"s" * 64, "number": 1, "head": b"h" * 32, "entry_signature": b"s" * 64,
    }  # fmt: skip
    return Offer(**{**fields, **changes}), payload


def verdict(update, *, terms=TERMS, **changes):
    offer, payload = offer_of(update, **changes)
    return admit(offer, payload, terms=terms, base=tensors(), run=RUN, round=2)


# --- out ---------------------------------------------------------------------------------


def test_what_leaves_is_stored_in_the_ledger_under_its_digest_before_it_can_be_sent():
    outbox = Outbox()
    out = let_out(tensors(0.1), outbox)
    assert outbox.payloads == [out.outgoing.payload]
    assert outbox.rows[0].root == out.outgoing.offer.manifest.root
    assert outbox.rows[0].tensors == TERMS.shared
    assert outbox.rows[0].size == TERMS.payload_bytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({"head.weight": torch.zeros(1)}), "head.weight is not in the contract"),
        (lambda t: t.pop("conv1.bias"), "conv1.bias is missing"),
        (lambda t: t.update({"conv1.bias": torch.zeros(4)}), "conv1.bias"),
        (lambda t: t.update({"conv1.bias": torch.zeros(3).double()}), "conv1.bias"),
    ],
)
def test_nothing_leaves_that_the_contract_does_not_name(change, says):
    outbox, update = Outbox(), tensors()
    change(update)
    with pytest.raises(Defect, match=says):
        let_out(update, outbox)
    assert outbox.rows == outbox.payloads == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_own_update_that_is_not_finite_never_leaves(value):
    outbox, update = Outbox(), tensors()
    update["conv1.weight"][1, 1] = value
    with pytest.raises(UserError, match=r"conv1\.weight of a is not finite"):
        let_out(update, outbox)
    assert outbox.rows == []


def test_an_own_update_beyond_the_bound_leaves_just_inside_it():
    out = let_out(tensors(5.0), Outbox())
    length = update_norm(out.tensors, tensors())
    assert 0.999 < length <= 1.0
    assert out.scaled == pytest.approx(1.0 / 15.0, rel=1e-6)
    assert unpack(out.outgoing.payload, TERMS.shared)["conv1.bias"].equal(out.tensors["conv1.bias"])
    own = admit(
        out.outgoing.offer, out.outgoing.payload, terms=TERMS, base=tensors(), run=RUN, round=2
    )
    assert own.reason is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [1e-3, 1.0, 777.0])
def test_shortening_ends_inside_the_bound_for_every_dtype(dtype, bound):
    base = {"w": torch.linspace(-1, 1, 501).to(dtype)}
    update = {"w": (base["w"].double() + 50).to(dtype)}
    moved, factor = shorten(update, base, bound)
    assert update_norm(moved, base) <= bound
    assert factor is not None or bound > update_norm(update, base)


def test_an_update_inside_the_bound_is_not_touched():
    update = tensors(0.1)
    moved, factor = shorten(update, tensors(), 1.0)
    assert factor is None
    assert all(moved[name] is update[name] for name in update)


# --- in ----------------------------------------------------------------------------------


def test_an_honest_update_is_admitted_with_its_values():
    admission = verdict(tensors(0.25))
    assert admission.reason is None
    assert admission.tensors is not None
    assert torch.equal(admission.tensors["conv1.weight"], torch.full((3, 2), 0.25))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run": b"x" * 32}, "another run"),
        ({"round": 3}, "round 3 instead of 2"),
        ({"round": 0}, "round 0, the first is 1"),
        ({"round": 5}, "round 5 instead of 2"),
        ({"party": "c"}, "party 'c' is not in the agreement"),
        ({"kind": "outputs"}, "kind 'outputs'"),
    ],
)
def test_an_update_that_belongs_elsewhere_is_excluded(changes, says):
    admission = verdict(tensors(), **changes)
    assert admission.tensors is None
    assert says in admission.reason


def other_shape():
    return {**tensors(), "conv1.bias": torch.zeros(4)}


def other_dtype():
    return {**tensors(), "conv1.bias": torch.zeros(3, dtype=torch.float64)}


def missing():
    return {name: value for name, value in tensors().items() if name != "norm.count"}


def extra():
    return {**tensors(), "zzz": torch.zeros(1)}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (other_shape, "conv1.bias is float32 [4], agreed is float32 [3]"),
        (other_dtype, "conv1.bias is float64 [3], agreed is float32 [3]"),
        (missing, "norm.count is missing"),
        (extra, "zzz is not in the contract"),
    ],
)
def test_other_tensors_than_agreed_are_refused_by_name(make, says):
    offer, _ = offer_of(make())
    assert says in (offer_fault(offer, terms=TERMS, run=RUN) or "")
    assert verdict(make()).tensors is None


def test_a_manifest_that_lies_about_its_size_is_refused_before_any_byte_is_pulled():
    offer, _ = offer_of(tensors())
    for change in (
        {"total": offer.manifest.total + 1},
        {"chunks": (*offer.manifest.chunks, b"x" * 32)},
        {"chunks": ()},
        {"chunk_size": CHUNK_SIZE * 4},
        {"tensors": (*TERMS.shared, TERMS.shared[-1])},
        {"tensors": TERMS.shared[::-1]},
    ):
        lie = msgspec.structs.replace(offer.manifest, **change)
        root = manifest_root(lie.tensors, lie.total, lie.chunk_size, lie.chunks)
        lie = msgspec.structs.replace(lie, root=root)
        assert offer_fault(msgspec.structs.replace(offer, manifest=lie), terms=TERMS, run=RUN)


def test_a_root_that_does_not_match_its_manifest_is_refused():
    offer, _ = offer_of(tensors())
    forged = msgspec.structs.replace(offer.manifest, root=b"x" * 32)
    fault = offer_fault(msgspec.structs.replace(offer, manifest=forged), terms=TERMS, run=RUN)
    assert fault == "a root that does not match its manifest"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_excluded_by_name(value):
    update = tensors()
    update["conv1.weight"][0, 0] = value
    assert verdict(update).reason == "tensor conv1.weight is not finite"


def test_the_norm_bound_is_exact_at_its_edge():
    bound = update_norm(tensors(0.3), tensors())
    at = dataclasses.replace(TERMS, max_update_norm=bound)
    below = dataclasses.replace(TERMS, max_update_norm=bound * (1 - 1e-15))
    assert verdict(tensors(0.3), terms=at).reason is None
    assert "above max_update_norm" in verdict(tensors(0.3), terms=below).reason


def test_an_integer_that_float64_cannot_hold_is_excluded():
    update = {**tensors(), "norm.count": torch.tensor(1 << 60)}
    assert "norm.count holds integers" in verdict(update).reason


def test_admit_is_a_pure_function():
    offer, payload = offer_of(tensors(0.2))
    base, before = tensors(), bytes(payload)
    first = admit(offer, payload, terms=TERMS, base=base, run=RUN, round=2)
    second = admit(offer, bytearray(payload), terms=TERMS, base=base, run=RUN, round=2)
    assert first.reason == second.reason
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert (bytes(payload), pack(base)) == (before, pack(tensors()))


def test_the_run_is_named_by_contract_and_all_folders():
    folders = {"a": b"1" * 16, "b": b"2" * 16}
    name = run_id(b"c" * 32, folders)
    assert name == run_id(b"c" * 32, dict(reversed(folders.items())))
    assert name != run_id(b"d" * 32, folders)
    assert name != run_id(b"c" * 32, {"a": b"2" * 16, "b": b"1" * 16})
    assert TensorSpec("x", (2, 3), "float32").nbytes == 24


def test_only_the_gate_makes_outgoing_payloads():
    root = Path(__file__).parents[2]
    makers = [
        str(path.relative_to(root))
        for folder in ("splitfed", "transport", "models")
        for path in sorted((root / folder).rglob("*.py"))
        if "Outgoing(" in path.read_text() and "class Outgoing" not in path.read_text()
    ]
    assert sorted({m.replace("splitfed/transport", "transport") for m in makers}) == [
        "splitfed/rounds/gates.py"
    ]
