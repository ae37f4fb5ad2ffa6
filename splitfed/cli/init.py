"""``splitfed init``: a party's folder, founding an agreement or joining one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.output import say
from splitfed.errors import ConfigError, Fault

if TYPE_CHECKING:
    from splitfed.config import FederationConfig
    from splitfed.founding import Founded

DEFAULT_FACTORY = "splitfed.models:ThreeLayerCNN"
LINE = "command line"


def init(
    folder: Annotated[
        Path, typer.Argument(help="The folder to make; party.toml and the keys go into it.")
    ] = Path("."),
    join: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Join the agreement in FILE, which another party sent you. Without it you "
            "begin a new agreement.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new agreement, such as chest-xray.")
    ] = None,
    party: Annotated[
        str | None, typer.Option(help="Your name in the agreement, such as hospital-a.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Where the others can reach you, such as tcp://hospital-a.example:7001. Of any "
            "two parties one is enough: a single party may leave it out, behind a firewall."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your images: a folder with train/, validation/ and test/, each with one "
            "folder a class; or npz:PATH, torchvision:NAME, digits:KEY=VALUE&..., or "
            "package.module:function."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Unlabelled images that every party holds, such as folder:reference: models are "
            "fused by their outputs on them.",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="distill (the default with --reference), average or ensemble (private layers "
            "leave by consent), or none.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Class names in the order to agree on: benign,malignant."),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(help="The model: package.module:Class. Its code runs on every side."),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(help="Further arguments of the model in TOML: 'activation = \"tanh\"'."),
    ] = None,
    shared: Annotated[
        str | None,
        typer.Option(help="Layers to share: conv1,conv2. Default: what the model declares."),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            help="fedper (the default), fedavg, fedrep, fedbabu, fedbn or lg-fedavg: what travels "
            "and which layers train when.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Number of rounds. Default: 10.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Public seed of the initial shared layers. Default: 1.", show_default=False
        ),
    ] = None,
    privacy: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="What protects your images: dp-frozen (the default), dp-all, party-update, or "
            "none (NO PRIVACY GUARANTEE).",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Privacy spent by all that is sent. Default: 8.", show_default=False),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Well below 1 / number of images. Default: 1e-5 or less.", show_default=False
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="1 for grey images (the default), 3 for colour.", show_default=False),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Size of an image in pixels. Default: 28x28.", show_default=False
        ),
    ] = None,
    records: Annotated[
        int | None,
        typer.Option(help="Public number of training images. Default: counted by reading them."),
    ] = None,
    acceptance: Annotated[
        bool,
        typer.Option(
            "--acceptance/--no-acceptance",
            help="Also train a model on your images alone, so that the report can say whether the "
            "federation helped you: twice the training.",
        ),
    ] = False,
    bind: Annotated[
        str | None,
        typer.Option(help="Where to listen if not at --address, such as tcp://0.0.0.0:7001."),
    ] = None,
) -> int:
    """Make a party's folder: new keys, party.toml, and a federation.toml begun or joined.

    The first party runs `splitfed init` and sends its federation.toml to the next, who runs
    `splitfed init --join federation.toml` and sends the completed file on to the third, and so
    on; the last one's file goes back to all. The secret keys (secret.json, readable by you
    alone) never leave the folder. Whatever is not given as a flag is asked for in a terminal.
    """
    from splitfed import founding

    party = _asked(party, "Your name in the agreement")
    if join is None:
        name = _asked(name, "Name of the agreement")
        factory = _asked(factory, "Model", default=DEFAULT_FACTORY)
    if address is None and sys.stdin.isatty():
        question = "Address others can reach you at, tcp://host:port (empty: you dial them)"
        address = typer.prompt(question, default="", show_default=False) or None
    data = _asked(data, "Your images (a folder, or a source such as npz:PATH)")
    _all_given(party=party, data=data, **({} if join else {"name": name}))
    if join is not None:
        agreed = {
            "name": name, "classes": classes, "factory": factory, "arguments": arguments,
            "shared": shared, "rounds": rounds, "seed": seed, "channels": channels, "size": size,
            "privacy": privacy, "epsilon": epsilon, "delta": delta, "fusion": fusion,
            "algorithm": algorithm,
        }  # fmt: skip
        _not_mine(**agreed)

    sources = founding.sources_of(str(data), folder, reference)
    newcomer = founding.Newcomer(
        party=str(party),
        address=address,
        records=records,
        sources=sources,
        bind=bind,
        acceptance=acceptance,
    )
    if join is not None:
        _tell_joined(founding.join(folder, join, newcomer), newcomer.party)
        return 0
    proposal = founding.Proposal(
        name=str(name),
        classes=_listed(classes) or _proposed_classes(sources, folder),
        factory=str(factory),
        arguments=_toml_table(arguments),
        shared=_listed(shared) or None,
        rounds=10 if rounds is None else rounds,
        seed=1 if seed is None else seed,
        channels=1 if channels is None else channels,
        size=_size(size or "28x28"),
        privacy=privacy or "dp-frozen",
        epsilon=epsilon,
        delta=delta,
        fusion=fusion,
        algorithm=algorithm or "fedper",
    )
    _tell_founded(founding.found(folder, proposal, newcomer), newcomer.party)
    return 0


def _asked(value: str | None, question: str, default: str | None = None) -> str | None:
    """The flag's value; asked for in a terminal; else the default, which may be None."""
    if value is not None or not sys.stdin.isatty():
        return default if value is None else value
    answer: str = typer.prompt(question, default=default)
    return answer


def _all_given(**values: str | None) -> None:
    wanted = {
        "party": "give your name in the agreement, such as --party hospital-a",
        "name": "give the new agreement a name, such as --name chest-xray, or --join FILE",
        "data": "name your images, such as --data /data/xray",
    }
    missing = [
        Fault(LINE, f"--{flag}", "", f"missing; {wanted[flag]}")
        for flag, value in values.items()
        if not value
    ]
    if missing:
        raise ConfigError(missing)


def _not_mine(**values: object) -> None:
    given = [
        Fault(LINE, f"--{flag}", str(value), "the agreement that you join says this; drop the flag")
        for flag, value in values.items()
        if value is not None
    ]
    if given:
        raise ConfigError(given)


def _proposed_classes(sources: Any, folder: Path) -> tuple[str, ...]:
    from splitfed.founding import classes_of

    found = classes_of(sources, folder)
    if not found and sys.stdin.isatty():
        found = _listed(typer.prompt("Classes in their order, comma between them"))
    if not found:
        cure = "missing; this source does not show its classes: --classes benign,malignant"
        raise ConfigError([Fault(LINE, "--classes", "", cure)])
    return found


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        cure = "should be height x width in pixels, such as 28x28"
        raise ConfigError([Fault(LINE, "--size", text, cure)]) from None
    return height, width


def _toml_table(text: str | None) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads((text or "").replace(";", "\n"))
    except tomllib.TOMLDecodeError as error:
        cure = f"should be TOML, such as 'activation = \"tanh\"; widths = [16, 32, 32]' ({error})"
        raise ConfigError([Fault(LINE, "--arguments", text or "", cure)]) from None


def _privacy_line(agreement: FederationConfig) -> str:
    """The agreed privacy in short: how much noise it takes is for `plan` to compute."""
    from splitfed.config import NO_PRIVACY, NO_PRIVACY_FUSED, NO_PRIVACY_OUTPUTS

    agreed = agreement.privacy
    if agreed.mode == "none":
        method = agreement.fusion.method
        return {"none": NO_PRIVACY, "distill": NO_PRIVACY_OUTPUTS}.get(method, NO_PRIVACY_FUSED)
    costs = (
        f"sigma = {agreed.noise_multiplier:g}"
        if agreed.epsilon is None
        else f"epsilon = {agreed.epsilon:g}"
    )
    return (
        f"privacy: {agreed.mode}, {costs} for each {agreed.unit}, delta = {agreed.delta:g} "
        "(`splitfed plan` prints what that promises, and what not)"
    )


def _fusion_line(agreement: FederationConfig) -> str:
    fusion = agreement.fusion
    if fusion.method == "none":
        return "fusion: none (--reference SOURCE names unlabelled images to fuse the models by)"
    on = "" if fusion.reference is None else f" on {fusion.reference.size} reference images"
    consent = ""
    if fusion.method in ("average", "ensemble"):
        consent = "; private layers leave: needs [fusion] release_private = true in party.toml"
    return f"fusion: {fusion.method}{on}, after the last round{consent}"


def _tell_founded(made: Founded, party: str) -> None:
    agreement = made.federation
    say(
        f"made {made.secret_file}  (secret: never copy or send it)",
        f"made {made.party_file}",
        f"made {made.federation_file}",
        "",
        f"{agreement.name}: {agreement.rounds} rounds of {agreement.model.factory}, sharing "
        f"{', '.join(agreement.model.shared or ('as ' + agreement.algorithm + ' says',))}; "
        f"classes {', '.join(agreement.classes)}; "
        f"{agreement.parties[party].records} training images",
        f"max_update_norm = {agreement.aggregation.max_update_norm:g} (from the initial layers)",
        _privacy_line(agreement),
        _fusion_line(agreement),
        "",
        "next:",
        f"  1. read {made.federation_file} and change what should be different",
        "  2. send it to the next party, who runs: splitfed init --join federation.toml",
        "     and so on, one after the other: each adds its block to the file of the one before",
        f"  3. put the file that the last one sends back in its place, {made.federation_file}",
        f"  4. splitfed keys show {made.party_file}    and compare the fingerprints by telephone",
        f"  5. splitfed plan {made.party_file}    then    splitfed run {made.party_file}",
    )


def _tell_joined(made: Founded, party: str) -> None:
    agreement = made.federation
    others = ", ".join(sorted(set(agreement.parties) - {party}))
    say(
        f"made {made.secret_file}  (secret: never copy or send it)",
        f"made {made.party_file}",
        f"completed {made.federation_file}",
        "",
        f"you joined {agreement.name} with {others}: {agreement.rounds} rounds of "
        f"{agreement.model.factory}; {agreement.parties[party].records} training images of "
        "your own",
        _privacy_line(agreement),
        _fusion_line(agreement),
        "",
        "next:",
        f"  1. send this file back to {others}: {made.federation_file}",
        "     or, where more parties join, on to the next; the last one sends it back to all",
        f"  2. splitfed keys show {made.party_file}    and compare the fingerprints by telephone",
        f"  3. splitfed plan {made.party_file}    (loads {agreement.model.factory}: code that "
        f"{others} chose)",
        f"  4. splitfed run {made.party_file}",
    )
    if len(agreement.parties) > 2:
        say(
            "",
            "note: of three and more, the others go on without one that is away if all set "
            "[link] patience in party.toml; 0, as made here, waits for ever",
        )
    hidden = [name for name, entry in sorted(agreement.parties.items()) if not entry.address]
    if len(hidden) > 1:
        say(
            "",
            f"note: {', '.join(hidden)} have no address and cannot dial each other; all of them "
            "but one must add address = ... to their blocks",
        )
