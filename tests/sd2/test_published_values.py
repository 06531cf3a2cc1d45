"""What others have published."""

import math
import re

from sd2_clip.sd2.published_values import KNOWN_FILES, empty_prompt_rows


def test_the_rows_are_as_published():
    rows = empty_prompt_rows()
    assert rows.columns == tuple(range(0, 1024, 16))
    assert [len(row) for row in rows.rows] == [64, 64]
    assert [row[0] for row in rows.rows] == [-0.313425, 1.411363]
    assert rows.norms == (17.2541, 33.3411)
    for row, norm in zip(rows.rows, rows.norms, strict=True):
        assert math.hypot(*row) < norm


def test_known_files_have_whole_digests():
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in KNOWN_FILES)
