// The bar below the molecule, and the keys.

const SPEEDS = [0.25, 0.5, 1, 2, 4];

const ICONS = {
  play: '<path d="M7 4.5v15l12.5-7.5z"/>',
  pause: '<path d="M6.5 5h4v14h-4zM13.5 5h4v14h-4z"/>',
  loop: '<path d="M4.5 12a6 6 0 0 1 6-6H17M14 3l3 3-3 3M19.5 12a6 6 0 0 1-6 6H7M10 21l-3-3 3-3" class="line"/>',
  water: '<path d="M12 3.5c3.4 4.2 5.6 7.3 5.6 10.2a5.6 5.6 0 0 1-11.2 0c0-2.9 2.2-6 5.6-10.2z" class="line"/>',
  reset: '<path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5" class="line"/><circle cx="12" cy="12" r="2.2"/>',
};

function icon(name) {
  return `<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">${ICONS[name]}</svg>`;
}

function button(name, label, pressed) {
  const state = pressed === undefined ? "" : ` aria-pressed="${pressed}"`;
  return `<button type="button" class="${name}" aria-label="${label}" title="${label}"${state}>${icon(name)}</button>`;
}

const speeds = SPEEDS.map((factor) => `<option value="${factor}"${factor === 1 ? " selected" : ""}>${factor}×</option>`);

const BAR = `
  ${button("play", "Play")}
  <input type="range" class="frame" min="0" max="0" step="1" value="0" aria-label="Frame">
  <output class="where"></output>
  <select class="speed" aria-label="Speed" title="Speed">${speeds.join("")}</select>
  ${button("loop", "Repeat", true)}
  ${button("water", "Water and ions", false)}
  ${button("reset", "Reset view")}`;

// Times are given to the digit in which two neighbouring frames differ.
function timeFormat(frameTime, nFrames) {
  const [unit, scale] = frameTime * nFrames >= 1000 ? ["ns", 1e-3] : ["ps", 1];
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(frameTime * scale) - 1e-9), 0), 6);
  return (frame) => `${(frame * frameTime * scale).toFixed(digits)} ${unit}`;
}

export class Controls {
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    this.nFrames = 0;
    this.bar = document.createElement("div");
    this.bar.className = "controls";
    this.bar.innerHTML = BAR;
    root.append(this.bar);
    root.tabIndex = 0;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Molecule viewer: space plays and pauses, arrow keys step, home and end jump");
    for (const name of ["play", "frame", "where", "speed", "loop", "water", "reset"]) {
      this[name] = this.bar.querySelector(`.${name}`);
    }
    this.play.onclick = () => actions.toggle();
    this.frame.oninput = () => actions.seek(Number(this.frame.value));
    this.speed.onchange = () => actions.speed(Number(this.speed.value));
    this.loop.onclick = () => actions.loop(toggle(this.loop));
    this.water.onclick = () => actions.water(toggle(this.water));
    this.reset.onclick = () => actions.reset();
    root.addEventListener("keydown", (event) => this.press(event));
    // 3Dmol keeps a press on the molecule from moving the focus here.
    root.querySelector(".stage").addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
  }

  setPath(nFrames, frameTime, hasSolvent) {
    this.nFrames = nFrames;
    this.bar.hidden = nFrames === 0;
    for (const control of [this.play, this.frame, this.speed, this.loop]) control.disabled = nFrames < 2;
    this.water.hidden = !hasSolvent;
    this.frame.max = Math.max(nFrames - 1, 0);
    this.time = timeFormat(frameTime, nFrames);
    // As wide as the longest text, so that the slider keeps its length while it plays.
    this.where.style.minWidth = `${this.text(nFrames - 1).length}ch`;
  }

  text(frame) {
    return `frame ${frame + 1} / ${this.nFrames}, ${this.time(frame)}`;
  }

  setFrame(frame) {
    const text = this.text(frame);
    this.frame.value = frame;
    this.frame.setAttribute("aria-valuetext", text);
    this.where.textContent = text;
  }

  setPlaying(playing) {
    const label = playing ? "Pause" : "Play";
    this.play.innerHTML = icon(playing ? "pause" : "play");
    this.play.setAttribute("aria-label", label);
    this.play.title = label;
  }

  setWater(on) {
    this.water.setAttribute("aria-pressed", String(on));
  }

  press(event) {
    if (this.nFrames === 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const tag = event.target.tagName;
    if (tag === "SELECT" || (tag === "BUTTON" && event.key === " ")) return; // they know these keys themselves
    const here = Number(this.frame.value);
    const seek = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: this.nFrames - 1 }[event.key];
    if (event.key === " ") this.actions.toggle();
    else if (seek !== undefined) this.actions.seek(seek);
    else return;
    event.preventDefault();
    event.stopPropagation(); // a notebook has commands on the same keys
  }
}

function toggle(element) {
  const on = element.getAttribute("aria-pressed") !== "true";
  element.setAttribute("aria-pressed", String(on));
  return on;
}
