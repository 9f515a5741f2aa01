"""Reads the rows of a Parquet file piece by piece, and refuses one that unpacks to more than may be read."""

from collections.abc import Iterator
from typing import IO, Any

from pkedit.errors import PromptFileError, first_line

# Rows that are decoded together.
BATCH_ROWS = 1024
# What a row group may take once it is unpacked, and a batch once it is decoded.
LARGEST_GROUP = 512 << 20


def parquet_rows(name: str, stream: IO[bytes], *, most: int) -> Iterator[dict[str, Any]]:
    """The rows, in their order.

    Args:
        name: of the file, for messages.
        stream: the file.
        most: a file that says it has more rows is refused.

    Raises:
        PromptFileError: it is no Parquet file, damaged, or too large.
    """
    # Loaded only for a file that needs it: it takes longer than reading most prompt files.
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(stream)
        _check_size(name, file.metadata, most)
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            # Equal texts are stored once, so that little on disk may be much in memory.
            _check_unpacked(name, batch.nbytes)
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise PromptFileError(
            f"{name}: not a Parquet file that can be read ({first_line(error)}); save it anew, or as JSONL"
        ) from None


def _check_size(name: str, metadata: Any, most: int) -> None:
    """By what the file says of itself. A page is unpacked whole: a lie costs at most the 2 GiB that a page may have."""
    if metadata.num_rows > most:
        raise PromptFileError(f"{name}: {metadata.num_rows:,} rows, and more than {most:,} are not read; split it")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = sum(group.column(column).total_uncompressed_size for column in range(group.num_columns))
        _check_unpacked(name, max(columns, group.total_byte_size))


def _check_unpacked(name: str, size: int) -> None:
    if size > LARGEST_GROUP:
        raise PromptFileError(
            f"{name}: a part of it unpacks to {size / 2**20:,.0f} MiB, and more than {LARGEST_GROUP >> 20} MiB are not "
            "read at once; save it in smaller row groups, or as JSONL"
        )
