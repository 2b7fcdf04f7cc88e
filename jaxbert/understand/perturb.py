"""Disturb texts as people and machines do: typing mistakes, case, punctuation, spaces, wrong characters, lost words.

Pure functions of a text, a kind, a strength and a seed, which know nothing of models. The letters and words are those of
English and Chinese; each Chinese character is a word of its own.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec

from jaxbert.errors import UserError

STRENGTHS = (0.05, 0.1, 0.2)
"""The shares of the places of a text that are changed, at least one place."""
_UNIT = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]*[^\W\u3400-\u9fff][^\s\u3400-\u9fff]*")
"""A word, or a Chinese character."""
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_MARKS = re.compile(r"[^\w\s]")
_LATIN_MARKS, _CHINESE_MARKS = ",.!?;:-", "，。！？；：、"
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Characters that are taken for each other, in print or handwriting.
_LOOK_ALIKES = (
    *("0O", "1lI", "5S", "8B", "2Z", "uv", "nh", "ce", "gq", "ft", "ij", "VY", "OQ", "EF", "PR", "MN"),
    *(
        "己已巳",
        "未末",
        "土士",
        "人入八",
        "日曰",
        "天夭",
        "干千于",
        "大太犬",
        "戊戌戍",
        "田由甲申",
        "贝见",
        "午牛",
        "木本术",
        "王玉主",
    ),
    *(
        "兔免",
        "鸟乌",
        "折拆析",
        "候侯",
        "辩辨辫",
        "暑署",
        "拔拨",
        "晴睛",
        "请清情",
        "今令",
        "仓仑",
        "历厉",
        "风凤",
        "元无",
        "开井",
    ),
    *(
        "刀力",
        "九丸",
        "了子",
        "几儿",
        "又叉",
        "万方",
        "车东",
        "办为",
        "书韦",
        "史吏",
        "外处",
        "左右",
        "白自",
        "目且",
        "石右",
        "名各",
    ),
    *(
        "住往",
        "作昨",
        "但担",
        "坐座",
        "快块",
        "低底",
        "何河",
        "间问",
        "问闷",
        "买卖",
        "实买",
        "泉帛",
        "哀衰",
        "狠狼",
        "徒陡",
        "遗遣",
    ),
    *(
        "竞竟",
        "幕慕墓",
        "梁粱",
        "蓝篮",
        "弛驰",
        "杨扬",
        "揭竭",
        "偏遍编",
        "蜜密",
        "栽裁载",
        "喝渴",
        "抱饱跑",
        "洒酒",
        "茶荼",
        "崇祟",
    ),
    *(
        "毫豪",
        "享亨",
        "孟盂",
        "券卷",
        "旅族",
        "赢羸",
        "堤提",
        "摸模",
        "场扬",
        "校较",
        "材村",
        "板版",
        "纪记",
        "象像",
        "历力",
        "值植",
    ),
    *(
        "借惜",
        "烧浇",
        "挑桃",
        "抗杭",
        "汗汁",
        "泊怕",
        "贫贪",
        "货贷",
        "赏尝",
        "即既",
        "却去",
        "师帅",
        "苦若",
        "管菅",
        "妹姝",
        "育盲",
    ),
)


def _chosen(places: list[int], strength: float, rng: random.Random) -> list[int]:
    """Choose a share of the places, at least one of them, the last ones first."""
    return sorted(rng.sample(places, min(len(places), max(1, round(strength * len(places))))), reverse=True)


def _typos(text: str, strength: float, rng: random.Random) -> str:
    letters = list(text)
    for place in _chosen([i for i, letter in enumerate(text) if letter.isascii() and letter.isalpha()], strength, rng):
        way, follows = rng.randrange(4), place + 1 < len(letters) and letters[place + 1].isalpha()
        if way == 0 and follows and letters[place] != letters[place + 1]:
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        elif way == 1 and follows:
            del letters[place]
        elif way == 2:
            letters.insert(place, letters[place])
        else:
            letters[place] = _neighbour(letters[place], rng)
    return "".join(letters)


def _neighbour(letter: str, rng: random.Random) -> str:
    """Return a letter beside this one on a keyboard."""
    row = next(row for row in _KEYBOARD if letter.lower() in row)
    place = row.index(letter.lower())
    found = rng.choice([row[i] for i in (place - 1, place + 1) if 0 <= i < len(row)])
    return found.upper() if letter.isupper() else found


def _case(text: str, strength: float, rng: random.Random) -> str:
    words = [found for found in _UNIT.finditer(text) if found[0].upper() != found[0].lower()]
    for place in _chosen([*range(len(words))], strength, rng) if words else ():
        found = words[place]
        forms = {form for form in (found[0].upper(), found[0].lower(), found[0].title()) if form != found[0]}
        text = text[: found.start()] + rng.choice(sorted(forms)) + text[found.end() :]
    return text


def _punctuation(text: str, strength: float, rng: random.Random) -> str:
    marks = [found.start() for found in _MARKS.finditer(text)]
    if marks and rng.random() < 0.5:
        for place in _chosen(marks, strength, rng):
            text = text[:place] + text[place + 1 :]
        return text
    new = _CHINESE_MARKS if _CHINESE.search(text) else _LATIN_MARKS
    for place in _chosen([found.end() for found in _UNIT.finditer(text)], strength, rng):
        text = text[:place] + rng.choice(new) + text[place:]
    return text


def _spacing(text: str, strength: float, rng: random.Random) -> str:
    spaces = [i for i, letter in enumerate(text) if letter == " "]
    within = [i for i in range(1, len(text)) if not text[i - 1].isspace() and not text[i].isspace()]
    if spaces and (not within or rng.random() < 0.5):
        for place in _chosen(spaces, strength, rng):
            text = text[:place] + text[place + 1 :]
        return text
    for place in _chosen(within, strength, rng):
        text = text[:place] + " " + text[place:]
    return text


def _replacing(others: Callable[[], Mapping[str, str]]) -> Callable[[str, float, random.Random], str]:
    """Return a disturbance that replaces characters by others that a table gives."""

    def replace(text: str, strength: float, rng: random.Random) -> str:
        table, letters = others(), list(text)
        for place in _chosen([i for i, letter in enumerate(text) if letter in table], strength, rng):
            letters[place] = rng.choice(table[letters[place]])
        return "".join(letters)

    return replace


def _groups(groups: Iterable[str]) -> dict[str, str]:
    """Return, for each character, the others of its groups."""
    found: dict[str, str] = defaultdict(str)
    for group in groups:
        for letter in group:
            found[letter] += group.replace(letter, "")
    return {letter: others for letter, others in found.items() if others}


@cache
def _look_alikes() -> dict[str, str]:
    return _groups(_LOOK_ALIKES)


@cache
def _homophones() -> dict[str, str]:
    """Return, for each of the common Chinese characters, the others that sound the same, tone included."""
    from pypinyin import Style, pinyin

    by_sound: dict[str, str] = defaultdict(str)
    for letter in _common_characters():
        by_sound[pinyin(letter, style=Style.TONE3)[0][0]] += letter
    return _groups(by_sound.values())


def _common_characters() -> Iterable[str]:
    """Return the 3,755 characters of the first level of GB 2312, the most common ones."""
    for high in range(0xB0, 0xD8):
        for low in range(0xA1, 0xFF):
            try:
                yield bytes((high, low)).decode("gb2312")
            except UnicodeDecodeError:
                continue


def _dropped(text: str, strength: float, rng: random.Random) -> str:
    words = [*_UNIT.finditer(text)]
    if len(words) < 2:
        return text
    for place in _chosen([*range(len(words))], strength, rng)[: len(words) - 1]:  # one stays
        begin, end = words[place].span()
        end += text[end : end + 1] == " "
        text = text[:begin] + text[end:]
    return text


def _repeated(text: str, strength: float, rng: random.Random) -> str:
    words = [*_UNIT.finditer(text)]
    for place in _chosen([*range(len(words))], strength, rng):
        begin, end = words[place].span()
        between = "" if _CHINESE.match(words[place][0]) else " "
        text = text[:end] + between + text[begin:end] + text[end:]
    return text


_WAYS: dict[str, Callable[[str, float, random.Random], str]] = {
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
    "spacing": _spacing,
    "homophones": _replacing(_homophones),
    "look_alikes": _replacing(_look_alikes),
    "dropped_words": _dropped,
    "repeated_words": _repeated,
}
KINDS = tuple(_WAYS)
"""The kinds of disturbances."""


def check_kind(kind: str) -> None:
    """Check that a kind of disturbance is known, and that what it needs is installed.

    Raises:
      UserError: if not.
    """
    if kind not in _WAYS:
        raise UserError(f"kinds: there is no {kind}, only {', '.join(KINDS)}")
    if kind == "homophones" and find_spec("pypinyin") is None:
        raise UserError(
            "homophones need the package pypinyin: pip install 'jaxbert[robustness]', or leave that kind out"
        )


def perturb(text: str, kind: str, strength: float, seed: str) -> str:
    """Return a text after a disturbance; unchanged if it has no place for it.

    Args:
      text: the text.
      kind: one of `KINDS`.
      strength: the share of its places (letters, words, characters) that are changed, above 0; at least one is.
      seed: decides the places and the changes, together with kind and strength.
    """
    if not text.strip():
        return text
    changed = _WAYS[kind](text, strength, random.Random(f"{seed}/{kind}/{strength}"))
    return changed if changed.strip() else text
