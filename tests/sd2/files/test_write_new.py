import itertools
import os
import threading

import pytest
from sd2_clip.sd2.files.write_new import write_new


def numbered(folder):
    return (folder / f"x_{number}.txt" for number in itertools.count(1))


@pytest.fixture(params=["links", "no links"])
def links(request, monkeypatch):
    """With hard links, and as on a file system without them."""
    if request.param == "no links":

        def refuse(source, target):
            raise PermissionError("Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


def test_first_free_name_is_taken(links, tmp_path):
    for number in (1, 2, 3):
        written = write_new(tmp_path, numbered(tmp_path), lambda path: path.write_text("text"))
        assert written == tmp_path / f"x_{number}.txt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_1.txt", "x_2.txt", "x_3.txt"]


def test_two_writers_never_share_a_name(links, tmp_path):
    def write(name):
        def fill(path):
            path.write_text(name)

        for _ in range(20):
            write_new(tmp_path, numbered(tmp_path), fill)

    threads = [threading.Thread(target=write, args=[f"{number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(tmp_path.iterdir())
    assert len(found) == 80
    assert sorted(path.read_text() for path in found) == sorted("0123" * 20)


def test_error_leaves_nothing(links, tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_new(tmp_path, numbered(tmp_path), fail)
    assert list(tmp_path.iterdir()) == []


def test_all_names_taken_is_an_error(links, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(FileExistsError, match="are taken"):
        write_new(tmp_path, [tmp_path / "x"], lambda path: path.touch())
