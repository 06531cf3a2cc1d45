from fake_graph import INT, executed, node
from sd2_clip.headless.execution.executor import Executor


def test_node_object_lives_as_long_as_its_node():
    class Count:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        NOT_IDEMPOTENT = True

        def __init__(self):
            self.calls = 0

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"x": INT}}

        def run(self, x):
            self.calls += 1
            return {"ui": {"calls": [self.calls]}}

    executor = Executor()

    def calls(prompt):
        return executed(prompt, {"Count": Count}, executor).outputs["1"]["calls"][0]

    assert calls({"1": node("Count", x=1)}) == 1
    assert calls({"1": node("Count", x=2), "2": node("Count", x=2)}) == 2
    executed({"3": node("Show", value=1)}, executor=executor)
    assert calls({"1": node("Count", x=3)}) == 1
    executor.clear()
    assert calls({"1": node("Count", x=3)}) == 1


def test_interrupt_of_one_run_does_not_stop_the_next():
    executor = Executor()
    executor.interrupt()
    assert executed({"1": node("Show", value=1)}, executor=executor).status == "success"
