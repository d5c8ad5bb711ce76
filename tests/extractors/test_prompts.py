import pytest

from extractors.prompts import DEFAULT_PROMPTS, STUDY_PROMPT, resolve_prompts


def test_the_instructions_noun_phrase_takes_its_place():
    prompts = resolve_prompts(DEFAULT_PROMPTS, "put the carrot on the plate")
    assert prompts.texts == (STUDY_PROMPT, "carrot", "object")
    assert prompts.dropped == ()


@pytest.mark.parametrize(
    "instruction", ["", "setze die Karotte auf den Teller", "\U0001f955\U0001f37d", "把胡萝卜放在盘子上"]
)
def test_an_instruction_that_names_nothing_readable_drops_its_prompt_and_says_so(instruction):
    prompts = resolve_prompts(DEFAULT_PROMPTS, instruction)
    assert prompts.texts == (STUDY_PROMPT, "object")
    assert "names no object" in prompts.dropped[0]["reason"]


def test_blank_and_repeated_prompts_are_dropped():
    prompts = resolve_prompts(["  ", "Carrot", "{object}", "red {object}"], "pick up the carrot")
    assert prompts.texts == ("Carrot", "red carrot")
    assert [row["reason"] for row in prompts.dropped] == ["it is blank", "it repeats another"]


def test_every_prompt_may_be_dropped():
    assert resolve_prompts(["{object}"], "").texts == ()
