"""Pictures: labels keep apart, groups are coloured, every script finds its font, files are what they say."""

import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import w2v_ext
from w2v_ext import fonts, history_plots, plot
from w2v_ext.labels import place_labels
from w2v_ext.palette import PALETTE
from w2v_ext.projection import principal_axes, project
from w2v_ext.selection import select_words

pytest.importorskip("matplotlib", reason="needs matplotlib (extra viz)")
pytest.importorskip("sklearn", reason="needs scikit-learn (extra viz)")
from w2v_ext.plots import plot_map


def clustered(groups=4, each=12, dim=20, seed=0, words=None, spread=0.5):
    """Groups of words around centres far from each other: (vectors, themes)."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, dim)) * 4
    rows = np.repeat(centers, each, axis=0) + rng.normal(size=(groups * each, dim)) * spread
    words = words or [f"{'abcdefghij'[g]}{i}" for g in range(groups) for i in range(each)]
    themes = {f"group {g}": words[g * each : (g + 1) * each] for g in range(groups)}
    return w2v_ext.KeyedVectors(words, rows.astype(np.float32)), themes


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ---- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, spread", [(1, 100), (40, 400), (300, 500), (300, 60)])
def test_no_two_labels_overlap_and_none_leaves_the_bounds(count, spread):
    rng = np.random.default_rng(count)
    points = 500 + rng.normal(size=(count, 2)) * spread / 2
    sizes = np.column_stack([rng.uniform(15, 90, count), np.full(count, 12.0)])
    bounds = (0.0, 0.0, 1000.0, 1000.0)
    placed = place_labels(points, sizes, np.arange(count), bounds)
    for i, one in enumerate(placed):
        left, bottom, right, top = one.box
        assert left >= 0 and bottom >= 0 and right <= 1000 and top <= 1000
        assert (right - left, top - bottom) == pytest.approx(tuple(sizes[one.index]))
        assert not any(overlap(one.box, other.box) for other in placed[:i])
        nearest = np.clip(points, one.box[:2], one.box[2:])
        assert np.linalg.norm(points - nearest, axis=1).min() >= 3 - 1e-9  # no marker is covered
    if spread >= 400:
        assert len(placed) > 0.5 * count
    assert len({p.index for p in placed}) == len(placed)


def test_the_most_important_label_comes_first():
    points = np.zeros((50, 2)) + 100.0  # all on one spot
    placed = place_labels(points, np.full((50, 2), 30.0), np.arange(50)[::-1], (0, 0, 200, 200), obstacles=points[:1])
    assert placed[0].index == 49
    assert not placed[0].far
    assert len(placed) < 50


def test_lines_cross_no_label():
    rng = np.random.default_rng(5)
    points = 200 + rng.normal(size=(60, 2)) * 25
    placed = place_labels(points, np.tile([40.0, 10.0], (60, 1)), np.arange(60), (0, 0, 400, 400))
    assert any(p.far for p in placed)
    for one in placed:
        if one.far:
            start, end = points[one.index], np.clip(points[one.index], one.box[:2], one.box[2:])
            for other in placed:
                inside = [
                    (other.box[0] < x < other.box[2]) and (other.box[1] < y < other.box[3])
                    for x, y in start + np.linspace(0.1, 1, 8)[:, None] * (end - start)
                ]
                assert other is one or not any(inside)


def test_labels_of_a_real_map_keep_apart_in_the_picture():
    vectors, themes = clustered(2, 12, spread=0.2, words=[f"{w}-a-rather-long-word" for w in range(24)])
    figure = plot_map(vectors, method="pca", themes=themes, size=(7, 5))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() in vectors]
    assert len(boxes) > 10
    assert len(axes.lines) > 2  # labels away from their points
    bare = plot_map(vectors, method="pca", themes=themes, size=(7, 5), labels=0)
    bare.draw_without_rendering()
    assert axes.dataLim.height > bare.axes[0].dataLim.height  # their lines reach beyond all points, and
    assert axes.get_ylim() == bare.axes[0].get_ylim()  # do not move the map under the labels
    frame = axes.get_window_extent()
    for i, a in enumerate(boxes):
        assert frame.x0 <= a.x0 and a.x1 <= frame.x1
        for b in boxes[:i]:  # the height of a line of text has room above and below the letters
            assert not overlap((a.x0, a.y0 + 2, a.x1, a.y1 - 2), (b.x0, b.y0 + 2, b.x1, b.y1 - 2))


# ---- projections -------------------------------------------------------------------------------------------------


def test_pca_is_that_of_scikit_learn():
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).normal(size=(50, 7)) + 3
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = PCA(2).fit(units)
    points, shares = principal_axes(units, 2)
    np.testing.assert_allclose(np.abs(points), np.abs(expected.transform(units)), atol=1e-10)
    np.testing.assert_allclose(shares[:2], expected.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_array_equal(project(rows, "pca").points, points)
    assert project(rows[:, :1], "pca").points.shape == (50, 2)


@pytest.mark.parametrize("method", ["pca", "tsne", pytest.param("umap", marks=pytest.mark.slow)])  # numba compiles
def test_groups_stay_groups_on_the_plane(method):
    if method == "umap":
        pytest.importorskip("umap", reason="needs umap-learn (extra umap)")
    vectors, _ = clustered(4, 15)
    flat = project(vectors.vectors, method, seed=3).points
    centers = flat.reshape(4, 15, 2).mean(axis=1)
    nearest = np.linalg.norm(flat[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == np.repeat(np.arange(4), 15)).mean() > 0.95
    np.testing.assert_array_equal(flat, project(vectors.vectors, method, seed=3).points)


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        (np.ones((1, 3)), {}, "vectors: expected shape (n, D) with n >= 2, got (1, 3)"),
        (np.full((3, 3), np.nan), {}, "vectors: expected finite values"),
        (np.eye(3), {"method": "mds"}, "method: expected one of pca, tsne, umap, got 'mds'"),
        (np.eye(3), {"method": "tsne", "perplexity": 0}, "perplexity: expected a number > 0, got 0"),
    ],
)
def test_bad_projections(rows, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        project(rows, **arguments)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_tsne_of_a_few_words(n):
    assert project(np.eye(n, 5), "tsne").points.shape == (n, 2)


def test_missing_packages_name_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call, extra in (
        (lambda: project(np.eye(9), "umap"), "umap"),
        (lambda: project(np.eye(9), "tsne"), "viz"),
        (lambda: select_words(clustered()[0], top=10, clusters=2), "viz"),
        (lambda: plot_map(clustered()[0], method="pca"), "viz"),
    ):
        with pytest.raises(ImportError, match=re.escape(f"pip install 'w2v_ext[{extra}]'")):
            call()


# ---- which words -------------------------------------------------------------------------------------------------


def test_selection():
    vectors, themes = clustered(3, 10)
    vectors.vectors[4] = np.nan
    vectors.fill_norms(force=True)
    chosen = select_words(
        vectors, themes={"t": ["a0", "a1", "a4", "zz"]}, around=["b0"], neighbors=3, words=["c0", "a0"]
    )
    picked = [vectors.index_to_key[row] for row in chosen.rows]
    assert picked[:3] == ["a0", "a1", "b0"]
    assert picked[-1] == "c0"
    assert chosen.names == ["t", "b0"]
    assert chosen.groups.tolist() == [0, 0, 1, 1, 1, 1, -1]
    assert chosen.missing == ["a4", "zz"]
    assert len(select_words(vectors).rows) == 29
    head = select_words(vectors, top=5, skip=3)
    assert head.rows.tolist() == [3, 5, 6, 7, 8]
    clusters = select_words(vectors, top=29, clusters=3)
    truth = np.array(["abc".index(vectors.index_to_key[row][0]) for row in clusters.rows])
    for group in range(3):
        assert len(set(truth[clusters.groups == group])) == 1
        assert clusters.names[group].count(", ") == 2
    with pytest.raises(ValueError, match="at least two words of the vocabulary for a map, got 0; not in .*: qq"):
        select_words(vectors, words=["qq"])
    with pytest.raises(ValueError, match="skip: expected a number >= 0, got -1"):
        select_words(vectors, skip=-1)


# ---- maps --------------------------------------------------------------------------------------------------------


def test_map_files(tmp_path):
    vectors, themes = clustered()
    out = [tmp_path / "m.png", tmp_path / "m.svg", tmp_path / "m.pdf"]
    figure = plot_map(vectors, out, method="pca", themes=themes, size=(6, 4), title="costs $5 & $6 <b>")
    assert out[0].read_bytes().startswith(b"\x89PNG")
    assert out[2].read_bytes().startswith(b"%PDF")
    root = ElementTree.parse(out[1]).getroot()
    assert root.tag.endswith("svg")
    text = out[1].read_text()
    for color in PALETTE[:4]:
        assert color in text
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(themes)
    first = out[0].read_bytes(), out[1].read_bytes()
    plot_map(vectors, out, method="pca", themes=themes, size=(6, 4), title="costs $5 & $6 <b>")
    assert (out[0].read_bytes(), out[1].read_bytes()) == first  # the same picture gives the same bytes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pdf", "m.png", "m.svg"]


def test_words_that_look_like_formulas_are_words(tmp_path):
    words = ["$x$", "$\\bad{", "a_b^c", "<b>", "100%", "\\"] + [f"w{i}" for i in range(6)]
    vectors, _ = clustered(1, 12, words=words)
    figure = plot_map(vectors, tmp_path / "m.svg", method="pca", themes={"$group_$": words[:6], "$\\oops{": words[6:]})
    assert {t.get_text() for t in figure.axes[0].texts} <= set(words)
    assert len(figure.axes[0].texts) > 8


def test_no_window_and_no_change_of_the_users_settings(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_map(clustered()[0], tmp_path / "m.png", method="pca")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": -1}, "labels: expected a number >= 0, got -1"),
        ({"size": (0, 5)}, "size: expected a width and a height from 1 to 200 inches, got (0, 5)"),
        ({"clusters": 99}, "clusters: expected at most as many as words in no group, 48, got 99"),
    ],
)
def test_bad_maps(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_map(clustered()[0], method="pca", **arguments)


def test_unknown_suffix_fails_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file name that ends in .png, .svg or .pdf, got 'm.jpg'"):
        plot_map(clustered()[0], "m.jpg", method="pca")


# ---- fonts -------------------------------------------------------------------------------------------------------

CHINESE = [f"{a}{b}" for a in "你我他她大小" for b in "好们的人"]


def has_chinese_font():
    return not fonts.find_fonts(["你好"])[1]


def test_chinese_labels_are_drawn_with_a_font_that_has_them(tmp_path):
    if not has_chinese_font():
        pytest.skip("needs a font with Chinese characters (apt install fonts-noto-cjk)")
    vectors, themes = clustered(2, 12, words=CHINESE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of every glyph that is missing
        figure = plot_map(
            vectors, tmp_path / "m.png", method="pca", themes={"代词": CHINESE[:12], "size": CHINESE[12:]}
        )
    families = figure.axes[0].texts[0].get_fontfamily()
    assert families[0] == fonts.BASE
    assert len(families) == 2
    assert {t.get_text() for t in figure.axes[0].texts} <= set(CHINESE)


def test_without_a_chinese_font_the_error_says_which_package_brings_one(monkeypatch, tmp_path):
    from matplotlib import font_manager

    own = [e for e in font_manager.fontManager.ttflist if e.name == fonts.BASE]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *a, **k: [])
    vectors, _ = clustered(2, 12, words=CHINESE)
    with pytest.raises(fonts.MissingFontError, match="fonts-noto-cjk"):
        plot_map(vectors, tmp_path / "m.png", method="pca")
    assert not (tmp_path / "m.png").exists()
    few = [*[f"word{i}" for i in range(22)], "你好", "我们"]
    vectors, _ = clustered(2, 12, words=few)
    with pytest.warns(UserWarning, match="2 labels are left out"):
        figure = plot_map(vectors, tmp_path / "m.png", method="pca")
    assert not {"你好", "我们"} & {t.get_text() for t in figure.axes[0].texts}


def test_a_font_file_of_ones_own(tmp_path):
    from matplotlib import font_manager

    path = font_manager.findfont("DejaVu Serif")
    assert fonts.find_fonts(["word"], path)[0][0] == "DejaVu Serif"
    (tmp_path / "no.ttf").write_bytes(b"not a font")
    with pytest.raises(OSError, match=r"font: cannot read .*no.ttf as a font"):
        fonts.find_fonts(["word"], tmp_path / "no.ttf")


# ---- histories ---------------------------------------------------------------------------------------------------


def a_history(epochs=4, words=("good", "actor")):
    return {
        "epochs": [
            {
                "epoch": e,
                "words": 1000 * e,
                "loss": 3 / e,
                "lr": 0.1 / e,
                "train_seconds": e,
                "neighbors": {w: [[f"{w}{(e * i) % 7}", 0.5] for i in (1, 2, 3)] for w in words},
                "pairs": {},
            }
            for e in range(1, epochs + 1)
        ],
        "steps": [{"words": 100 * i, "loss": 4 / i, "lr": 0.1, "words_per_second": 1.0} for i in range(1, 10 * epochs)],
    }


def test_loss_curve(tmp_path):
    figure = history_plots.plot_loss(a_history(), [tmp_path / "l.png", tmp_path / "l.svg"])
    course = figure.axes[0].lines[0]
    assert course.get_xdata()[:2].tolist() == [0.1, 0.2]  # in epochs
    assert course.get_ydata()[:2].tolist() == [4, 2]
    assert (tmp_path / "l.svg").exists()
    history_plots.plot_loss({"epochs": a_history()["epochs"], "steps": []}, tmp_path / "l.png")
    with pytest.raises(ValueError, match="at least one epoch with a loss"):
        history_plots.plot_loss({"epochs": [{"epoch": 1, "words": 1, "loss": None}], "steps": []})


def test_neighbours_over_epochs(tmp_path):
    figure = history_plots.plot_neighbors(a_history(20), tmp_path / "n.png", words=["actor"])
    axes = figure.axes[0]
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert len(ticks) == 8
    assert (ticks[0], ticks[-1]) == ("epoch 1", "epoch 20")
    three = a_history(3)
    axes = history_plots.plot_neighbors(three).axes[1]
    columns = [{w for w, _ in e["neighbors"]["actor"]} for e in three["epochs"]]
    new = {t.get_text() for t in axes.texts if t.get_color() == PALETTE[1] and t.get_position()[0] == 1}
    assert new == columns[1] - columns[0]
    assert len(axes.lines) == len(columns[0] & columns[1]) + len(columns[1] & columns[2])
    with pytest.raises(ValueError, match="no neighbours of 'dog' were recorded, only of good, actor"):
        history_plots.plot_neighbors(three, words=["dog"])
    with pytest.raises(ValueError, match="train with --probe"):
        history_plots.plot_neighbors(a_history(words=()))


# ---- the command -------------------------------------------------------------------------------------------------


def test_command_draws_a_trained_model(tmp_path, monkeypatch, capsys):
    from w2v_ext.train import main as train

    monkeypatch.chdir(tmp_path)
    assert train(["--out", "model", "--epochs", "2", "--dim", "20"]) == 0
    assert (
        plot.main(["map", "model", "--themes", "builtin", "--theme", "x=dog,nosuch", "--out", "a.png", "a.html"]) == 0
    )
    assert plot.main(["loss", "model"]) == 0
    assert plot.main(["neighbors", "model", "--out", "n.svg"]) == 0
    captured = capsys.readouterr()
    assert "wrote a.png\nwrote a.html\n" in captured.out
    assert "note: not in the vocabulary: nosuch" in captured.err
    assert {"a.png", "a.html", "loss.png", "n.svg"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["map", "absent"], "model: no such file or directory: absent"),
        (["map", "absent", "--out", "m.jpeg"], "expected a file name that ends in .png, .svg, .html or .pdf, got"),
        (["loss", "absent"], "history.json: no such file"),
        (["loss", "absent", "--out"], "out: expected at least one file, got none"),
    ],
)
def test_bad_commands(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plot.main(arguments) == 2
    assert message in capsys.readouterr().err
