from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("statement", "sender", "signature", "content")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    sender: str
    signature: str
    content: bytes
    def __init__(self, statement: _Optional[bytes] = ..., sender: _Optional[str] = ..., signature: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("site", "version", "datasets", "busy")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: str
    datasets: _containers.RepeatedScalarFieldContainer[str]
    busy: bool
    def __init__(self, site: _Optional[str] = ..., version: _Optional[str] = ..., datasets: _Optional[_Iterable[str]] = ..., busy: _Optional[bool] = ...) -> None: ...
