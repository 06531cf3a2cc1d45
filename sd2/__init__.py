"""The Stable Diffusion 2.x text encoder and its text; knows no host, no graph and no UI."""
