"""The page at ``/ui``, in a real browser: by keyboard, within its policy, without another host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from service_processes import BENTOML, service_of

from serving.contract.bundle import RankingBundle
from tests.browser import Browser, browser
from tests.clip_bundles import picture, tiny_clip_bundle

TOKEN = "correct-horse-battery"  # noqa: S105


@pytest.fixture(scope="module")
def client(tiny_bundle: RankingBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("service")
    tokens = folder / "tokens"
    tokens.write_text(TOKEN + "\n")
    bundles = f"{tiny_bundle.path},{tiny_clip_bundle(folder / 'clip').path}"
    limits = {"PILOTAGE_CLASSIFY_OBJECTIVE_MS": "30000", "PILOTAGE_OBJECTIVE_MS": "30000", "PILOTAGE_TOKEN_FILE": str(tokens)}
    with service_of(BENTOML, folder, "/readyz", PILOTAGE_BUNDLE=bundles, **limits) as (client, _):
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture
def page(client: httpx.Client, tmp_path: Path) -> Iterator[Browser]:
    """The page, with the token entered."""
    with browser(tmp_path) as page:
        page.open(str(client.base_url.join("/ui")))
        page.until("document.getElementById('access').open")
        page.run(f"document.getElementById('token').value = '{TOKEN}'")
        page.run("document.getElementById('reload').click()")
        page.until("!document.getElementById('classify').hidden && !document.getElementById('rank').hidden")
        yield page


def _rows(page: Browser, section: str) -> list[list[str]]:
    page.until(f"!document.getElementById('{section}-result').hidden")
    cells = f"[...document.getElementById('{section}-result').tBodies[0].rows].map(row => [...row.cells].slice(0, 2).map(cell => cell.innerText))"
    return list(page.run(cells))


def test_the_files_have_a_strict_policy_and_need_no_token(client: httpx.Client) -> None:
    for path, media in (("/ui", "text/html"), ("/ui/page.js", "text/javascript"), ("/ui/page.css", "text/css")):
        answer = httpx.get(client.base_url.join(path)).raise_for_status()
        assert answer.headers["content-type"].startswith(media)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http:" not in answer.text.replace("http://127.0.0.1", "")
        assert "https:" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/ui/absent").status_code == 404
    assert client.post("/ui").status_code == 405


def test_an_image_is_classified_by_keyboard_alone(page: Browser, tmp_path: Path) -> None:
    file = tmp_path / "green.png"
    file.write_bytes(picture("green"))
    page.run("document.getElementById('labels').value = 'red\\n  green \\nblue\\ngreen\\n<b>dog</b>'")
    page.tab_to("image")
    page.upload("#image", file)  # what the dialog of the operating system does
    page.until("document.getElementById('preview').complete && document.getElementById('preview').naturalWidth === 20")
    page.tab_to("none")
    page.press(" ")
    page.press("Tab")
    assert page.run("document.activeElement.innerText") == "Classify"
    page.press("Enter")
    rows = _rows(page, "classify")
    assert rows[0][0] == "green"
    assert sorted(row[0] for row in rows) == sorted(["red", "green", "blue", "<b>dog</b>", "none of these"])
    assert sum(float(row[1].removesuffix(" %")) for row in rows) == pytest.approx(100, abs=0.5)
    assert page.run("document.getElementById('classify-status').innerText") == "Best: green"
    caption = page.run("document.getElementById('classify-result').caption.innerText")
    assert caption.startswith("tiny-clip 1, ")
    assert " ms there and back" in caption
    assert page.run("document.querySelector('#classify-result meter').value") > 0.9


def test_a_label_set_can_be_chosen_and_a_refusal_is_told(client: httpx.Client, page: Browser, tmp_path: Path) -> None:
    client.put("/v1/label-sets/colours", json={"labels": ["red", "blue"]}).raise_for_status()
    page.run("document.getElementById('reload').click()")
    page.until("document.querySelector('#label-set option[value=colours]') !== null")
    page.run("document.getElementById('label-set').value = 'colours'")
    page.run("document.getElementById('classify-form').requestSubmit()")
    assert page.run("document.getElementById('classify-status').innerText") == "Choose an image first."
    for name, content, told in (("blue", picture("blue"), "Best: blue"), ("none", b"no image", "$.images[0]:")):
        (tmp_path / f"{name}.png").write_bytes(content)
        page.upload("#image", tmp_path / f"{name}.png")
        page.until("document.getElementById('classify-status').innerText.includes('is chosen')")
        page.run("document.getElementById('classify-form').requestSubmit()")
        page.until(f"document.getElementById('classify-status').innerText.startsWith('{told}')")


def test_sample_candidates_are_ranked(page: Browser) -> None:
    page.tab_to("request")
    page.press("Tab")
    page.press("Enter")
    rows = _rows(page, "rank")
    assert len(rows) == 5
    shares = [float(row[1].removesuffix(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert page.run("document.getElementById('rank-result').caption.innerText").startswith("tiny 1, ")
    page.run("document.getElementById('request').value = '{'")
    page.run("document.getElementById('rank-form').requestSubmit()")
    page.until("document.getElementById('rank-status').innerText.includes('not valid JSON')")


def test_nothing_is_asked_of_another_host_and_nothing_breaks_the_policy(client: httpx.Client, page: Browser, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    page.upload("#image", tmp_path / "red.png")
    page.run("document.getElementById('classify-form').requestSubmit()")
    _rows(page, "classify")
    hosts = {urlsplit(url).netloc for url in page.requested() if not url.startswith("blob:")}
    assert hosts == {client.base_url.netloc.decode()}
    complaints = [each for each in page.complaints() if "401" not in each and "favicon" not in each]  # before the token was entered
    assert complaints == []
    page.run("const made = document.createElement('script'); made.textContent = 'window.ran = true'; document.body.append(made)")
    assert page.run("window.ran === undefined"), "scripts in the page do not run"
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(each => !each.labels.length).map(each => each.id)"
    assert page.run(unnamed) == []
