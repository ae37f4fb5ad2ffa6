"""Somebody with all rights on a machine changes what a run folder says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from splitfed.store import LedgerEntry, RunFolder
from splitfed.store.ledger import chain, genesis
from splitfed.transport.keys import Secret

Rows = list[LedgerEntry]


def edit(path: Path, statement: str, *values: object) -> int:
    """One statement in the folder's database; returns how many rows it changed."""
    with closing(sqlite3.connect(path / "ledger.sqlite", isolation_level=None)) as connection:
        return connection.execute(statement, values).rowcount


def rewrite(path: Path, change: Callable[[Rows], Rows], secret: Secret | None = None) -> None:
    """Put other rows in the ledger's place: numbered through, with a chain and a stored head that
    fit, and signed anew if the secret key is at hand. Receipts stay with their rows."""
    with RunFolder.read_only(path) as view:
        rows, head, run = change(list(view.ledger.rows())), b"", view.run
        head = genesis(view.folder_id, view.party)
        party = view.party
    with closing(sqlite3.connect(path / "ledger.sqlite", isolation_level=None)) as connection:
        connection.execute("DELETE FROM ledger")
        connection.execute("DELETE FROM receipts")
        for number, entry in enumerate(rows, start=1):
            row, previous = entry.row, head
            head = chain(previous, number, entry.time, row)
            made = msgspec.structs.replace(entry, number=number, previous=previous, head=head)
            signature = entry.signature
            if secret is not None:
                assert run is not None
                signature = secret.sign(made.entry(run, party).message())
            connection.execute(
                f"INSERT INTO ledger VALUES ({', '.join('?' * 12)})",
                (
                    number, entry.time, row.release, row.round, row.kind,
                    msgspec.json.encode(row.tensors).decode(), row.root, row.size, row.epsilon,
                    previous, head, signature,
                ),
            )  # fmt: skip
            for receipt in entry.receipts:
                connection.execute("INSERT INTO receipts VALUES (?, ?, ?)", (number, *receipt))
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'ledger'",
            (msgspec.msgpack.encode((len(rows), head)),),
        )


def changed(number: int, **fields: object) -> Callable[[Rows], Rows]:
    """One row with other fields."""

    def change(rows: Rows) -> Rows:
        old = rows[number - 1]
        place = {name: fields[name] for name in fields if name in old.__struct_fields__}
        row = {name: value for name, value in fields.items() if name not in place}
        new = msgspec.structs.replace(old, row=msgspec.structs.replace(old.row, **row), **place)
        return [*rows[: number - 1], new, *rows[number:]]

    return change


def without(*numbers: int) -> Callable[[Rows], Rows]:
    """Some rows taken out."""
    return lambda rows: [row for row in rows if row.number not in numbers]


def swapped(one: int, other: int) -> Callable[[Rows], Rows]:
    """Two rows in each other's place."""

    def change(rows: Rows) -> Rows:
        rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]
        return rows

    return change
