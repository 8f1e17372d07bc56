"""The DAWG file format: reading, walking, writing, and text lists."""
