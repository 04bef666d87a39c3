// A button, a slider and keys that go through the frames of a path; no frame makes a round trip to Python.

const PLAY = '<path d="M7 4.5v15l12.5-7.5z"/>';
const PAUSE = '<path d="M6.5 5h4v14h-4zM13.5 5h4v14h-4z"/>';
const PER_SECOND = 20; // frames
const LONGEST = 15; // s that a path takes at most
const HOLD = 0.5; // s that the last frame stays before the path starts anew
const STILL = matchMedia("(prefers-reduced-motion: reduce)"); // then nothing moves before somebody presses play

class Player {
  constructor(model, element) {
    this.model = model;
    this.frame = 0;
    this.timer = null;
    this.bar = document.createElement("div");
    this.bar.className = "bar";
    this.bar.tabIndex = 0;
    this.bar.setAttribute("role", "group");
    this.bar.setAttribute("aria-label", "Space plays and pauses, arrow keys step");
    this.bar.innerHTML =
      '<button type="button"></button><input type="range" min="0" step="1" aria-label="Frame"><output></output>';
    [this.button, this.slider, this.where] = this.bar.children;
    this.button.onclick = () => this.play(this.timer === null);
    this.slider.oninput = () => this.seek(Number(this.slider.value));
    this.bar.addEventListener("keydown", (event) => this.press(event));
    // One message changes several values, one after another: act when all of them are there.
    this.heard = () => queueMicrotask(() => this.follow());
    model.on("change:jumps", this.heard);
    element.append(this.bar);
    this.follow();
  }

  get nFrames() {
    return this.model.get("n_frames");
  }

  text(frame) {
    const spacing = this.model.get("frame_time");
    const digits = Math.min(Math.max(Math.ceil(-Math.log10(spacing) - 1e-9), 0), 6);
    return `frame ${frame + 1} / ${this.nFrames}, ${(frame * spacing).toFixed(digits)} ps`;
  }

  follow() {
    this.slider.max = Math.max(this.nFrames - 1, 0);
    this.bar.hidden = this.nFrames === 0;
    this.where.style.minWidth = `${this.text(this.nFrames - 1).length}ch`; // the slider keeps its length
    this.show(this.model.get("frame"));
    this.play(this.model.get("playing") && !STILL.matches);
  }

  show(frame) {
    this.frame = Math.max(0, Math.min(frame, this.nFrames - 1));
    this.slider.value = this.frame;
    this.where.textContent = this.text(this.frame);
    this.model.model.data.setv({ shown: this.frame }, { sync: false });
  }

  seek(frame) {
    this.play(false);
    this.show(frame);
  }

  play(on) {
    clearInterval(this.timer);
    this.timer = null;
    this.origin = { time: performance.now(), frame: this.frame < this.nFrames - 1 ? this.frame : 0 };
    if (on && this.nFrames > 1) this.timer = setInterval(() => this.tick(), 40);
    const [label, icon] = this.timer ? ["Pause", PAUSE] : ["Play", PLAY];
    this.button.innerHTML = `<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">${icon}</svg>`;
    this.button.setAttribute("aria-label", label);
    this.button.title = label;
  }

  tick() {
    if (document.hidden || this.bar.getClientRects().length === 0) return;
    const rate = Math.max(PER_SECOND, this.nFrames / LONGEST);
    const now = Math.floor(this.origin.frame + ((performance.now() - this.origin.time) / 1000) * rate);
    const over = now > this.nFrames - 1 + HOLD * rate;
    if (over) this.origin = { time: performance.now(), frame: 0 };
    const next = over ? 0 : Math.min(now, this.nFrames - 1);
    if (next !== this.frame) this.show(next);
  }

  press(event) {
    const last = this.nFrames - 1;
    const to = { ArrowLeft: this.frame - 1, ArrowRight: this.frame + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) this.seek(to);
    else if (event.key === " " && event.target !== this.button) this.play(this.timer === null);
    else return;
    event.preventDefault();
    event.stopPropagation(); // a notebook has commands on the same keys
  }

  dispose() {
    clearInterval(this.timer);
    this.model.off("change:jumps", this.heard);
  }
}

function render({ model, el }) {
  const player = new Player(model, el);
  return () => player.dispose();
}

export default { render };
