"""The limits of what is read from files, in one table.

Whatever is larger is refused, in one sentence, before it is parsed. Together they keep the cost of
reading a file of n bytes at 256 MB + 4 n of memory, and in time proportional to n.
"""

MIB = 1 << 20

# JSON: workflows, their texts inside other files, settings, what clients send.
MAX_JSON_BYTES = 32 * MIB
"""A workflow with hundreds of nodes has 1 MiB; its characters take up to four bytes, twice."""
MAX_JSON_MEMORY = 256 * MIB
"""Beyond 3 bytes for each byte of the text; a list of empty lists takes 20 times its text."""
MAX_JSON_DEPTH = 200
"""Levels of nesting. A workflow has about ten, and three for each subgraph inside another."""
MAX_WORKFLOW_NODES = 50_000
"""After subgraphs are unfolded; nested subgraphs can double at each level."""

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
