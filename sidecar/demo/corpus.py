"""The documents of the demo: six out of each topic in topics.toml, and their passages. Deterministic for a seed."""

import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Topic(NamedTuple):
    """One subject and six facts about it, each a sentence or two."""

    name: str
    what: str
    why: str
    see: str
    wrong: str
    fix: str
    note: str


class Document(NamedTuple):
    """A short text. `id` is stable: the topic and the kind of document."""

    id: str
    title: str
    text: str


class Passage(NamedTuple):
    """A piece of a document that fits a prompt, made of whole sentences."""

    document: Document
    text: str


_DOCUMENTS = {
    "introduction": ("{Name} explained", "The meaning of {name}: {what} {why} {note} See also {other} and {another}."),
    "measuring": (
        "Measuring {name}",
        "To measure {name} or to look at it: {see} {what} {note} "
        "Take one value at rest and one under load, and compare with {other}.",
    ),
    "trouble": (
        "What goes wrong with {name}",
        "What goes wrong with {name}, the usual problem and its symptom: {wrong} {note} What to check first: {see} "
        "It is easily mistaken for a matter of {other}.",
    ),
    "remedies": (
        "Fixing problems with {name}",
        "What helps against problems with {name}, the first fix to try: {fix} The reason: {wrong} "
        "To check that it has worked: {see} If it has not, look at {other}.",
    ),
    "incident": (
        "Incident review: {name} in {service}",
        "At {hour}:{minute} the service {service} paged with {used} MB in use of a limit of {limit} MB. "
        "The people on call suspected {other} at first and lost {lost} minutes. In the end the cause of the incident "
        "was a matter of {name}, as follows. {wrong} What they looked at to be sure: {see} What they did: {fix} "
        "Memory fell to {after} MB and the alert resolved {resolved} minutes later.",
    ),
    "questions": (
        "Frequent questions about {name}",
        "What is {name}, in one sentence? {what} Why is it important, why should I care? {why} "
        "How do I see it? {see} What should I do about it? {fix} Is there a trap? {note}",
    ),
}

_SERVICES = ("answers-eu", "answers-us", "docs-search", "support-chat", "code-assistant", "contract-reader", "wiki-bot")


def topics() -> tuple[Topic, ...]:
    """All topics of topics.toml in the order of the file."""
    with Path(__file__).with_name("topics.toml").open("rb") as file:
        return tuple(Topic(**topic) for topic in tomllib.load(file)["topic"])


def documents(seed: int) -> Iterator[Document]:
    """Six documents per topic. `seed` decides the cross-references and the figures of the incidents."""
    rng = random.Random(seed)
    known = topics()
    for number, topic in enumerate(known):
        near = [each.name for each in known[max(0, number - 3):number + 4] if each is not topic]  # the file is in order
        for kind, (title, template) in _DOCUMENTS.items():
            fill = {**topic._asdict(), **_details(topic, near, rng)}
            slug = re.sub(r"\W+", "-", topic.name).strip("-").lower()
            yield Document(f"{slug}/{kind}", title.format(**fill), template.format(**fill))


def _details(topic: Topic, near: list[str], rng: random.Random) -> dict[str, str]:
    other, another = rng.sample(near, 2)
    limit_mb = rng.choice((512, 1024, 2048, 4096, 8192))
    used_mb = round(limit_mb * rng.uniform(0.86, 0.97))
    return {
        "Name": topic.name[0].upper() + topic.name[1:],
        "other": other,
        "another": another,
        "service": rng.choice(_SERVICES),
        "hour": f"{rng.randrange(24):02}",
        "minute": f"{rng.randrange(60):02}",
        "limit": str(limit_mb),
        "used": str(used_mb),
        "after": str(round(used_mb * rng.uniform(0.3, 0.6))),
        "lost": str(rng.randrange(8, 50)),
        "resolved": str(rng.randrange(2, 9)),
    }


def sentences(text: str) -> list[str]:
    """`text` cut after full stops, question and exclamation marks."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


def passages(document: Document, *, length: int = 640, overlap: int = 160) -> Iterator[Passage]:
    """The document in pieces of whole sentences: about `length` characters each, the last `overlap` of them repeated.

    At least one sentence is repeated: without it the one before, which often explains the next, would not be found.
    """
    current: list[str] = []
    for sentence in sentences(document.text):
        if current and sum(map(len, current)) + len(sentence) > length:
            yield Passage(document, " ".join(current))
            while len(current) > 1 and sum(map(len, current)) > overlap:
                del current[0]
        current.append(sentence)
    yield Passage(document, " ".join(current))
