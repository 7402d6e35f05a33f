"""The documentation as a site: it builds without a warning, links lead somewhere, nothing is fetched."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import Reader, is_near, opened

from fastgd.optim import CLASSES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDED = ("sphinx", "furo", "myst_parser", "sphinx_click", "torch")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"the extra `docs` is not installed: no {', '.join(missing)}"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto"]
    result = subprocess.run(
        [*command, "-d", folder / "trees", DOCS, folder / "html"], text=True, capture_output=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Reader(path.read_text()).page for path in sorted(site.rglob("*.html"))}


def test_links_and_images_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:  # not looked up
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and anchor not in pages[target].anchors):
                broken.append((path.name, link))
    assert not broken
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_nothing_is_loaded_from_elsewhere(site, pages):
    loaded = {path: page.loaded for path, page in pages.items()}
    for path in site.rglob("*.css"):
        loaded[path] = re.findall(r"""(?:url\(|@import)\s*["']?(?!url\()([^"')\s]+)""", path.read_text())
    assert sum(map(len, loaded.values())) > 500
    assert {path.name: link for path, links in loaded.items() for link in links if not is_near(link)} == {}


def test_every_public_name_has_its_place(pages):
    program = """
import sys
sys.path.insert(0, "docs")
from reference import modules, public
for module in modules():
    for name, what in public(module).items():
        print(what.__name__ if isinstance(what, type(sys)) else f"{module.__name__}.{name}")
"""
    listed = subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, check=True, cwd=ROOT
    )
    names = set(listed.stdout.split())
    assert {"fastgd.AdamW", "fastgd.nn", "fastgd.nn.functional.gelu", "fastgd.torch.AdamW"} <= names
    anchors = set().union(*(page.anchors for page in pages.values()))
    assert {name for name in names if not anchors & {name, f"module-{name}"}} == set()


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_an_optimizer_s_arguments_are_explained(site, cls):
    text = (site / f"reference/fastgd.{cls.__name__}.html").read_text()
    lists = "".join(re.findall(r'<dl class="[^"]*entries.*?</dl>', text, re.DOTALL))
    terms = [re.sub("<.*?>", "", term).strip() for term in re.findall("<dt>(.*?)</dt>", lists, re.DOTALL)]
    assert sorted(terms) == sorted(inspect.signature(cls).parameters)


@pytest.mark.parametrize("where", ["index.html", "models.html", "reference/fastgd.AdamW.html"])
def test_a_browser_finds_no_errors(site, where, tmp_path):
    assert "</article>" in opened(f"file://{site}/{where}", tmp_path)


def test_pages_are_found_without_a_server(site, tmp_path):
    page = opened(f"file://{site}/search.html?q=AdamW", tmp_path)
    found = page.partition('id="search-results"')[2].partition("</article>")[0]
    assert 'href="reference/fastgd.AdamW.html' in found
