"""Nodes in the words of ComfyUI's /object_info."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client


def test_nodes_are_described_in_comfyui_s_words(client: Client) -> None:
    async def test(client: Client) -> None:
        for path in ("/object_info", "/api/object_info", "/api/object_info/Number"):
            info = (await client.get(path))["Number"]
            assert info["input_order"] == {"required": ["value"]}
            assert info["output_name"] == ["INT"]
            assert info["python_module"] == "custom_nodes.our-pack"
            assert info["search_aliases"] == ["integer"]
            assert info["output_node"] is False
        assert await client.get("/object_info/Nothing") == {}

    client.run(test)
