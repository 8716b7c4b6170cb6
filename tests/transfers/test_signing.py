"""Signed URLs: one method, one path, until a time, from one node."""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from d1server.transfers.signing import UrlRefused, UrlSigner, open_signer
from engine.files import Disk

PATH = "/signed/exports/a.sql"


def check(signer: UrlSigner, url: str, method: str = "GET") -> None:
    parts = urlsplit(url)
    signer.check(method, parts.path, dict(parse_qsl(parts.query)))


def test_a_url_is_good_for_what_was_signed_only(tmp_path: Path) -> None:
    signer = open_signer(tmp_path / "key", Disk())
    url = signer.sign("GET", PATH, valid_s=60)
    check(signer, url)
    check(open_signer(tmp_path / "key", Disk()), url)  # after a restart
    for method, bad in (
        ("PUT", url),
        ("GET", url.replace("a.sql", "b.sql")),
        ("GET", url.replace("expires=", "expires=1")),
        ("GET", url + "0"),
        ("GET", PATH),
    ):
        with pytest.raises(UrlRefused, match="signature"):
            check(signer, bad, method)
    with pytest.raises(UrlRefused, match="signature"):
        check(open_signer(tmp_path / "other", Disk()), url)


def test_a_url_expires(tmp_path: Path) -> None:
    signer = open_signer(tmp_path / "key", Disk())
    with pytest.raises(UrlRefused, match="expired"):
        check(signer, signer.sign("GET", PATH, valid_s=-1))


def test_only_this_user_can_read_the_key(tmp_path: Path) -> None:
    open_signer(tmp_path / "key", Disk())
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
