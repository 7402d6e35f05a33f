"""HTML pages as tests see them: parsed, and opened in a browser without a display."""

import os
import shutil
import subprocess
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

#: elements and the attribute by which they load something
LOADING = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src", "video": "src"}


class Page(NamedTuple):
    """One page: where it can be jumped to, where its links lead, and what it loads."""

    anchors: set
    links: list
    loaded: list


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.page = Page(set(), [], [])
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.page.anchors.update(values[key] for key in ("id", "name") if values.get(key))
        if tag == "a" and values.get("href"):
            self.page.links.append(values["href"])
        if values.get(LOADING.get(tag)):
            self.page.loaded.append(values[LOADING[tag]])


def is_near(link):
    """Whether it leads to a file beside the page, or holds what it names."""
    parts = urlsplit(link)
    return parts.scheme in ("", "data") and not parts.netloc


def opened(url, folder):
    """The page as a browser has it once its scripts have run, which must not have complained.

    folder: for the browser's own files.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no chromium to open the pages with")
    options = ["--headless=new", "--disable-gpu", f"--user-data-dir={folder}", "--virtual-time-budget=5000"]
    options += ["--enable-logging=stderr", "--v=0", "--dump-dom"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    result = subprocess.run([browser, *options, url], text=True, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    # what pages write, not what the browser has to say about itself
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line and "file://" in line] == []
    assert "</html>" in result.stdout
    return result.stdout
