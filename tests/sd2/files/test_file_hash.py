"""SHA-256 of a file."""

import hashlib

from sd2_clip.sd2.files.file_hash import file_digest


def test_the_digest_is_that_of_the_whole_file(tmp_path):
    content = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    (tmp_path / "file").write_bytes(b"")
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"").hexdigest()
