"""The limits of what is read from files, in one table.

Whatever is larger is refused, in one sentence, before it is built. Together they keep the cost of
reading a file of n bytes at 256 MB + 4 n of memory, and in time proportional to n.
"""

MIB = 1 << 20

# Pickles: checkpoints, LoRAs and textual inversions that torch.save wrote.
MAX_PICKLE_BYTES = 32 * MIB
"""The pickle of a full SD2 checkpoint, without its tensors, has about 200 kB. Text may take four
bytes for each of the file."""
MAX_OPERATIONS = 1_000_000
"""A full SD2 checkpoint has about 40,000. One byte may make a container of 64 bytes."""
MAX_DEPTH = 50
"""Of dicts and lists in which tensors are looked for."""
MAX_ITEMS = 200_000
"""Values in all dicts and lists; a container counts as often as it is used."""
MAX_DIMENSIONS = 64
"""torch's own limit."""

# Tensors of small files, which are copied.
MAX_LOADED_BYTES = 1 << 30
"""Of all tensors, far above any textual inversion."""
MAX_REPEATED_BYTES = 64 * MIB
"""By which they may be larger than their file: tensors that repeat or compress their values."""
MAX_VECTORS = 10_000
"""Of a textual inversion, which has 1 to 75; a chunk takes 75 of them."""

# Headers of safetensors files, and JSON beside models.
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit, by which such files are recognised."""
MAX_HEADER_JSON_BYTES = 8 * MIB
"""A header has about 100 bytes for each tensor; parsed lists take 20 times their text."""
MAX_INDEX_BYTES = 8 * MIB
"""Of the index of a sharded model."""
MAX_ADAPTER_CONFIG_BYTES = MIB
"""Of PEFT's adapter_config.json."""
