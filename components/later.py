"""Fields that a record was given later: where they say nothing, it is written as it ever was."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class LaterFields(BaseModel):
    """Base of a record that leaves out, when it is written, the later fields that have their default.

    So the digests of studies that do not use them stay what they were, and an older end reads what a newer one says.

    Attributes:
        later: Names of those fields.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_ever(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write it."""
        fields = type(self).model_fields
        unused = {
            name for name in self.later if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return {key: value for key, value in write(self).items() if key not in unused}
