"""Compiling or loading the kernels before the first frame."""
