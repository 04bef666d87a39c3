"""The molecule viewer in a real browser: paths move, keys work, Python hears, nothing leaks or phones home."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import panel as pn
import pytest
from panel_material_ui import Page as MaterialPage
from playwright.sync_api import Locator, Page, expect
from scipy.spatial.transform import Rotation

import separatrix
from separatrix_dashboards.viewer import MoleculeViewer

pytestmark = pytest.mark.browser

ALANINE = (Path(separatrix.__file__).parent / "systems" / "data" / "alanine-dipeptide.pdb").read_text(encoding="utf-8")
PARTICLE = "HETATM    1 X    PAR A   1      -5.580  14.420   0.000  1.00  0.00          EP"
N_FRAMES = 37
FRAME_TIME = 0.02

DRAWN = """canvas => {
  const flat = document.createElement("canvas");
  [flat.width, flat.height] = [canvas.width, canvas.height];
  const context = flat.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, flat.width, flat.height).data;
  let drawn = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const away = [0, 1, 2].map((c) => Math.abs(pixels[i + c] - pixels[c]));
    if (Math.max(...away) > 24) drawn++;
  }
  return { drawn: drawn / (pixels.length / 4), background: [...pixels.slice(0, 3)] };
}"""
"""How much of a canvas is not its background, which is the colour of its first pixel."""


@pytest.fixture
def page(page, browser_thread) -> Page:
    """Return a page as small as a viewer's corner of one."""
    browser_thread.run(page.set_viewport_size, {"width": 900, "height": 640})
    return page


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., str]]:
    """Return a function that serves an application and returns its address."""
    monkeypatch.setenv("BOKEH_RESOURCES", "server")
    servers = []

    def serve(app: Callable[[], object]) -> str:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        servers.append(pn.serve(app, port=port, show=False, threaded=True, verbose=False))
        wait_for_port(port)
        return f"http://localhost:{port}"

    yield serve
    for server in servers:
        server.stop()


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.05)


def turning() -> np.ndarray:
    """Return frames (37, 22, 3) nm in which alanine dipeptide turns about its bond N-CA, and tumbles besides."""
    lines = [line for line in ALANINE.splitlines() if line.startswith(("ATOM", "HETATM"))]
    positions = np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in lines]) / 10
    nitrogen, carbon = positions[6], positions[8]
    axis = (carbon - nitrogen) / np.linalg.norm(carbon - nitrogen)
    frames = np.repeat(positions[None], N_FRAMES, axis=0)
    for i, angle in enumerate(np.linspace(0, 2.5, N_FRAMES)):
        frames[i, 9:] = (positions[9:] - carbon) @ Rotation.from_rotvec(angle * axis).as_matrix().T + carbon
        frames[i] = frames[i] @ Rotation.random(random_state=i).as_matrix()
    return frames.astype(np.float32)


FRAMES = turning()


class Shown:
    """A viewer on a page, seen from both sides."""

    def __init__(self, page: Page, serve: Callable[..., str], *, path: bool = True, play: bool = False) -> None:
        self.page = page
        self.viewers: list[MoleculeViewer] = []
        self.column = pn.Column(sizing_mode="stretch_width")
        loaded = threading.Event()

        def app() -> MaterialPage:
            viewer = MoleculeViewer(height=420)
            if path:
                viewer.show(FRAMES, ALANINE, FRAME_TIME, title="shot 17")
                viewer.playing = play
            self.viewers.append(viewer)
            self.column.objects = [viewer]
            pn.state.onload(loaded.set)
            return MaterialPage(main=[self.column], theme_toggle=True)

        page.goto(serve(app))
        self.root = page.locator(".separatrix-viewer")
        expect(self.root).to_be_visible(timeout=20_000)
        self.wait(loaded.is_set)  # what is sent to a page that is still being made is lost
        if path:
            self.wait(lambda: self.drawn()["drawn"] > 0.01)

    @property
    def viewer(self) -> MoleculeViewer:
        return self.viewers[-1]

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name, exact=True)

    @property
    def where(self) -> Locator:
        return self.root.locator(".where")

    def drawn(self) -> dict:
        return self.root.locator("canvas").evaluate(DRAWN)

    def frame(self) -> int:
        return int(self.root.get_attribute("data-frame"))

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.page.wait_for_timeout(50)


def test_a_path_plays_and_its_frames_differ(page: Page, serve) -> None:
    shown = Shown(page, serve, play=True)
    shown.wait(lambda: shown.frame() > 3)
    expect(shown.root.locator(".title")).to_have_text("shot 17")
    assert shown.root.get_attribute("data-loads") == "1"
    shown.button("Pause").click()
    expect(shown.button("Play")).to_be_visible()
    stopped = shown.frame()
    shown.wait(lambda: not shown.viewer.playing and shown.viewer.frame == stopped)
    expect(shown.where).to_have_text(f"frame {stopped + 1} / 37, {stopped * FRAME_TIME:.2f} ps")


def test_keys_and_slider_move_the_frame_and_python_hears(page: Page, serve) -> None:
    shown = Shown(page, serve)
    shown.root.focus()
    for key, frame in (
        ("End", 36),
        ("ArrowLeft", 35),
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert shown.frame() == frame
        shown.wait(lambda frame=frame: shown.viewer.frame == frame)
    page.keyboard.press(" ")
    shown.wait(lambda: shown.viewer.playing)
    page.keyboard.press(" ")
    shown.wait(lambda: not shown.viewer.playing)
    shown.root.get_by_role("slider", name="Frame").fill("20")
    shown.wait(lambda: shown.viewer.frame == 20)
    expect(shown.where).to_have_text("frame 21 / 37, 0.40 ps")
    expect(shown.root.get_by_role("slider")).to_have_attribute("aria-valuetext", "frame 21 / 37, 0.40 ps")


def test_python_hears_few_reports_of_a_drag_and_the_last_one(page: Page, serve) -> None:
    shown = Shown(page, serve)
    heard = []
    shown.viewer.param.watch(lambda event: heard.append(event.new), "frame")
    slider = shown.root.get_by_role("slider", name="Frame")
    seconds = slider.evaluate(
        """async (slider) => {
          const start = performance.now();
          for (let frame = 1; frame <= 30; frame++) {
            slider.value = frame;
            slider.dispatchEvent(new Event("input"));
            await new Promise((resolve) => setTimeout(resolve, 10));
          }
          return (performance.now() - start) / 1000;
        }"""
    )
    shown.wait(lambda: bool(heard) and heard[-1] == 30)
    assert len(heard) <= seconds / 0.1 + 2


def test_python_moves_the_frame_while_it_plays(page: Page, serve) -> None:
    shown = Shown(page, serve, play=True)
    shown.wait(lambda: shown.frame() > 2)
    shown.viewer.jump(0)
    expect(shown.button("Play")).to_be_visible()
    assert shown.frame() == 0
    shown.wait(lambda: not shown.viewer.playing)
    shown.viewer.frame = 30
    shown.wait(lambda: shown.frame() == 30)
    shown.viewer.playing = True
    expect(shown.button("Pause")).to_be_visible()


def test_frames_are_drawn_differently_and_the_view_can_be_turned_and_reset(page: Page, serve) -> None:
    shown = Shown(page, serve)
    canvas = shown.root.locator("canvas")

    def picture() -> str:
        return canvas.evaluate("canvas => canvas.toDataURL()")

    first = picture()
    shown.viewer.frame = 36
    shown.wait(lambda: shown.frame() == 36)
    assert picture() != first
    shown.viewer.frame = 0
    shown.wait(lambda: shown.frame() == 0)
    assert picture() == first
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 420, box["y"] + 190, steps=4)
    page.mouse.up()
    turned = picture()
    assert turned != first
    drawn = shown.drawn()["drawn"]
    page.mouse.wheel(0, 240)
    shown.wait(lambda: abs(shown.drawn()["drawn"] / drawn - 1) > 0.1)
    shown.button("Reset view").click()
    shown.wait(lambda: picture() == first)


def test_the_next_path_keeps_the_view_and_the_last_click_counts(page: Page, serve) -> None:
    shown = Shown(page, serve)
    view = "canvas => canvas._3dmol_viewer.getView()"
    canvas = shown.root.locator("canvas")
    canvas.evaluate("canvas => canvas._3dmol_viewer.rotate(40, 'y')")
    before = canvas.evaluate(view)
    for n_frames in (20, 10):
        shown.viewer.show(FRAMES[:n_frames], ALANINE, FRAME_TIME, title=f"shot {n_frames}")
    expect(shown.root.locator(".title")).to_have_text("shot 10")
    expect(shown.button("Pause")).to_be_visible()
    expect(shown.where).to_contain_text("/ 10,")
    assert canvas.evaluate(view) == pytest.approx(before, abs=1e-6)


def test_the_same_path_tapped_again_plays_again(page: Page, serve) -> None:
    shown = Shown(page, serve)
    shown.viewer.show(FRAMES, ALANINE, FRAME_TIME, title="shot 17")
    expect(shown.button("Pause")).to_be_visible()
    shown.wait(lambda: shown.frame() > 1)


def test_without_repeat_a_path_stops_at_its_end(page: Page, serve) -> None:
    shown = Shown(page, serve)
    repeat = shown.button("Repeat")
    repeat.click()
    expect(repeat).to_have_attribute("aria-pressed", "false")
    shown.root.get_by_role("combobox", name="Speed").select_option("4")
    shown.button("Play").click()
    shown.wait(lambda: shown.viewer.frame == N_FRAMES - 1)
    expect(shown.button("Play")).to_be_visible()
    shown.button("Play").click()
    shown.wait(lambda: shown.viewer.playing)


def test_before_the_first_path_and_after_clear_it_says_how_to_get_one(page: Page, serve) -> None:
    shown = Shown(page, serve, path=False)
    message = shown.root.get_by_text("Tap a path to see it move")
    expect(message).to_be_visible()
    expect(shown.root.get_by_role("button")).to_have_count(0)
    assert shown.root.locator("canvas").count() == 0  # no WebGL before it is needed
    shown.viewer.show(FRAMES, ALANINE, FRAME_TIME)
    expect(shown.root.locator("canvas")).to_be_visible()
    expect(message).to_be_hidden()
    expect(shown.button("Water and ions")).to_be_hidden()
    shown.viewer.clear()
    expect(message).to_be_visible()
    expect(shown.root.locator("canvas")).to_have_count(0)


def test_water_appears_on_demand(page: Page, serve) -> None:
    shown = Shown(page, serve, path=False)
    water = [
        f"HETATM{i:5d}  {name:<3s} HOH B   1    {x:8.3f}   9.000   1.000  1.00  0.00          {name[0]:>2s}"
        for i, (name, x) in enumerate((("O", 0.0), ("H1", 0.9), ("H2", -0.9)), start=23)
    ]
    # A long row of waters, so that they are seen wherever the molecule stands.
    atoms = np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in water]) / 10
    still = np.repeat(FRAMES[:1], 5, axis=0)
    positions = np.concatenate([still, np.repeat(atoms[None] - 0.4, 5, axis=0)], axis=1)
    shown.viewer.show(positions, ALANINE.replace("END", "\n".join([*water, "END"])), FRAME_TIME)
    shown.viewer.playing = False
    shown.wait(lambda: shown.root.locator("canvas").count() == 1 and shown.drawn()["drawn"] > 0.01)
    models = "canvas => canvas._3dmol_viewer.selectedAtoms({resn: 'HOH'}).length"
    canvas = shown.root.locator("canvas")
    assert canvas.evaluate(models) == 0
    shown.button("Water and ions").click()
    shown.wait(lambda: canvas.evaluate(models) == 3)
    assert shown.viewer.water
    shown.viewer.water = False
    shown.wait(lambda: canvas.evaluate(models) == 0)
    expect(shown.button("Water and ions")).to_have_attribute("aria-pressed", "false")


def test_a_landscape_shows_its_particle_its_trail_and_axes(page: Page, serve) -> None:
    shown = Shown(page, serve, path=False)
    walk = np.cumsum(np.random.default_rng(1).normal(scale=0.05, size=(200, 1, 3)), axis=0)
    shown.viewer.show(walk, PARTICLE, 0.01)
    shown.wait(lambda: shown.root.locator("canvas").count() == 1 and shown.drawn()["drawn"] > 0.002)
    shown.wait(lambda: shown.frame() > 3)


def test_the_stage_takes_the_colour_of_a_new_theme(page: Page, serve) -> None:
    shown = Shown(page, serve)
    assert min(shown.drawn()["background"]) > 200
    page.get_by_role("button", name="Toggle theme").or_(page.locator("[aria-label*='theme' i]")).first.click()
    shown.wait(lambda: max(shown.drawn()["background"]) < 80)
    assert shown.drawn()["drawn"] > 0.01


def test_a_lost_picture_comes_back(page: Page, serve) -> None:
    shown = Shown(page, serve)
    shown.root.locator("canvas").evaluate(
        "canvas => canvas._3dmol_viewer.getRenderer().getContext().getExtension('WEBGL_lose_context').loseContext()"
    )
    shown.wait(lambda: shown.root.locator("canvas").count() == 1 and shown.drawn()["drawn"] > 0.01)
    shown.viewer.frame = 12
    shown.wait(lambda: shown.frame() == 12)


def test_a_removed_viewer_leaves_nothing_behind(page: Page, serve) -> None:
    shown = Shown(page, serve, play=True)
    shown.wait(lambda: shown.frame() > 1)
    shown.root.locator("canvas").evaluate(
        """canvas => {
          window.drawer = new WeakRef(canvas._3dmol_viewer);
          window.context = new WeakRef(canvas._3dmol_viewer.getRenderer().getContext());
        }"""
    )
    shown.column.clear()
    expect(shown.root).to_have_count(0)
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.context.deref()?.isContextLost() ?? true")
    devtools = page.context.new_cdp_session(page)

    def is_gone() -> bool:
        devtools.send("HeapProfiler.collectGarbage")
        return page.evaluate("() => window.drawer.deref() === undefined")

    shown.wait(is_gone)


def test_playing_takes_a_third_of_the_main_thread_at_most(page: Page, serve) -> None:
    shown = Shown(page, serve, play=True)
    shown.wait(lambda: shown.frame() > 1)
    cost, elapsed = shown.root.evaluate(
        """async (root) => {
          // From the end of one frame's work to that of a later one.
          const costs = [];
          const ends = [];
          new MutationObserver(() => {
            costs.push(Number(root.dataset.cost));
            ends.push(performance.now());
          }).observe(root, { attributes: true, attributeFilter: ["data-cost"] });
          await new Promise((resolve) => setTimeout(resolve, 4000));
          return [costs.slice(1).reduce((sum, cost) => sum + cost, 0), ends.at(-1) - ends[0]];
        }"""
    )
    assert cost > 0
    # Every frame is followed by twice its cost; the last one's rest lies beyond the end.
    assert cost / elapsed < 0.4
