"""Tensors as columns of Arrow tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

LAYOUTS = ("tensor", "nested")


def tensor_column(values: np.ndarray[Any, Any], layout: str = "tensor") -> Any:
    """Turn an array (N, …) into a column of N tensors, without a copy.

    *layout* is tensor, Arrow's fixed-shape tensors, or nested, lists of fixed size in each other.
    """
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    shape = values.shape[1:]
    if layout == "tensor":
        kind = pa.fixed_shape_tensor(flat.type, shape)
        size = int(np.prod(shape))
        storage = pa.FixedSizeListArray.from_arrays(flat, size)
        return pa.ExtensionArray.from_storage(kind, storage)
    column = flat
    for size in reversed(shape):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def tensor_values(column: Any) -> np.ndarray[Any, Any]:
    """Turn a column of either layout back into an array (N, …)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
    kind, shape = column.type, []
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = list(kind.shape)
        column = column.storage.flatten()
    else:
        while pa.types.is_fixed_size_list(column.type):
            shape.append(column.type.list_size)
            column = column.flatten()
    values: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return values.reshape(-1, *shape)


def with_columns(table: Any, columns: Mapping[str, Any], metadata: Mapping[str, str]) -> Any:
    """Add columns and metadata to a table; columns of more than one dimension become tensors."""
    for name, values in columns.items():
        column = tensor_column(values) if np.ndim(values) > 1 else pa.array(values)
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    encoded = {key.encode(): value.encode() for key, value in metadata.items()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **encoded})
