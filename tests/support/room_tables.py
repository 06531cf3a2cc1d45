"""Makes the tables of modules in docs/architecture.md from the modules' docstrings.

python tests/support/room_tables.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- rooms -->", "<!-- end of rooms -->"

ROOMS = {
    "nodes": "what the user drags",
    "clip": "what one does with a CLIP handle",
    "sd2": "the text encoder and its text",
    "sd2/files": "bytes on disk to tensors and back",
    "sd2/detection": "whose text encoder is in this state dict, and under which keys",
    "sd2/model": "the text encoder in torch",
    "sd2/syntax": "text to weighted segments",
    "sd2/tokens": "segments to chunks",
    "sd2/lora": "what a LoRA changes",
    "host": "the seam to whatever runs us",
    "headless": "runs a workflow without ComfyUI",
    "headless/editor_format": "the editor's JSON to the API's",
    "headless/validation": "checks before anything runs",
    "headless/execution": "the run",
    "editor": "ComfyUI's frontend over headless",
    "dataset": "captions to embeddings",
    "dataset/inputs": "captions from every kind of file",
    "dataset/formats": "embeddings in every trainer's format",
    "cli": "the commands",
}


def room_tables() -> str:
    """A heading for each room, and a row for each of its modules."""
    lines = []
    for room, subject in ROOMS.items():
        lines += [f"### `{room}/`: {subject}", "", "| module | |", "|---|---|"]
        for path in sorted((ROOT / room).glob("*.py")):
            if path.name != "__init__.py":
                docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                first = " ".join(docstring.split("\n\n")[0].split())
                lines.append(f"| `{path.stem}` | {first.replace('``', '`').replace('|', '')} |")
        lines.append("")
    return "\n".join(lines)


def with_room_tables(page: str) -> str:
    """*page* with new tables between the two marks."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n\n{room_tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_room_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
