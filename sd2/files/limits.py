"""The limits of what is read from files, in one table.

Whatever is larger is refused, in one sentence, before it is parsed or built. Together they keep
the cost of reading a file of n bytes at 256 MB + 4 n of memory, and in time proportional to n.
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

MAX_STATE_ITEMS = 1_000_000
"""Parameters that all states of modules set; the same state counts as often as it is used."""
MAX_TENSOR_NAME = 1_000
"""Characters of a tensor's name, in every format. The longest of known models have about 150."""

MAX_ZIP_DIRECTORY_BYTES = 8 * MIB
"""Of a zip file: 80,000 members. A full SD2 checkpoint has about 1,500; each takes 1 kB of
memory."""

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

# Textual inversions in pictures.
MAX_EMBEDDING_JSON_BYTES = 8 * MIB
"""75 vectors as JSON have less than 2 MiB."""

# JSON: workflows, their texts inside other files, settings, what clients send.
MAX_JSON_BYTES = 32 * MIB
"""A workflow with hundreds of nodes has 1 MiB; its characters take up to four bytes, twice."""
MAX_JSON_MEMORY = 256 * MIB
"""Beyond 3 bytes for each byte of the text; a list of empty lists takes 20 times its text."""
MAX_JSON_DEPTH = 200
"""Levels of nesting. A workflow has about ten, and three for each subgraph inside another."""
MAX_WORKFLOW_NODES = 50_000
"""After subgraphs are unfolded; nested subgraphs can double at each level."""
MAX_CONVERSION_STEPS = 5_000_000
"""Links followed, inputs searched and characters of texts resolved while a workflow is converted:
what is in a subgraph counts for each instance. One with hundreds of nodes takes some thousands."""
MAX_DEPENDENTS = 500_000
"""Nodes walked to list the outputs that depend on nodes that cannot run."""
MAX_NODE_NAME = 1_000
"""Characters of a node's id, of its class and of an input: each is quoted for each use."""
MAX_NOTES = 1_000
"""About one workflow."""

# Tables of captions, which may be compressed a thousandfold.
MAX_ROW_BYTES = 8 * MIB
"""Of a line, a row of JSON or CSV, or a file in a tar."""
MAX_TAR_HEADER_BYTES = MIB
"""Of an extended header of a tar, which holds a long name."""
MAX_FREE_ROWS = 1_000_000
"""Rows that a table of columns may have beyond one for each bit: columns of one value take none."""

# YAML: configs of checkpoints and extra_model_paths.yaml.
MAX_YAML_BYTES = MIB
MAX_YAML_NODES = 20_000
"""Values, keys and containers; what an alias stands for counts each time."""
MAX_YAML_DEPTH = 100

# Text chunks of a PNG.
MAX_PNG_TEXT_BYTES = MAX_JSON_BYTES
"""Of all texts that are wanted of one file, after decompression."""
MAX_PNG_CHUNKS = 1_000_000
"""A picture has one for each 8 kB of pixels, or fewer."""
