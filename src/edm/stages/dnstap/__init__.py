"""dnstap: decoding of the protobuf payloads that Frame Streams carries."""
