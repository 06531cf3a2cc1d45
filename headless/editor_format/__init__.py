"""Converts workflows in the editor's format to prompts in the API's."""
