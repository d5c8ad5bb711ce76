import pytest

from extractors.instruction import Instruction, object_phrase, parse_instruction, task_key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("put carrot on plate", ("place", "carrot", "on", "plate")),
        ("put cup from counter or drying rack into sink", ("place", "cup", "into", "sink")),
        ("turn lever vertical to front", ("articulate", "lever", "to", "front")),
        ("flip pot upright which is in sink", ("articulate", "pot", None, None)),
        ("take the blue cube out of the box and put it on the table", ("place", "blue cube", "on", "table")),
        ("Pick up the red bowl.", ("pick", "red bowl", None, None)),
        ("pick-up the spoon", ("pick", "spoon", None, None)),
        ("stack the red block on the green block", ("stack", "red block", "on", "green block")),
        ("Move the pot to the left side of the table", ("move", "pot", "to", "table")),
        ("moved the can from the stove to the sink", ("move", "can", "to", "sink")),
        ("put_banana_on_plate", ("place", "banana", "on", "plate")),
        ("put the spoon on top of the stove\nconfidence: 1\n", ("place", "spoon", "on", "stove")),
        ("the robot picks up the silver pot", ("pick", "silver pot", None, None)),
        ("turn on the light", ("articulate", "light", None, None)),
        ("sweep the beans into a pile", ("tool", "beans", "into", "pile")),
        ("close the top left drawer", ("articulate", "top left drawer", None, None)),
        ("put the lid of the pot on the pot", ("place", "lid of pot", "on", "pot")),
    ],
)
def test_instructions_of_the_data_sets_are_taken_apart(text, expected):
    found = parse_instruction(text)
    assert (found.action, found.object, found.relation, found.target) == expected
    assert not found.deformable


@pytest.mark.parametrize("text", ["fold the cloth from top right to bottom left", "unfold towel", "unfold"])
def test_folding_cloth_is_a_fold(text):
    assert parse_instruction(text).action == "fold"


def test_a_laptop_that_is_folded_is_no_cloth():
    assert parse_instruction("fold the laptop").action == "articulate"


def test_a_towel_that_is_the_target_leaves_the_object_rigid():
    found = parse_instruction("put the carrot on the towel")
    assert (found.action, found.object, found.target, found.deformable) == ("place", "carrot", "towel", False)


def test_a_towel_rack_is_no_towel():
    assert not parse_instruction("take the towel rack").deformable
    assert parse_instruction("take the corner of the towel").deformable


@pytest.mark.parametrize("text", ["", "  \n", "\x00", "...", ";;"])
def test_an_instruction_without_words_is_unlabelled(text):
    assert parse_instruction(text) == Instruction("unlabelled")


@pytest.mark.parametrize("text", ["many_skills_00", "mettre la carotte", "valid", "文字 です", "42"])
def test_what_is_not_understood_is_not_guessed(text):
    found = parse_instruction(text)
    assert (found.action, found.object) == ("unknown", None)


def test_control_characters_separate_words():
    assert object_phrase("take\x00 cup\r\nagain") == "cup"


def test_a_pronoun_names_nothing():
    assert object_phrase("put it on the table") is None
    assert object_phrase("pick up the mug and put it on the shelf") == "mug"


def test_a_very_long_instruction_is_parsed_in_time():
    assert object_phrase("pick up the cup and " * 20_000) is not None


def test_one_task_in_two_spellings_has_one_key():
    assert task_key("Put the carrot on the plate.") == task_key("putting carrot on plate\n") == "put carrot on plate"
    assert task_key("move the pot to the left") != task_key("move the pot to the right")
    assert task_key("") == ""
