"""What a language instruction asks for: the action, the object it is done to, and where that goes.

A small grammar of imperative English, as BridgeData V2, OXE and LeRobot instructions are written: clauses of a verb, a
noun phrase and prepositional phrases. No model, no dictionary beyond the lists below. What it does not know it leaves
untold (`action` is "unknown", `object` None) rather than guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["place", "pick", "stack", "move", "articulate", "tool", "fold", "unlabelled", "unknown"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction taken apart.

    Attributes:
        action: what is done. `fold` is said of cloth alone; `unlabelled` of an empty instruction.
        verb: the verb of the clause that gave `action`, in its base form, None where none is known.
        object: the manipulated object's noun phrase without article ("blue cube"), None where none is named.
        relation: the preposition between object and target ("on"), None without one.
        target: noun phrase of where it goes, or comes from, None where none is named.
        deformable: whether the object is cloth.
    """

    action: Action
    verb: str | None = None
    object: str | None = None
    relation: str | None = None
    target: str | None = None
    deformable: bool = False


def object_phrase(instruction: str) -> str | None:
    """Noun phrase of the object that `instruction` is about ("put the carrot on a plate": "carrot"), None if untold."""
    return parse_instruction(instruction).object


def task_key(instruction: str) -> str:
    """`instruction` without case, punctuation, articles and verb forms: equal for the same task in other spelling."""
    words = [word for word in _words(instruction) if word[0].isalnum() and word not in _DETERMINERS]
    return " ".join((_base(word) or (word,))[0] for word in words)


def parse_instruction(instruction: str) -> Instruction:
    """The parts of an instruction; any text is accepted, control characters included.

    Of several clauses ("pick up the cup and put it on the plate") the first that names an object gives the object, and
    the first that says where it goes gives action and target; cloth that is folded anywhere makes the whole a fold.
    """
    words = _words(instruction)
    if not any(word[0].isalnum() for word in words):
        return Instruction("unlabelled")
    clauses = [_parse_clause(clause) for clause in _clauses(words)]
    if not clauses:
        return Instruction("unknown")
    named = next((clause for clause in clauses if clause.object is not None), None)
    placed = next((clause for clause in clauses if clause.action in ("place", "stack") and clause.target), None)
    main = placed or named or clauses[0]
    name = named.object if named is not None else None
    deformable = name is not None and _is_cloth(name)
    folding = next((clause for clause in clauses if clause.action == "fold"), None)
    action: Action = main.action
    if folding is not None:
        # A laptop is folded as well; the penalty is for cloth, which is meant where nothing is named.
        main = folding
        action = "fold" if name is None or deformable else "articulate"
    return Instruction(action, main.verb, name, main.relation, main.target, deformable)


_VERBS: dict[Action, tuple[str, ...]] = {
    "place": ("put", "place", "set", "drop", "insert", "lay", "return", "hang", "load", "throw", "toss", "release"),
    "pick": ("pick", "pickup", "take", "grab", "grasp", "lift", "remove", "get", "fetch", "retrieve", "hold", "raise"),
    "stack": ("stack", "pile", "nest", "assemble"),
    "move": (
        *("move", "push", "slide", "bring", "transfer", "carry", "shift", "pull", "drag", "nudge", "reach", "relocate"),
        *("deliver", "hand", "pass", "give", "poke", "topple", "tip", "swap", "transport"),
    ),
    "articulate": (
        *("open", "close", "turn", "rotate", "flip", "twist", "press", "shut", "switch", "unscrew", "screw", "pivot"),
        *("spin", "lock", "unlock", "plug", "unplug", "hammer", "pump", "squeeze"),
    ),
    "tool": (
        "wipe",
        "sweep",
        "stir",
        "pour",
        "scoop",
        "clean",
        "brush",
        "cut",
        "mop",
        "wash",
        "draw",
        "write",
        "scrub",
    ),
    "fold": ("fold", "unfold", "refold", "crumple", "uncrumple", "wrinkle", "smooth", "flatten", "straighten"),
}

_IRREGULAR = {
    **{"took": "take", "taken": "take", "brought": "bring", "laid": "lay", "held": "hold", "got": "get"},
    **{"slid": "slide", "swept": "sweep", "gave": "give", "given": "give", "hung": "hang", "threw": "throw"},
    **{"thrown": "throw", "drew": "draw", "wrote": "write", "spun": "spin", "shook": "shake"},
}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CLOTH = _set(
    "cloth cloths towel towels napkin napkins rag rags shirt shirts t-shirt t-shirts tshirt laundry blanket blankets "
    "fabric fabrics handkerchief sock socks clothes clothing garment garments pants shorts dishcloth dishtowel "
    "washcloth tablecloth curtain sheet"
)
_RELATIONS = _set(
    "on onto upon in into inside within to toward towards under underneath beneath below over above behind beside "
    "besides near nearby between next at by against around through across along from off out with using via after "
    "before atop alongside opposite beyond past among until without for"
)
_STOPS = _set("which that who where when while so if because is are was were be being as it's its'")
_DETERMINERS = _set(
    "the a an this that these those some any all both each every its your my his her their one another other"
)
_PRONOUNS = _set(
    "it them they him that this object objects thing things something item items everything anything stuff"
)
_PARTICLES = _set("up down away back over out off apart together")
_TRAILING = _set(
    "up down upright upside vertical vertically horizontal horizontally sideways left right forward forwards backward "
    "backwards back away apart together clockwise counterclockwise anticlockwise again slowly carefully gently once "
    "twice open closed shut around over please here there first then now diagonally properly slightly completely "
    "fully halfway right-side upside-down"
)
_LEADING = _set("please then and next now first finally robot arm gripper the a to should must can you will")
_BREAK = ";"


def _words(text: str) -> list[str]:
    """Lower-case words, sentence ends as ";"."""
    text = unicodedata.normalize("NFKC", text).lower().replace("_", " ")
    # Newlines end a clause in BridgeData's lang.txt, whose second line is the annotator's confidence.
    text = re.sub(r"[\n\r]+", _BREAK, text)
    text = re.sub(r"\bpick-up", "pick up", text)
    text = re.sub(r"\bconfidence\s*:\s*[\d.]+", _BREAK, text)
    return re.findall(r"[^\W_]+(?:[-'][^\W_]+)*|[;.,!?:]", text.replace("\u2019", "'"))


def _clauses(words: Sequence[str]) -> Iterator[list[str]]:
    """Runs of words that each begin with a known verb."""
    current: list[str] = []
    previous = _BREAK
    for word in words:
        starts = previous in ";.,!?:" or previous in _LEADING or not current
        if _base(word) is not None and starts and not _is_noun_use(current, previous):
            if current:
                yield current
            current = [word]
        elif word in ";.!?:":
            if current:
                yield current
            current = []
        elif current and word != ",":
            current.append(word)
        previous = word
    if current:
        yield current


def _is_noun_use(current: Sequence[str], previous: str) -> bool:
    """Whether a word that could be a verb is part of a noun phrase: "the set", "a clean plate"."""
    return bool(current) and previous in _DETERMINERS | {"to"}


def _parse_clause(clause: Sequence[str]) -> Instruction:
    base = _base(clause[0])
    assert base is not None
    verb, action = base
    rest = list(clause[1:])
    if rest and rest[0] in _PARTICLES:
        # "take out the cup", "put down it": the particle belongs to the verb, unless a place follows ("out of the box")
        follows = rest[1] if len(rest) > 1 else ""
        if follows != "of" and follows not in _RELATIONS:
            rest = rest[1:]
    elif rest[:1] == ["on"] and action == "articulate":
        rest = rest[1:]  # "turn on the light"
    phrases = list(_phrases(rest))
    head = phrases[0][1] if phrases and phrases[0][0] is None else None
    name = None if head is None else _noun_phrase(head)
    related = [(relation, _noun_phrase(phrase)) for relation, phrase in phrases if relation is not None]
    named = [(relation, target) for relation, target in related if target is not None]
    # Where it goes rather than where it comes from, if both are named.
    named.sort(key=lambda pair: pair[0] in ("from", "off", "out", "with", "using", "by"))
    relation, target = named[0] if named else (related[0][0] if related else None, None)
    return Instruction(action, verb, name, relation, target)


def _phrases(words: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """(preposition or None, words) for each phrase, up to a relative clause."""
    relation: str | None = None
    phrase: list[str] = []
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        # "that" begins a relative clause after a noun, and is an article before one.
        if word in _STOPS and not (word == "that" and not phrase):
            break
        if word in _RELATIONS:
            if phrase or relation is None:
                yield relation, phrase
            # "on top of", "out of", "in to": the inner word is the place.
            relation, phrase = (word, []) if phrase or relation is None else (f"{relation} {word}", [])
        elif (word == "of" and not phrase) or (word == "and" and (following in _RELATIONS or not following)):
            continue
        else:
            phrase.append(word)
    if phrase:
        yield relation, phrase


def _noun_phrase(words: Sequence[str]) -> str | None:
    """The phrase without articles, trailing adverbs, and places said of another thing; None for a mere pronoun."""
    kept = list(words)
    while kept and kept[0] in _DETERMINERS:
        kept = kept[1:]
    for side in ("top", "front", "middle", "center", "centre", "inside", "left", "right", "side"):
        # "the left side of the table": the thing named is the table.
        if "of" in kept and kept[0] == side and kept.index("of") <= 2:
            return _noun_phrase(kept[kept.index("of") + 1 :])
    while len(kept) > 1 and kept[-1] in _TRAILING:
        kept.pop()
    kept = [word for position, word in enumerate(kept) if position == 0 or word not in ("the", "a", "an")]
    if not kept or (len(kept) == 1 and kept[0] in _PRONOUNS | _TRAILING) or (len(kept) == 1 and kept[0].isdigit()):
        return None
    return " ".join(kept)


def _is_cloth(phrase: str) -> bool:
    # The last word is the head: a "towel rack" is not cloth, the "corner of the towel" is.
    return phrase.split()[-1] in _CLOTH


def _base(word: str) -> tuple[str, Action] | None:
    """(base form, action) of a verb in any form, None for other words."""
    word = _IRREGULAR.get(word, word)
    for candidate in _stems(word):
        if candidate in _ACTIONS:
            return candidate, _ACTIONS[candidate]
    return None


def _stems(word: str) -> Iterator[str]:
    yield word
    for ending in ("ing", "ed", "es", "s"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2:
            continue
        yield stem
        yield stem + "e"
        if stem[-1] == stem[-2:-1]:
            yield stem[:-1]
        if stem.endswith("i"):
            yield stem[:-1] + "y"


_ACTIONS: dict[str, Action] = {verb: action for action, verbs in _VERBS.items() for verb in verbs}
