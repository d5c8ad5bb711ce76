"""Live values as parameters of flows that run in the same process."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")


class Handed(Generic[Value]):
    """A value that is handed to a flow of this process, which declares `validate_parameters=False`.

    Prefect records parameters as JSON and sends those of the surrounding flow along to Ray and Dask. It records the
    name of this class instead (not a dataclass, and no `__dict__`: `jsonable_encoder` would copy a plan of 60,000
    episodes field by field, for every shard), and another process gets an empty one.
    """

    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Handed[None]], tuple[None]]:
        return Handed, (None,)
