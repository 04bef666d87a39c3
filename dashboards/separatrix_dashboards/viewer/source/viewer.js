// The molecule viewer as one anywidget module: serves panel.custom.AnyWidgetComponent on pages and in JupyterLab.
// Everything the user does here costs no round trip; Python hears where the movie stands when a person moves it.
import { Controls } from "./controls.js";
import { atomsAndFrames } from "./frames.js";
import { Movie } from "./movie.js";
import { Stage } from "./stage.js";
import { followTheme } from "./theme.js";
import css from "./viewer.css";

const HEARD = ["shows", "frame", "jumps", "playing", "water", "solvent_coordinates"];
const REPORT_EVERY = 100; // ms between two reports to Python while the slider moves
const STILL = matchMedia("(prefers-reduced-motion: reduce)"); // then nothing moves before somebody presses play

class Viewer {
  constructor(model, element) {
    this.model = model;
    this.changed = new Set();
    this.root = document.createElement("div");
    this.root.className = "separatrix-viewer";
    this.root.innerHTML = `<style>${css}</style><div class="stage"><p class="title"></p><p class="message" role="status"></p></div>`;
    this.container = this.root.querySelector(".stage");
    this.message = this.root.querySelector(".message");
    this.controls = new Controls(this.root, {
      toggle: () => this.setPlaying(!this.movie.playing),
      seek: (frame) => this.seek(frame),
      speed: (factor) => this.movie.setSpeed(factor),
      loop: (on) => (this.movie.loop = on),
      water: (on) => this.tell({ water: on }) || this.showWater(),
      reset: () => this.stage?.resetView(),
    });
    this.movie = new Movie(this.root, {
      draw: (frame) => this.draw(frame),
      seen: () => this.theme.look(),
      stopped: () => this.setPlaying(false),
    });
    this.handlers = HEARD.map((name) => [`change:${name}`, () => this.hear(name)]);
    for (const [event, handler] of this.handlers) model.on(event, handler);
    element.append(this.root);
    this.theme = followTheme(this.root, (theme) => this.stage?.setTheme(theme));
    this.load();
    this.play(model.get("playing") && !STILL.matches);
  }

  // One message from Python changes several values, one after another: act when all of them are there.
  hear(name) {
    if (this.telling) return;
    if (this.changed.size === 0) queueMicrotask(() => this.follow());
    this.changed.add(name);
  }

  follow() {
    const [shows, frame, jumps, playing, ...water] = HEARD.map((name) => this.changed.has(name));
    this.changed.clear();
    if (this.disposed) return;
    if (shows) this.load();
    else if (water.includes(true)) this.showWater();
    if (shows || playing) this.play(this.model.get("playing") && !STILL.matches);
    if (!shows && (frame || jumps)) {
      this.setPlaying(false, false);
      this.movie.show(this.model.get("frame"));
    }
  }

  // Give values to Python, without hearing of them as if they came from there.
  tell(values) {
    this.telling = true;
    try {
      for (const [name, value] of Object.entries(values)) this.model.set(name, value);
      this.model.save_changes();
    } finally {
      this.telling = false;
    }
  }

  load() {
    const { model } = this;
    const nFrames = model.get("n_frames");
    this.movie.stop();
    try {
      this.frames = atomsAndFrames(model.get("kinds").length, model.get("coordinates"));
      if (nFrames > 0) {
        this.stage ??= new Stage(this.container, this.theme.look());
        this.stage.load(model.get("topology"), model.get("kinds"), this.frames);
        this.showWater(false);
      } else {
        this.clear();
      }
      this.say(nFrames > 0 ? "" : model.get("empty"));
    } catch (error) {
      this.clear();
      this.say(String(error?.message ?? error));
      console.error(error);
    }
    const shown = this.stage ? nFrames : 0;
    this.root.querySelector(".title").textContent = shown ? model.get("title") : "";
    this.root.dataset.loads = Number(this.root.dataset.loads ?? 0) + 1;
    this.controls.setPath(shown, model.get("frame_time"), model.get("has_solvent"));
    this.movie.setFrames(shown);
    this.movie.show(model.get("frame"));
  }

  clear() {
    this.stage?.dispose();
    this.stage = null;
  }

  showWater(draw = true) {
    const on = this.model.get("water");
    this.controls.setWater(on);
    this.stage?.setSolvent(on ? this.model.get("solvent") : "", on ? this.model.get("solvent_coordinates") : null);
    if (draw) this.movie.show(this.movie.frame);
  }

  draw(frame) {
    if (!this.stage) return;
    this.stage.show(frame, this.movie.nFrames);
    this.controls.setFrame(frame);
    // For whatever else in the page goes along with the movie, without a message to Python for every picture.
    this.model.model?.data?.setv({ shown: frame }, { sync: false });
  }

  seek(frame) {
    this.setPlaying(false, false);
    this.movie.show(frame);
    this.report();
  }

  // The first report of a drag goes at once, the last one after it, and few between.
  report() {
    if (this.reporting) return;
    this.tell({ frame: this.movie.frame });
    this.reporting = setTimeout(() => {
      this.reporting = null;
      if (this.model.get("frame") !== this.movie.frame) this.report();
    }, REPORT_EVERY);
  }

  setPlaying(on, report = true) {
    if (on === this.movie.playing && on === this.model.get("playing")) return;
    this.play(on);
    this.tell(on || !report ? { playing: on } : { playing: on, frame: this.movie.frame });
  }

  play(on) {
    const moves = on && Boolean(this.stage);
    if (moves) this.movie.play();
    else this.movie.stop();
    this.controls.setPlaying(moves);
  }

  say(text) {
    this.message.textContent = text;
    this.message.hidden = text === "";
  }

  dispose() {
    this.disposed = true;
    clearTimeout(this.reporting);
    for (const [event, handler] of this.handlers) this.model.off(event, handler);
    this.movie.dispose();
    this.theme.dispose();
    this.clear();
    this.root.remove();
  }
}

function render({ model, el }) {
  const viewer = new Viewer(model, el);
  return () => viewer.dispose();
}

export default { render };
