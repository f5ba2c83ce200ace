"""S3 as fsspec sees it, through boto3: s3fs brings an event loop, which cannot run beside gevent's.

Where it is and who we are there, boto3 reads itself: ``AWS_*`` variables, profiles, the machine's role.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

_PART = 8 * 2**20  # of an upload; S3 takes no smaller ones but the last
_HOW = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"})


class Bucket(AbstractFileSystem):  # type: ignore[misc]
    """Objects as files. Raises OSError whatever went wrong, FileNotFoundError for what is not there."""

    protocol = "s3"
    cachable = False  # a forked process has connections of its own

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self._client = boto3.client("s3", config=_HOW)

    def ask(self, what: str, path: str, **told: Any) -> dict[str, Any]:
        """One call about one object."""
        bucket, _, key = self._strip_protocol(path).partition("/")
        return self._asked(lambda: _whole(getattr(self._client, what)(Bucket=bucket, Key=key, **told)), path)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Its size, and when it was written."""
        found = self.ask("head_object", path)
        return {"name": path, "type": "file", "size": found["ContentLength"], "modified": found["LastModified"]}

    def modified(self, path: str) -> Any:
        """When it was written."""
        return self.info(path)["modified"]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002  fsspec calls it so
        """What lies in a folder."""
        found = list(self._listed(self._strip_protocol(path)))
        return found if detail else [one["name"] for one in found]

    def rm_file(self, path: str) -> None:
        """Remove it; nothing happens where it is not."""
        self.ask("delete_object", path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002  fsspec calls it so
        """Folders are only names there."""

    def isdir(self, path: str) -> bool:  # noqa: ARG002
        """Likewise."""
        return True

    def _listed(self, path: str) -> Iterator[dict[str, Any]]:
        bucket, _, key = path.partition("/")
        told = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else "", "Delimiter": "/"}
        while True:
            page = self._asked(partial(self._client.list_objects_v2, **told), path)
            for one in page.get("Contents", ()):
                name = f"{bucket}/{one['Key']}"
                yield {"name": name, "type": "file", "size": one["Size"], "modified": one["LastModified"]}
            if not page.get("IsTruncated"):
                return
            told["ContinuationToken"] = page["NextContinuationToken"]

    @staticmethod
    def _asked(call: Callable[[], dict[str, Any]], path: str) -> dict[str, Any]:
        try:
            answer = call()
        except ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") == 404:  # noqa: PLR2004
                raise FileNotFoundError(path) from error
            raise OSError(str(error)) from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error
        return answer

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **told: Any) -> "Object":
        return Object(self, path, mode, max(_PART, block_size or 0) if mode == "wb" else block_size or _PART, **told)


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    """With its body, if it has one."""
    return answer | ({"Body": answer["Body"].read()} if "Body" in answer else {})


class Object(AbstractBufferedFile):  # type: ignore[misc]
    """One object, read by ranges, written in parts; it is there once it is closed, and whole."""

    _upload: str | None = None

    def _fetch_range(self, start: int, end: int) -> bytes:
        read: bytes = self.fs.ask("get_object", self.path, Range=f"bytes={start}-{end - 1}")["Body"]
        return read

    def _initiate_upload(self) -> None:
        self._parts: list[dict[str, Any]] = []
        if self.tell() >= self.blocksize:
            self._upload = self.fs.ask("create_multipart_upload", self.path)["UploadId"]

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002  fsspec calls it so
        piece = self.buffer.getvalue()
        if self._upload is None:
            self.fs.ask("put_object", self.path, Body=piece)
            return True
        if piece:
            told = {"PartNumber": len(self._parts) + 1, "UploadId": self._upload}
            made = self.fs.ask("upload_part", self.path, **told, Body=piece)
            self._parts.append({"ETag": made["ETag"], "PartNumber": told["PartNumber"]})
        if final:
            whole = {"UploadId": self._upload, "MultipartUpload": {"Parts": self._parts}}
            self.fs.ask("complete_multipart_upload", self.path, **whole)
        return True
