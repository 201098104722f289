"""Slots as rows of the gateway's tables, each of which has a slot's five columns for its key."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_

from components.gateway.records import SlotKey


def of_slot(table: Table, slot: SlotKey) -> ColumnElement[bool]:
    """Return the condition that finds a slot's row."""
    return and_(*(table.c[name] == getattr(slot, name) for name in SlotKey.model_fields))


def slot_in(row: Row[Any]) -> SlotKey:
    """Return the slot of a row."""
    return SlotKey(**{name: row._mapping[name] for name in SlotKey.model_fields})
