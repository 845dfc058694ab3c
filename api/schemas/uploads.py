"""Uploads in parts as the API shows them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.arrivals.intents import DeclaredFile
from graftwork.registry.arrivals.uploads import Upload
from graftwork.registry.versions.version import Kind

SHA256 = r"^[0-9a-f]{64}$"
MAX_FILE_BYTES = 2**50


class UploadFile(BaseModel):
    """A file that will be sent."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        min_length=1,
        max_length=512,
        description="its path in the model's folder, of letters, digits and any of . _ - /",
        examples=["model-00001-of-00002.safetensors"],
    )
    size: int = Field(ge=0, le=MAX_FILE_BYTES, strict=True, description="bytes", examples=[4_976_698_672])
    sha256: Annotated[str, Field(pattern=SHA256)] | None = Field(
        default=None, description="what the whole file must have; compared before anything is registered"
    )


class UploadRequest(BaseModel):
    """What will be sent, and what it is to be registered as."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="NAMESPACE/NAME", max_length=200, examples=["acme/llama"])
    kind: Kind | None = Field(default=None, description="without it, the files and the base tell")
    base: str | None = Field(default=None, max_length=400, description="the base's reference", examples=["acme/llama"])
    aliases: list[str] = Field(default=[], max_length=16, description="to point at it", examples=[["prod"]])
    private: bool = Field(default=False, description="hide the artifact from whoever may not read in its namespace")
    files: list[UploadFile] = Field(min_length=1, max_length=1000)


class StoredPart(BaseModel):
    """A part that is stored and verified."""

    number: int = Field(description="from 1 on")
    sha256: str


class UploadFileOut(BaseModel):
    """A file of an upload: what was declared, and what of it is there."""

    path: str
    size: int
    sha256: str | None
    parts: int = Field(description="how many parts the file is sent in")
    stored: list[StoredPart] = Field(description="the parts that need not be sent again")


class UploadOut(BaseModel):
    """An upload in parts. Each part but the last of a file has exactly `part_bytes` bytes."""

    id: str
    name: str
    kind: str | None
    base: str | None
    aliases: list[str]
    private: bool
    part_bytes: int
    size: int = Field(description="bytes of all files")
    received: int = Field(description="bytes of the parts that are stored")
    version: str | None = Field(description="the digest of the version that it has become")
    created_at: datetime
    expires_at: datetime = Field(description="when it is deleted unless somebody goes on with it")
    files: list[UploadFileOut]

    @classmethod
    def of(cls, upload: Upload, hours: int) -> UploadOut:
        """What there is to say about `upload`, which is kept for `hours` after each part."""
        intent = upload.intent
        return cls(
            id=upload.id,
            name=intent.name,
            kind=intent.kind,
            base=intent.base,
            aliases=list(intent.aliases),
            private=intent.private,
            part_bytes=intent.part_bytes,
            size=intent.size,
            received=sum(
                intent.part_size(file, number) for file in intent.files for number in upload.parts.get(file.path, {})
            ),
            version=upload.registered,
            created_at=upload.created_at,
            expires_at=upload.touched_at + timedelta(hours=hours),
            files=[_file(upload, file) for file in intent.files],
        )


class PartDigest(BaseModel):
    """Which bytes a part has."""

    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern=SHA256)


class PartUrlOut(BaseModel):
    """Where to PUT the bytes of a part, with which headers."""

    url: str | None = Field(description="null: send the part to this server")
    headers: dict[str, str]
    seconds: int = Field(description="how long it is good for")


class PartOut(BaseModel):
    """A part that has been stored."""

    path: str
    number: int
    size: int
    sha256: str


def _file(upload: Upload, file: DeclaredFile) -> UploadFileOut:
    stored = upload.parts.get(file.path, {})
    return UploadFileOut(
        path=file.path,
        size=file.size,
        sha256=file.sha256,
        parts=upload.intent.parts(file),
        stored=[StoredPart(number=number, sha256=sha256) for number, sha256 in stored.items()],
    )
