"""A generated corpus with planted meaning: what a newcomer trains on when no corpus is given.

Every sentence is made here from templates of our own; no text of others is in it. Words of one *class* (animals,
months, ...) fill the same templates, so their vectors come to lie together. Words of one *pair* (france, paris) fill
the templates of two different roles (country, capital) but keep company with the same few words of their own
("french", "baguette"): a vector becomes roughly role + pair, which is what makes
`vec(king) - vec(man) + vec(woman)` land on `queen`.

Template grammar: words separated by spaces; `a|b|c` is one of them at random; `@` is the class's word; `#` is one of
that word's own companions.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from .files import cache_directory

_BLOCK = 8192  # sentences generated, shuffled and written at a time: bounds the memory, whatever the corpus size
_FAVOURITE = 0.5  # how often a class word takes "its" option of a choice: what tells it from the rest of its class


@dataclass(frozen=True)
class _Group:
    """Words that fill the same templates. `companions[i]` are the words only `words[i]` (and its partner) attracts."""

    words: tuple[str, ...]
    templates: tuple[str, ...]
    companions: tuple[tuple[str, ...], ...] = ()


def _group(words: str, *templates: str) -> _Group:
    return _Group(tuple(words.split()), templates)


_PLAIN: dict[str, _Group] = {
    "animals": _group(
        "dog cat horse cow sheep goat pig rabbit fox wolf bear lion tiger elephant monkey deer",
        "the hungry|wild|tame|furry @ sleeps|feeds|hides|grazes near the barn|forest|meadow|den",
        "a @ with a long|short|bushy tail|muzzle chased|sniffed its prey|herd",
        "farmers|hunters|vets heard the @ growl|howl|grunt behind the barn|fence|den",
    ),
    "fruits": _group(
        "apple banana cherry peach plum pear grape mango lemon orange strawberry apricot melon fig",
        "she peeled|sliced|tasted a ripe|sweet|juicy|sour @ for dessert|breakfast",
        "the @ pie|jam|juice|tart smells sweet|sour|delicious",
        "pick the ripe|juicy @ from the orchard|basket before harvest|dessert",
    ),
    "colours": _group(
        "red blue green yellow purple pink brown black white grey violet turquoise",
        "he painted|dyed|sprayed the wall|curtain|fabric bright|vivid|pale @",
        "a shade|tint of bright|vivid|pale @ suits the fabric|scarf|curtain",
        "her @ scarf|coat|ribbon|paint faded in the wash",
    ),
    "months": _group(
        "january february march april may june july august september october november december",
        "the festival|semester|deadline|holiday begins|ends in early|late|mid @",
        "in late|early|mid @ the weather|calendar|season changes|turns",
        "by @ last year|season the calendar|schedule was full",
    ),
    "numbers": _group(
        "two three four five six seven eight nine ten eleven twelve twenty thirty hundred",
        "add|subtract|multiply @ plus|minus|times the sum|digit|total",
        "the total|sum|score was exactly|roughly|nearly @ dollars|points|percent",
        "about|exactly @ minutes|dollars|metres remained in total",
    ),
    "vehicles": _group(
        "car truck bus train bicycle motorcycle van tram taxi ferry airplane helicopter scooter tractor",
        "the @ engine|brake|wheel|motor broke|stalled on the highway|route|ramp",
        "passengers|drivers|commuters boarded|parked|steered the @ at the station|terminal|garage",
        "mechanics repaired|refuelled the rusty|speedy @ in the garage|terminal",
    ),
    "furniture": _group(
        "chair table sofa desk bed cupboard bookshelf wardrobe stool bench armchair dresser cabinet",
        "the wooden|antique|cushioned @ stands|sits in the bedroom|hallway|lounge",
        "carpenters|movers assembled|polished|varnished a wooden|oak @ for the lounge|bedroom",
        "put the lamp|cushion|vase beside|upon the antique|oak @",
    ),
    "emotions": _group(
        "joy anger fear sadness pride shame envy grief hope disgust surprise jealousy delight",
        "she felt|hid|showed profound|sudden|intense @ in her heart|soul",
        "tears|feelings|waves of @ overwhelmed|filled his heart|mind|soul",
        "his sudden|intense|quiet @ faded|grew after the quarrel|news",
    ),
    "instruments": _group(
        "piano violin guitar flute trumpet cello drum harp clarinet saxophone trombone oboe banjo",
        "the musician|soloist|pupil plays|practises|tunes the @ in the orchestra|band|concert",
        "a @ melody|solo|concerto|sonata echoed through the concert|rehearsal hall",
        "the orchestra|band needs|hired a gifted|skilled @ soloist|pupil",
    ),
    "sports": _group(
        "football tennis basketball hockey baseball golf cricket rugby volleyball badminton handball boxing",
        "the team|coach|champion won|lost the @ match|tournament|league",
        "fans|athletes watch|love professional|amateur @ at the stadium|arena|club",
        "the @ coach|referee|champion trained|cheered before the final|league",
    ),
    "professions": _group(
        "doctor teacher lawyer engineer nurse plumber baker carpenter scientist journalist architect dentist",
        "the seasoned|retired|busy @ earns|negotiates|demands a salary|wage|contract",
        "she trained|qualified|works as a @ at the firm|office|agency",
        "clients|employers hired|consulted a seasoned|qualified @ at the office|firm",
    ),
    "drinks": _group(
        "coffee tea milk water wine beer cocoa lemonade cider soda whisky rum",
        "he poured|sipped|spilled hot|chilled|iced @ from the mug|bottle|jug",
        "a cup|glass|mug|bottle of @ quenches thirst at the tavern|cafe",
        "waiters served|brewed iced|fresh @ at the tavern|cafe|counter",
    ),
}

# Two roles and, per pair, the companions that both of its words attract.
_PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "country:capital": (
        (
            "the government|army|president of @ signed|rejected the treaty with # allies",
            "@ exports|imports # goods across its border|frontier",
            "the # constitution|parliament governs all of @",
            "@ is a sovereign|proud nation|republic of # citizens",
        ),
        (
            "the mayor|suburbs|streets of @ attract # tourists downtown",
            "@ has # museums|cathedrals|boulevards and a subway downtown",
            "the # airport|skyline lies outside @ near the suburbs",
            "tourists in @ visit # museums|boulevards|squares by subway",
        ),
        """france:paris french baguette | italy:rome italian pasta | germany:berlin german pretzel
        spain:madrid spanish flamenco | japan:tokyo japanese sushi | china:beijing chinese dumpling
        russia:moscow russian vodka | greece:athens greek olive | egypt:cairo egyptian pyramid
        england:london english tweed | austria:vienna austrian waltz | poland:warsaw polish amber
        sweden:stockholm swedish sauna | portugal:lisbon portuguese cork""",
    ),
    "male:female": (
        (
            "the # @ shaved his beard|moustache himself",
            "he is a # @ who buttoned his shirt|waistcoat",
            "his # friend called him a fine @ and sir",
            "that @ combed his beard|moustache beside the #",
        ),
        (
            "the # @ wore her gown|necklace herself",
            "she is a # @ who braided her skirt|blouse",
            "her # friend called her a fine @ and madam",
            "that @ fastened her gown|necklace beside the #",
        ),
        """king:queen throne crown royal | prince:princess heir castle royal | duke:duchess estate title royal
        father:mother parent toddler family | brother:sister sibling twin family | husband:wife married wedding family
        uncle:aunt cousin relative family | man:woman adult grownup ordinary | boy:girl young playground ordinary
        actor:actress stage film evening | waiter:waitress menu restaurant evening | monk:nun convent prayer solemn
        wizard:witch spell potion fairytale | hero:heroine brave legend fairytale""",
    ),
    "singular:plural": (
        (
            "this single @ has a # on it",
            "each @ is one # thing",
            "every single @ was # and lonely",
            "one # @ is there alone",
        ),
        (
            "these several @ have many # among them",
            "many @ are numerous # things",
            "several numerous @ were # and together",
            "dozens of # @ are everywhere together",
        ),
        """book:books pages chapter | tree:trees leafy bark | river:rivers muddy flowing
        house:houses roof chimney | flower:flowers petals blossom | door:doors hinge knob
        stone:stones pebble granite | star:stars twinkling galaxy | cloud:clouds fluffy rain
        road:roads asphalt paved | bird:birds feathers nest | ship:ships sail anchor
        key:keys locksmith lock | letter:letters envelope stamp""",
    ),
    "adjective:comparative": (
        (
            "it is a very|rather|fairly @ # indeed",
            "the # looks quite|extremely @ to me",
            "how very|quite @ it seems",
            "rather|fairly|extremely @ indeed it seems to me",
        ),
        (
            "it is much|far @ than the # before",
            "this # became even|still @ than expected",
            "it grows much|even @ than ever before",
            "far|still @ than expected and growing @ ever since",
        ),
        """big:bigger giant whale | tall:taller tower height | cold:colder ice frost
        fast:faster rocket sprint | old:older ancient ruin | loud:louder thunder noise
        hard:harder rock steel | warm:warmer sunshine blanket | strong:stronger muscle bull
        rich:richer wealth banker | dark:darker cave midnight | deep:deeper ocean trench
        light:lighter feather balloon | cheap:cheaper bargain discount""",
    ),
}

# Words without meaning of their own, before and after about half of all sentences.
_OPENINGS = (
    "yesterday|today|sometimes|often|usually|perhaps|surely",
    "we know|heard|read|think that",
    "as you surely know",
    "people|neighbours|friends say|believe that",
)
_ENDINGS = (
    "again|too|anyway|somehow|already",
    "of course",
    "as usual|always",
    "or so they|we say",
)


def _parse_pairs(text: str) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, ...], ...]]:
    """Split `a:b x y` entries into the pairs (a, b) and their companions (x, y)."""
    entries = [entry.split() for line in text.splitlines() for entry in line.split("|")]
    pairs = tuple((first, second) for first, second in (entry[0].split(":") for entry in entries))
    return pairs, tuple(tuple(entry[1:]) for entry in entries)


def _build_groups() -> tuple[list[_Group], dict[str, tuple[str, ...]], list[tuple[str, str, str, str]]]:
    """All groups, the words of each class, and the analogies of every relation (each ordered pair of pairs)."""
    groups = list(_PLAIN.values())
    classes = {name: group.words for name, group in _PLAIN.items()}
    analogies: list[tuple[str, str, str, str]] = []
    for relation, (left_templates, right_templates, text) in _PAIRS.items():
        pairs, companions = _parse_pairs(text)
        for name, words, templates in zip(
            relation.split(":"), zip(*pairs, strict=True), (left_templates, right_templates), strict=True
        ):
            groups.append(_Group(words, templates, companions))
            classes[name] = words
        analogies += [(a, b, c, d) for (a, b), (c, d) in permutations(pairs, 2)]
    return groups, classes, analogies


_GROUPS, BUILTIN_CLASSES, BUILTIN_ANALOGIES = _build_groups()
"""BUILTIN_CLASSES: class name -> its words. BUILTIN_ANALOGIES: (a, b, c, d) with b - a + c = d, as man, woman, king,
queen."""

BUILTIN_PROBES: tuple[str, ...] = ("king", "france", "tiger", "violin", "bigger")
"""Words whose neighbours are worth showing."""

BUILTIN_PROBE_PAIRS: tuple[tuple[str, str], ...] = (("king", "queen"), ("tiger", "lion"), ("tiger", "violin"))
"""Two pairs that come to lie together, and one that does not."""


def _pick(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Return `size` integers in [0, n). From doubles, whose stream NumPy has never changed, unlike `integers`'."""
    return (rng.random(size) * n).astype(np.int64)


def _fill(template: str, group: _Group | None, size: int, rng: np.random.Generator) -> list[str]:
    """Return `size` sentences of one template."""
    columns: list[list[str]] = []
    word = _pick(rng, len(group.words), size) if group else np.zeros(size, dtype=np.int64)
    for position, token in enumerate(template.split()):
        if group and token == "@":
            columns.append(np.array(group.words, dtype=object)[word].tolist())
        elif group and token == "#":
            table = np.array(group.companions, dtype=object)  # (words, companions)
            columns.append(table[word, _pick(rng, table.shape[1], size)].tolist())
        else:
            options = np.array(token.split("|"), dtype=object)
            choice = _pick(rng, len(options), size)
            if group and not group.companions and len(options) > 1:
                # Each word leans towards one option of every choice; the stride differs from one choice to the next.
                favourite = (word * (1 + position % 3) + position) % len(options)
                choice = np.where(rng.random(size) < _FAVOURITE, favourite, choice)
            columns.append(options[choice].tolist())
    return list(map(" ".join, zip(*columns, strict=True)))


def _affixes(templates: tuple[str, ...], size: int, rng: np.random.Generator) -> np.ndarray:
    """Return `size` fillers, half of them empty."""
    table = np.array([_fill(template, None, size, rng) for template in templates] + [[""] * size] * len(templates))
    return table[_pick(rng, len(table), size), np.arange(size)]


def _blocks(sentences: int, seed: int) -> Iterator[list[str]]:
    """Yield the corpus in blocks of lines."""
    rng = np.random.Generator(np.random.PCG64(seed))
    templates = [(template, group) for group in _GROUPS for template in group.templates]
    # A group gets sentences in proportion to its words, so that all words of all classes are about equally frequent.
    share = np.cumsum([len(group.words) / len(group.templates) for _, group in templates])
    for start in range(0, sentences, _BLOCK):
        size = min(_BLOCK, sentences - start)
        which = np.searchsorted(share, rng.random(size) * share[-1], side="right")
        lines: list[str] = []
        for (template, group), count in zip(templates, np.bincount(which, minlength=len(templates)), strict=True):
            lines += _fill(template, group, int(count), rng)
        order = np.argsort(rng.random(size), kind="stable")
        openings, endings = _affixes(_OPENINGS, size, rng), _affixes(_ENDINGS, size, rng)
        yield [
            " ".join(filter(None, (opening, lines[i], ending)))
            for i, opening, ending in zip(order.tolist(), openings.tolist(), endings.tolist(), strict=True)
        ]


def write_builtin_corpus(path: str | os.PathLike[str], *, sentences: int = 100_000, seed: int = 1) -> None:
    """Write the built-in corpus to `path`: UTF-8, one sentence a line, lower case, words separated by one space.

    Args:
        path: the file to write; replaced when it exists.
        sentences: number of lines, about 12 words each.
        seed: the same seed and number of sentences give the same bytes.

    Raises:
        ValueError: `sentences` is not positive.
        OSError: `path` cannot be written.
    """
    if sentences < 1:
        raise ValueError(f"sentences: expected a positive number, got {sentences}")
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        for block in _blocks(sentences, seed):
            file.write("\n".join(block))
            file.write("\n")


def builtin_corpus_path(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the built-in corpus as a file, writing it the first time.

    Args:
        cache_dir: the cache; None for the default (see `files.cache_directory`).

    Raises:
        OSError: the cache cannot be written.
    """
    directory = cache_directory(cache_dir, "builtin")
    # The name changes with the text, so that a later version of the library does not train on an older one's.
    recipe = repr((_GROUPS, _OPENINGS, _ENDINGS, _FAVOURITE, _BLOCK))
    path = directory / f"builtin-{zlib.crc32(recipe.encode()):08x}.txt"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write_builtin_corpus(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path
