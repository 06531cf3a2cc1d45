from fake_graph import INT, executed, fake_node, node


def fail(error):
    def raising(**inputs):
        raise error

    return fake_node(raising, required={"x": INT}, returns=("INT",), TITLE="Failing Node")


def test_exception_names_node_and_title():
    execution = executed(
        {"5": node("Fail", x=1), "6": node("Show", value=["5", 0])},
        {"Fail": fail(ValueError("no such file"))},
    )
    assert execution.status == "error"
    assert str(execution.error) == "node 5 (Failing Node): no such file"


def test_title_of_the_node_comes_before_that_of_its_class():
    prompt = {"5": node("Fail", x=1, title="Mine"), "6": node("Show", value=["5", 0])}
    execution = executed(prompt, {"Fail": fail(ValueError("no"))})
    assert str(execution.error) == "node 5 (Mine): no"


def test_exception_may_blame_an_input():
    error = ValueError("too long")
    error.input_name = "x"
    execution = executed(
        {"5": node("Fail", x=1), "6": node("Show", value=["5", 0])}, {"Fail": fail(error)}
    )
    assert str(execution.error) == "node 5 (Failing Node), input 'x': too long"


def test_failure_keeps_the_exception_and_the_inputs():
    error = ValueError("no")
    execution = executed(
        {"5": node("Fail", x=7), "6": node("Show", value=["5", 0])}, {"Fail": fail(error)}
    )
    assert execution.error.exception is error
    assert execution.error.inputs == {"x": [7]}
