"""An example in; the prompt that a decoder goes on from, and the answer that it is taught, out (no torch).

    classification   Text: TEXT            Label: LABEL
    multilabel       Text: TEXT            Labels: ONE, OTHER      (or: none)
    rating           Text: TEXT            Rating: 3.5
    span, answer     Text: CONTEXT         Question: QUESTION      Answer: ANSWER   (or: no answer)
    translation      Source: TEXT          Target: TEXT
    summarisation    Text: TEXT            Summary: TEXT

each part on a line of its own. An answer begins with a space, since words do in running text.
"""

from collections.abc import Callable, Sequence

from stepladder.tune.rows import Example, Kind

NO_ANSWER, NO_LABEL = "no answer", "none"
_NAMES: dict[Kind, tuple[str, str]] = {
    "classification": ("Text", "Label"),
    "multilabel": ("Text", "Labels"),
    "rating": ("Text", "Rating"),
    "span": ("Text", "Answer"),
    "answer": ("Text", "Answer"),
    "translation": ("Source", "Target"),
    "summarisation": ("Text", "Summary"),
}


def parts_of(example: Example, kind: Kind) -> tuple[str, str, str]:
    """What stands before the text, the text, and what stands behind it: only the text may be cut."""
    before, behind = _NAMES[kind]
    question = f"\nQuestion: {example.question}" if example.question else ""
    return f"{before}:", f" {example.text}", f"{question}\n{behind}:"


def prompt_of(example: Example, kind: Kind) -> str:
    """Up to where the answer begins."""
    return "".join(parts_of(example, kind))


def answer_of(example: Example, kind: Kind) -> str:
    """What training teaches: the first target, or all labels that apply; the end of text follows."""
    if kind == "multilabel":
        return " " + (", ".join(example.targets) or NO_LABEL)
    if kind == "rating":
        return f" {float(example.label):.3g}"
    if kind in ("span", "answer") and not example.targets:
        return f" {NO_ANSWER}"
    return f" {example.label}"


def said(text: str, kind: Kind) -> str:
    """The answer in a generated text: its first line; empty where it says that there is none."""
    line = text.strip().partition("\n")[0].strip()
    return "" if kind in ("span", "answer") and line == NO_ANSWER else line


def few_shot(examples: Sequence[Example], kind: Kind) -> str:
    """Prompts with their answers, each followed by an empty line: what precedes the prompt in question."""
    return "".join(prompt_of(one, kind) + answer_of(one, kind) + "\n\n" for one in examples)


def prompt_ids(encode: Callable[[str], Sequence[int]], example: Example, kind: Kind, room: int) -> list[int]:
    """Ids of the prompt in at most `room`: the end of the text is cut, never the question or the names.

    The three parts are encoded apart, in training as in use, so that a cut changes no other id.
    """
    before, text, behind = (list(encode(part)) for part in parts_of(example, kind))
    left = room - len(before) - len(behind)
    # A question that is longer than the room is cut too: its end, with the answer's name, stays.
    return [*before, *text[: max(left, 0)], *behind][-room:]
