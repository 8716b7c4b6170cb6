"""Certificates for tests: a CA of ours, one of somebody else, good and expired ones."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one node, as `NodeConfig` wants them."""

    cert: Path
    key: Path
    ca: Path

    def settings(self, *, ca: bool = True) -> dict[str, Any]:
        return {"tls_cert": self.cert, "tls_key": self.key, "tls_ca": self.ca if ca else None}


class Authority:
    """A CA whose files stand in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str = "127.0.0.1", *, is_expired: bool = False) -> Files:
        """A certificate for this host name."""
        until = datetime.now(UTC) + timedelta(days=-1 if is_expired else 30)
        begin = until - timedelta(days=60)
        made = self._ca.issue_cert(name, not_before=begin, not_after=until)
        stem = f"{name}-{'expired' if is_expired else 'good'}"
        files = Files(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.ca)
        made.private_key_pem.write_to_path(files.key)
        files.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        return files
