import pytest
from fake_graph import INT, NODES, SHOW, class_function, fake_node, node, only_problem, validated


def test_cycle_names_every_node_and_input_of_it():
    prompt = {
        "1": node("Add", a=["3", 0], title="First"),
        "2": node("Add", a=["1", 0]),
        "3": node("Add", a=["2", 0]),
        "4": node("Show", value=["3", 0]),
    }
    validation = validated(prompt)
    assert not validation.ok
    assert sorted(validation.bad_nodes) == ["1", "2", "3"]
    problem = only_problem(validation, "1")
    assert problem.kind == "dependency_cycle"
    assert problem.input_name == "a"
    assert "3 (Add) -> 2 (Add) -> 1 (First) -> 3 (Add)" in problem.details or (
        "1 (First) -> 3 (Add) -> 2 (Add) -> 1 (First)" in problem.details
    )


def test_node_that_feeds_itself_is_a_cycle():
    prompt = {"1": node("Add", a=["1", 0]), "2": node("Show", value=["1", 0])}
    assert only_problem(validated(prompt), "1").kind == "dependency_cycle"


def test_outputs_beside_a_cycle_can_run():
    prompt = {
        "1": node("Add", a=["1", 0]),
        "2": node("Show", value=["1", 0]),
        "3": node("Show", value=5),
    }
    validation = validated(prompt)
    assert validation.outputs == ("3",)
    assert validation.bad_nodes["1"].dependent_outputs == ("2",)


def test_good_outputs_of_a_partly_bad_prompt_can_run():
    prompt = {
        "1": node("Number", value="x"),
        "2": node("Show", value=["1", 0]),
        "3": node("Number", value=3),
        "4": node("Show", value=["3", 0]),
    }
    validation = validated(prompt)
    assert (validation.ok, validation.outputs, list(validation.graph)) == (True, ("4",), ["3", "4"])
    assert list(validation.bad_nodes) == ["1"]


def test_missing_class_is_named_with_id_and_title():
    prompt = {"5": node("Fancy", title="My Fancy"), "6": node("Show", value=["5", 0])}
    validation = validated(prompt)
    assert validation.error.kind == "missing_node_type"
    assert validation.error.not_installed == (validation.workflow.graph["5"],)
    assert validation.lines() == [
        "node 5 (My Fancy): Node class 'Fancy' ('My Fancy') is not installed: Node ID '#5'"
    ]


def test_what_does_not_depend_on_a_missing_class_can_run():
    prompt = {
        "5": node("Fancy"),
        "6": node("Show", value=["5", 0]),
        "7": node("Show", value=1),
    }
    validation = validated(prompt)
    assert validation.outputs == ("7",)
    assert validation.bad_nodes["5"].dependent_outputs == ("6",)


def test_missing_class_that_nothing_reads_from_is_a_note():
    prompt = {"5": node("Fancy", value=["6", 0], title="My Fancy"), "6": node("Number", value=1)}
    validation = validated(prompt | {"7": node("Show", value=["6", 0])}, NODES)
    assert (validation.ok, validation.lines()) == (True, [])
    assert validation.notes == (
        "node 5 (My Fancy): class 'Fancy' is not installed, and nothing reads from this node; "
        "left out",
    )
    assert only_problem(validation, "5").kind == "missing_node_type"


def test_missing_class_that_another_missing_one_reads_from_is_an_error():
    prompt = {"5": node("Fancy"), "6": node("Fancier", value=["5", 0])}
    validation = validated(prompt | {"7": node("Show", value=1)}, NODES)
    assert [line.partition(":")[0] for line in validation.lines()] == ["node 5 (Fancy)"]


def test_misspelt_class_that_nothing_reads_from_is_an_error():
    validation = validated({"5": node("Shw", value=1), "7": node("Show", value=1)}, NODES)
    assert validation.ok
    assert "did you mean 'Show'?" in validation.lines()[0]


def test_unused_nodes_are_errors_if_nothing_can_run():
    validation = validated({"5": node("Fancy")}, NODES)
    assert "'Fancy' is not installed" in validation.lines()[0]
    assert validation.notes == ()


def test_node_without_class_type_is_named():
    validation = validated({"5": {"inputs": {}}}, NODES)
    assert validation.error.kind == "missing_node_type"
    assert "'5'" in validation.error.message


def test_prompt_without_outputs():
    assert validated({"1": node("Number", value=1)}, NODES).error.kind == "prompt_no_outputs"


def test_only_targets_are_checked():
    prompt = {"1": node("Show"), "2": node("Show", value=1)}
    validation = validated(prompt, NODES, targets=["2"])
    assert (validation.outputs, validation.bad_nodes) == (("2",), {})


def test_exception_of_input_types_belongs_to_its_node():
    def explode(cls):
        raise OSError("no folder")

    broken = type("Broken", (), {"INPUT_TYPES": classmethod(explode), "OUTPUT_NODE": True})
    validation = validated(
        {"1": node("Broken"), "2": node("Show", value=1)}, {**NODES, "Broken": broken}
    )
    assert validation.outputs == ("2",)
    problem = only_problem(validation, "1")
    assert problem.kind == "exception_during_validation"
    assert problem.details == "OSError: no folder"


def test_input_types_is_asked_once_a_prompt():
    asked = []

    def count(cls):
        asked.append(cls)
        return {"required": {"value": ("*", {})}}

    show = type("Counting", (SHOW,), {"INPUT_TYPES": classmethod(count)})
    validated({str(i): node("Show", value=i) for i in range(9)}, {"Show": show})
    assert len(asked) == 1


def test_declared_dict_that_claims_every_name_is_asked_by_name():
    class Everything(dict):
        def __contains__(self, name):
            return True

        def __getitem__(self, name):
            return ("INT", {})

    classes = {
        **NODES,
        "Sum": fake_node(
            lambda **numbers: (sum(numbers.values()),), optional=Everything(), OUTPUT_NODE=True
        ),
    }
    validation = validated({"1": node("Number", value=2), "2": node("Sum", n7=["1", 0])}, classes)
    assert list(validation.graph["2"].inputs) == ["n7"]


@pytest.mark.parametrize("received", [7, ["1", 0]], ids=["value", "link"])
def test_input_that_the_class_does_not_have_is_ignored_and_noted(received):
    prompt = {"1": node("Number", value=1), "2": node("Show", value=1, extra=received)}
    validation = validated(prompt)
    assert list(validation.graph["2"].inputs) == ["value"]
    assert validation.notes == ("node 2 (Show): Show has no input 'extra'; ignored",)


def test_exception_of_an_inner_node_has_its_own_type():
    def explode(value):
        raise RuntimeError("boom")

    inner = fake_node(
        required={"value": INT}, returns=("INT",), VALIDATE_INPUTS=class_function(explode)
    )
    prompt = {"1": node("Inner", value=1), "2": node("Show", value=["1", 0])}
    validation = validated(prompt, {**NODES, "Inner": inner})
    assert only_problem(validation, "1").kind == "exception_during_inner_validation"
