"""Runs workflow JSON without ComfyUI, over whatever node classes it is handed."""
