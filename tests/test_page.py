"""The interactive map and the quality report as a browser shows them: headless Chromium, no network."""

import json
import re
import shutil

import numpy as np
import pytest

import w2v_ext
from w2v_ext import page

ODD = ["</script><script>alert(1)</script>", "{{data}}", "<b>&amp;", "it's", '"quoted"', "爸爸"]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(20, 16)) * 3, 150, axis=0)
    words = ODD + [f"word{i}" for i in range(3000 - len(ODD))]
    return w2v_ext.KeyedVectors(words, centers + rng.normal(size=(3000, 16)), counts=np.arange(3000, 0, -1))


@pytest.fixture(scope="module")
def page_path(vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "map.html"
    themes = {"first <i>": ["word1", "word2", "word3"], "second": ["word500", "word501", "word502"]}
    missing = page.write_map_page(
        vectors, path, method="pca", themes={**themes, "gone": ["nosuch"]}, top=2900, title="A <map>"
    )
    assert missing == ["nosuch"]
    return path


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium on the PATH (apt install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page_path):
    """The page, opened; it must ask for nothing else and raise no error."""
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    tab.goto(page_path.as_uri())
    frame(tab)
    yield tab
    assert requests == [page_path.as_uri()]
    assert errors == []
    tab.close()


def frame(tab):
    """Wait until what has changed is drawn."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def labels(tab):
    return tab.evaluate("() => wordMap.labels()")


def test_page_holds_the_words_and_their_neighbours(page_path, vectors):
    text = page_path.read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert "<title>A &lt;map&gt;</title>" in text
    assert not re.search(r"https?://", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["words"][:6] == ["word1", "word2", "word3", "word500", "word501", "word502"]
    assert set(ODD) <= set(data["words"])
    assert data["group"][:7] == [0, 0, 0, 1, 1, 1, -1]
    assert len(data["words"]) == len(data["x"]) == len(data["y"]) == len(data["near"]) == 2900
    for i in (0, 5, 100):
        row = vectors.key_to_index[data["words"][i]]
        near = [(data["words"][w] if isinstance(w, int) else w, c) for w, c in data["near"][i]]
        expected = vectors.most_similar(row, topn=10)
        assert [w for w, _ in near] == [w for w, _ in expected]
        assert [c for _, c in near] == pytest.approx([c for _, c in expected], abs=6e-4)
    assert data["counts"][0] == vectors.counts[vectors.key_to_index["word1"]]


def test_labels_never_overlap_and_zooming_brings_more_words(opened):
    before = labels(opened)
    assert len(before) > 20
    for scale in (1, 3):
        boxes = [label["box"] for label in labels(opened)]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), scale
        opened.mouse.move(*opened.evaluate("() => wordMap.screen('word500')"))
        for _ in range(3):
            opened.mouse.wheel(0, -400)
        frame(opened)
    assert opened.evaluate("() => wordMap.scale()") > 3
    assert {label["word"] for label in labels(opened)} - {label["word"] for label in before}


def test_zoom_keeps_the_point_under_the_pointer_and_the_button_shows_all_again(opened):
    x, y = opened.evaluate("() => wordMap.screen('word500')")
    opened.mouse.move(x, y)
    opened.mouse.wheel(0, -600)
    frame(opened)
    assert opened.evaluate("() => wordMap.screen('word500')") == pytest.approx([x, y], abs=2)
    opened.click("[aria-label='Show all']")
    assert opened.evaluate("() => wordMap.scale()") == 1


def test_dragging_moves_the_map(opened):
    x, y = opened.evaluate("() => wordMap.screen('word500')")
    opened.mouse.move(600, 700)
    opened.mouse.down()
    opened.mouse.move(660, 650, steps=4)
    opened.mouse.up()
    assert opened.evaluate("() => wordMap.screen('word500')") == pytest.approx([x + 60, y - 50], abs=1)
    assert opened.evaluate("() => wordMap.selected()") is None


def test_pointing_at_a_word_tells_of_it(opened):
    assert opened.is_hidden("#tip")
    opened.evaluate("() => wordMap.select('word500')")
    opened.click("#close")
    x, y = opened.evaluate("() => wordMap.screen('word500')")
    opened.mouse.move(x + 1, y + 1)
    assert opened.inner_text("#tip") == "word500 · second · 2,494 times"
    opened.mouse.move(x + 1, y + 300)


def test_a_click_lists_the_neighbours_in_all_dimensions(opened, vectors):
    opened.evaluate("() => wordMap.select('word500')")
    opened.click("#close")
    frame(opened)
    opened.mouse.click(*opened.evaluate("() => wordMap.screen('word500')"))
    assert opened.evaluate("() => wordMap.selected()") == "word500"
    assert opened.inner_text("#card h2") == "word500"
    (first, cosine), *_ = vectors.most_similar("word500", topn=1)
    assert opened.inner_text("#card li:first-child").split() == [first, f"{cosine:.2f}"]
    opened.click("#card li button:not([disabled])")
    assert opened.evaluate("() => wordMap.selected()") != "word500"
    opened.keyboard.press("Escape")
    assert opened.is_hidden("#card")


def test_search_finds_exact_then_beginnings_then_inner(opened):
    opened.keyboard.press("/")
    opened.keyboard.type("WORD50")
    found = opened.locator("#found li").all_inner_texts()
    assert found[:3] == ["word50", "word500", "word501"]
    assert len(found) == 11
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    frame(opened)
    assert opened.evaluate("() => wordMap.selected()") == "word500"
    assert opened.evaluate("() => wordMap.screen('word500')") == pytest.approx([600, 400], abs=1)
    assert opened.evaluate("() => wordMap.scale()") > 1
    opened.fill("#search", "nosuchword")
    assert opened.inner_text("#found") == "no such word on this map"
    opened.fill("#search", "爸")
    assert opened.locator("#found li").all_inner_texts() == ["爸爸"]


@pytest.mark.parametrize("word", ODD)
def test_words_like_markup_are_words(opened, word):
    opened.fill("#search", word)
    opened.press("#search", "Enter")
    assert opened.inner_text("#card h2") == word
    assert opened.evaluate("() => wordMap.selected()") == word


def test_groups_can_be_hidden(opened):
    assert [t.split("\n")[0] for t in opened.locator("#legend li").all_inner_texts()] == [
        "first <i>",
        "second",
        "gone",
        "in no group",
    ]
    opened.click("#legend li:nth-child(4) button")
    frame(opened)
    assert {label["word"] for label in labels(opened)} <= {f"word{i}" for i in (1, 2, 3, 500, 501, 502)}
    opened.click("#legend li:nth-child(2) button")
    frame(opened)
    assert {label["word"] for label in labels(opened)} <= {"word1", "word2", "word3"}
    assert opened.get_attribute("#legend li:nth-child(2) button", "aria-pressed") == "false"


def test_points_have_the_colour_of_their_group(opened):
    opened.click("#legend li:nth-child(4) button")  # nothing else in the way
    frame(opened)
    x, y = opened.evaluate("() => wordMap.screen('word500')")
    pixel = opened.evaluate(
        "([x, y]) => [...document.getElementById('map').getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    red, green, blue = (int(page.PALETTE[1][i : i + 2], 16) for i in (1, 3, 5))
    assert pixel[:3] == pytest.approx([red * 0.85 + 38, green * 0.85 + 38, blue * 0.85 + 38], abs=3)  # 85 % on white


def test_quality_report_shows_its_pictures_and_asks_for_nothing(browser, vectors, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra viz)")
    report = w2v_ext.analyze_embedding_quality(vectors, themes={"one": ["word1", "word2"], "two": ["word9", "word8"]})
    path = tmp_path / "report.html"
    report.save_html(path, title="Report & more")
    tab = browser.new_page(viewport={"width": 1000, "height": 800})
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url.split(",")[0]))
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(path.as_uri())
    assert tab.inner_text("h1") == "Report & more"
    shown = tab.evaluate("() => [...document.images].map(image => image.complete && image.naturalWidth > 100)")
    assert shown == [True] * 6
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 1000
    tab.set_viewport_size({"width": 420, "height": 800})
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 420
    assert set(requests) <= {path.as_uri(), "data:image/svg+xml;base64"}
    assert errors == []


def test_bad_number_of_neighbours(vectors, tmp_path):
    with pytest.raises(ValueError, match="shown_neighbors: expected a number >= 0, got -1"):
        page.write_map_page(vectors, tmp_path / "m.html", shown_neighbors=-1)
    page.write_map_page(vectors, tmp_path / "m.html", method="pca", shown_neighbors=0, top=10)
