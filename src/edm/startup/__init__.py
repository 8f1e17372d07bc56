"""Starting: kernels before the first frame, and what a configuration asks for: input, sinks, web servers."""
