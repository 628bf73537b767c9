"""Pictures say the numbers they were given, and nothing that somebody wrote becomes markup."""

import math
import re
from xml.etree import ElementTree as ET

import pytest
from lorahub_registry.pictures import (
    MapVerdict,
    Picture,
    bars,
    cosine_map,
    cosine_pairs,
    curve,
    difference_map,
    fit_matrix,
    lineage,
    norm_map,
    relative_map,
    share_map,
    share_pairs,
    spectrum,
)
from pages.payloads import PAYLOADS

NORMS = {f"model.layers.{i}.self_attn.{leaf}": (i + 1) / 7 + j for i in range(12) for j, leaf in enumerate("qkv")}
OTHERS = {module: norm * (0.5 if "q" in module else 2) for module, norm in NORMS.items()}
POINTS = [{"step": step, "loss": 2 / step, "learning_rate": 1e-4} for step in range(1, 9)] + [
    {"step": 8, "eval_loss": 0.5}
]
ALIKE = {
    f"model.layers.{i}.q": {
        "cosine": i / 4 - 0.6,
        "input": i / 4,
        "output": 0.5,
        "input_chance": 0.1,
        "output_chance": 0.2,
    }
    for i in range(4)
}
WHOLE = {"cosine": -0.3, "input": 0.375, "output": 0.5, "input_chance": 0.1, "output_chance": 0.2}
HOSTILE = "".join(PAYLOADS[:20])


def values_of(picture: Picture) -> list[str]:
    return [found for one in ET.fromstring(picture.svg).iter() if (found := one.get("data-value")) is not None]


def all_pictures(text: str) -> list[Picture]:
    return [
        norm_map({f"{text}.layers.3.{text}": 1.0, text: 0.0, "x": None}),
        relative_map({text: 1.0}),
        difference_map({text: 1.0}, {text: 2.0, f"a.{text}": 1.0}, (text, text)),
        cosine_map({text: WHOLE, f"a.{text}": WHOLE}, WHOLE),
        share_map({text: WHOLE, f"a.{text}": WHOLE}, WHOLE, "input"),
        cosine_pairs([text, text], {(0, 1): WHOLE}),
        share_pairs([text, text], {(0, 1): WHOLE}, "output"),
        fit_matrix([MapVerdict(text, text, text), MapVerdict("a", text, "fits")]),
        spectrum(text, [2.0, 1.0], 1.5),
        bars(text, {text: 3.0}, what=text),
        curve([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]),
        lineage(text, {"b": -1, text: 0, **{f"{number}{text}": 1 for number in range(20)}}, [("b", text)]),
    ]


def test_a_map_holds_the_norms_it_was_given() -> None:
    picture = norm_map(NORMS)
    drawn = [float(value) for value in values_of(picture)]
    assert sorted(drawn) == sorted(NORMS.values())
    assert [row[0] for row in picture.rows] == list(NORMS)
    assert "model.layers.11.self_attn.v with 3.714" in picture.finding
    whole = math.sqrt(sum(norm**2 for norm in NORMS.values()))
    assert f"norm {whole:.4g}" in picture.finding
    darkest = re.findall(r'class="cell q9" x="[^"]+" y="[^"]+"[^>]*data-value="([^"]+)"', picture.svg)
    assert darkest
    assert all(float(value) >= 0.9 * max(NORMS.values()) for value in darkest)


def test_a_difference_is_of_the_second_less_the_first() -> None:
    picture = difference_map(NORMS, OTHERS, ("a", "b"))
    assert sorted(map(float, values_of(picture))) == sorted(OTHERS[module] - NORMS[module] for module in NORMS)
    assert "24 are larger in b and 12 in a" in picture.finding
    assert "same norm" in difference_map(NORMS, NORMS, ("a", "b")).finding


def test_likeness_is_drawn_by_module_and_by_pair() -> None:
    cosines, shares = cosine_map(ALIKE, WHOLE), share_map(ALIKE, WHOLE, "input")
    assert list(map(float, values_of(cosines))) == [one["cosine"] for one in ALIKE.values()]
    assert list(map(float, values_of(shares))) == [one["input"] for one in ALIKE.values()]
    assert "partly in opposite ways: cosine -0.3; highest in model.layers.3.q (0.15)" in cosines.finding
    assert "share 38% of the directions that they listen to, where chance would make it 10%" in shares.finding
    assert "at right angles" in cosine_map(ALIKE, WHOLE | {"cosine": 0.01}).finding
    assert "almost the same way" in cosine_map(ALIKE, WHOLE | {"cosine": 0.95}).finding
    names, pairs = (
        ["o/a", "o/b", "o/c"],
        {(0, 1): WHOLE, (0, 2): WHOLE | {"cosine": 0.8}, (1, 2): WHOLE | {"output": 0.9}},
    )
    assert list(map(float, values_of(cosine_pairs(names, pairs)))) == [-0.3, 0.8, -0.3]
    assert cosine_pairs(names, pairs).finding == "o/a and o/b pull against each other most: cosine -0.3."
    assert "closest are o/a and o/c: cosine 0.8" in cosine_pairs(names, {(0, 2): pairs[0, 2]}).finding
    assert share_pairs(names, pairs, "output").finding.startswith("o/b and o/c overlap most in what they write: 90%")


def test_a_spectrum_a_curve_and_bars_hold_their_numbers() -> None:
    assert list(map(float, values_of(spectrum("m", [3.0, 1.5, 0.1], 1.75)))) == [3.0, 1.5, 0.1, 1.75]
    picture = curve(POINTS)
    assert list(map(float, values_of(picture))) == [2 / step for step in range(1, 9)] + [0.5]
    assert "from 2 at step 1 to 0.25 at step 8" in picture.finding
    assert values_of(bars("Downloads", {"1 Nov": 3.0, "2 Nov": 5.0}, what="downloads")) == ["3.0", "5.0"]


def test_a_matrix_and_a_lineage_hold_their_names() -> None:
    verdicts = [
        MapVerdict("o/a", "r1", "compatible"),
        MapVerdict("o/a", "r2", "incompatible"),
        MapVerdict("o/b", "r2", "fits"),
    ]
    picture = fit_matrix(verdicts)
    assert values_of(picture) == ["compatible", "incompatible", "fits"]
    assert picture.rows == [["o/a", "compatible", "incompatible"], ["o/b", None, "fits"]]
    assert "1 same base, 1 fit, 1 do not, 0 undecided" in picture.finding
    levels = {"o/base": -2, "o/parent": -1, "o/me": 0, "o/merge": 1}
    edges = [("o/base", "o/parent"), ("o/base", "o/me"), ("o/parent", "o/me"), ("o/me", "o/merge")]
    line = lineage("o/me", levels, edges)
    assert values_of(line) == list(levels)
    assert line.svg.count('class="link"') == len(edges)
    assert line.rows[2] == ["o/me", "this one", "o/base, o/parent"]
    assert "comes from 2 models, and 1 repository here comes from it" in line.finding
    many = lineage("o/me", {"o/me": 0, **{f"o/{number:02}": 1 for number in range(20)}}, [])
    assert len(values_of(many)) == 1 + 12
    assert "+8 more" in many.svg


@pytest.mark.parametrize("text", ["plain", HOSTILE, "\x00\x1b\u202e", "]]>&<"])
def test_every_picture_is_an_image_and_texts_stay_texts(text: str) -> None:
    for picture in all_pictures(text):
        root = ET.fromstring(picture.svg)
        assert root.get("role") == "img"
        assert root[0].tag == "title"
        assert root[0].text
        assert root[1].tag == "desc"
        assert root[1].text
        allowed = {"svg", "title", "desc", "rect", "text", "line", "path", "polyline", "circle"}
        assert {one.tag for one in root.iter()} <= allowed
        assert not [name for one in root.iter() for name in one.attrib if name.startswith("on") or name == "style"]


def test_nothing_to_draw_is_a_picture_too() -> None:
    empty = [
        norm_map({}),
        relative_map({}),
        difference_map({}, {}, ("a", "b")),
        fit_matrix([]),
        spectrum("m", [], None),
        curve([]),
    ]
    for picture in [*empty, bars("t", {}, what="x"), lineage("n", {"n": 0}, [])]:
        assert ET.fromstring(picture.svg).get("role") == "img"
