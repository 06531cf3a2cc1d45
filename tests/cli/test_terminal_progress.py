import io

import pytest
from sd2_clip.cli.terminal_progress import TerminalProgress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def show(stream, *events, quiet=False):
    with TerminalProgress({"5": "Load SD2 CLIP"}, quiet=quiet, stream=stream) as progress:
        for event, data in events:
            progress(event, data)
    return stream.getvalue()


EXECUTING = ("executing", {"node": "5", "display_node": "5", "prompt_id": "p"})
REPORT = ("progress", {"value": 2, "max": 4, "prompt_id": "p", "node": "5"})


def test_node_at_work_is_named():
    assert "Load SD2 CLIP" in show(Terminal(), EXECUTING)


def test_reports_draw_a_bar():
    drawn = show(Terminal(), EXECUTING, REPORT, ("progress", {**REPORT[1], "value": 4}))
    assert "0/4" in drawn


@pytest.mark.parametrize("event", ["execution_success", "execution_error", "execution_interrupted"])
def test_line_is_wiped_at_the_end(event):
    stream = Terminal()
    progress = TerminalProgress({}, stream=stream)
    progress(*EXECUTING)
    progress(event, {})
    assert stream.getvalue().split("\r")[-1].strip() == ""


def test_end_of_execution_is_no_node():
    assert show(Terminal(), ("executing", {"node": None, "prompt_id": "p"})) == ""


@pytest.mark.parametrize(
    ("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)], ids=["no terminal", "quiet"]
)
def test_silence(stream, quiet):
    assert show(stream, EXECUTING, REPORT, quiet=quiet) == ""
