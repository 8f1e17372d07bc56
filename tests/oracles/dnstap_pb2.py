"""dnstap messages for the protobuf library.

The schema is compiled when first needed. Its enums are declared as ``int32``: in Python (as in C++) a proto2
enum is closed, so a number outside the enum would be moved to the unknown fields, while the Go library keeps
every number. An ``int32`` is the same on the wire and keeps the low 32 bits, signed, as Go does.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = """
syntax = "proto2";
package oracle;

message Dnstap {
  optional bytes identity = 1;
  optional bytes version = 2;
  optional bytes extra = 3;
  optional Message message = 14;
  required int32 type = 15;
}

message Message {
  required int32 type = 1;
  optional int32 socket_family = 2 [default = 1];
  optional int32 socket_protocol = 3;
  optional bytes query_address = 4;
  optional bytes response_address = 5;
  optional uint32 query_port = 6;
  optional uint32 response_port = 7;
  optional uint64 query_time_sec = 8;
  optional fixed32 query_time_nsec = 9;
  optional bytes query_message = 10;
  optional bytes query_zone = 11;
  optional uint64 response_time_sec = 12;
  optional fixed32 response_time_nsec = 13;
  optional bytes response_message = 14;
}
"""

SHORT = {
    "type": "type",
    "socket_family": "sf",
    "socket_protocol": "sp",
    "query_address": "qa",
    "response_address": "ra",
    "query_port": "qp",
    "response_port": "rp",
    "query_time_sec": "qts",
    "query_time_nsec": "qtn",
    "query_message": "qm",
    "query_zone": "qz",
    "response_time_sec": "rts",
    "response_time_nsec": "rtn",
    "response_message": "rm",
}
"""Field names of Message and the short ones that the oracles and the vectors use."""


@functools.cache
def dnstap_class() -> type[Any]:
    """Return the message class ``Dnstap``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dnstap.proto").write_text(PROTO)
        out = folder / "dnstap.set"
        status = protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={out}", "dnstap.proto"])
        assert status == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.Dnstap"))


def decode(frame: bytes) -> dict[str, Any] | None:
    """Decode with the library; the result is of the same form as that of ``dnstap_frame.decode``."""
    from google.protobuf.message import DecodeError

    dnstap = dnstap_class()()
    try:
        dnstap.ParseFromString(frame)
    except DecodeError:
        return None
    if not dnstap.IsInitialized():
        return None
    found: dict[str, Any] = {"type": dnstap.type}
    for name in ("identity", "version", "extra"):
        if dnstap.HasField(name):
            found[name] = getattr(dnstap, name)
    if dnstap.HasField("message"):
        message = dnstap.message
        present = [name for name in SHORT if message.HasField(name)]
        found["message"] = {SHORT[name]: getattr(message, name) for name in present}
    return found
