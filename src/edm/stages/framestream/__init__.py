"""Frame Streams: handshake, control frames and framing, without any I/O."""
