// The molecule itself: what is drawn, how, and from where it is seen. 3Dmol does the drawing.
import { createViewer, elementColors } from "3dmol/build/3Dmol.es6-min.js";
import { atomsAndFrames, bounds, frameValues } from "./frames.js";

// The colours of theme.py; on dark the lighter blue comes first.
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#aa6fa8", "#e69f00", "#56b4e9"];
const ON_DARK = ["#56b4e9", "#e69f00", "#009e73", "#aa6fa8", "#d55e00", "#0072b2"];
const MARGIN = 1.6; // angstroms around atom centres
const NARROWEST = 0.6; // of the molecule's own size that the view holds: it can be turned
const TRAIL_POINTS = 600;

// Call make() and return what it made, with the event listeners added meanwhile: 3Dmol adds some to the window and the
// body that it never removes, and they would keep every viewer of a page alive.
function withListeners(make) {
  const listeners = [];
  const prototype = EventTarget.prototype;
  const original = prototype.addEventListener;
  prototype.addEventListener = function add(type, listener, options) {
    listeners.push([this, type, listener, options]);
    return original.call(this, type, listener, options);
  };
  try {
    return [make(), listeners];
  } finally {
    prototype.addEventListener = original;
  }
}

// Smooth edges take twice the resolution, and are dear where a processor does the work of a graphics card.
function drawsInSoftware() {
  const context = document.createElement("canvas").getContext("webgl2");
  const named = context?.getExtension("WEBGL_debug_renderer_info");
  const renderer = named ? context.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
}

let smooth = null;

// One cell of a grid of one: so 3Dmol draws straight to the canvas, rather than through a picture that all viewers of
// the page share and that is read back from the graphics card for every frame (100 ms of the main thread in software).
const OWN_CONTEXT = { rows: 1, cols: 1, row: 0, col: 0 };

export class Stage {
  constructor(container, theme) {
    this.theme = theme;
    this.canvasBox = document.createElement("div");
    this.canvasBox.className = "canvas";
    container.prepend(this.canvasBox);
    smooth ??= !drawsInSoftware();
    const config = { backgroundColor: theme.background, disableFog: true, antialias: smooth, ...OWN_CONTEXT };
    try {
      [this.viewer, this.listeners] = withListeners(() => createViewer(this.canvasBox, config));
    } catch (error) {
      console.error(error);
      this.canvasBox.remove();
      throw new Error("This browser shows no WebGL, which the molecule needs; look into its settings, or try another one.");
    }
    // A graphics card that was reset, or slept, takes the picture with it: 3Dmol draws anew when its size is asked for.
    this.canvasBox.addEventListener("webglcontextlost", () => setTimeout(() => this.viewer?.resize()), true);
  }

  get context() {
    return this.viewer.getRenderer().getContext(); // none while the stage is hidden; another after a loss
  }

  // Another path of the same molecule keeps the view that the user has chosen.
  load(topology, kinds, frames) {
    const same = this.topology === topology;
    const view = same ? this.viewer.getView() : null;
    this.topology = topology;
    this.frames = frames;
    this.bounds = bounds(frames);
    this.viewer.removeAllModels();
    this.solvent = null;
    this.solute = this.addModel(topology, frames.nAtoms);
    this.chains = [...new Set(this.solute.atoms.map((atom) => atom.chain))];
    this.kinds = kinds;
    this.landscape = kinds.includes("p");
    this.addFrameOfView();
    this.applyStyles();
    if (view) this.viewer.setView(view);
    else this.lookAtAll();
  }

  addModel(pdb, nAtoms) {
    const model = this.viewer.addModel(pdb, "pdb", { keepH: true });
    const atoms = model.selectedAtoms({});
    if (atoms.length !== nAtoms) {
      throw new Error(`The molecule has ${atoms.length} atoms, its coordinates have ${nAtoms}.`);
    }
    return { model, atoms };
  }

  // Six points that no style draws: what they span is what the view holds, all frames as they are first seen. 3Dmol
  // takes the farthest point for half the height of the view, which is wider than high.
  addFrameOfView() {
    const { low, high, centre, radius } = this.bounds;
    const aspect = this.canvasBox.clientWidth / this.canvasBox.clientHeight || 1;
    const fitting = Math.max((high[1] - low[1]) / 2, (high[0] - low[0]) / 2 / aspect, NARROWEST * radius);
    const reach = fitting * 1.08 + (this.landscape ? 6 * this.particleRadius : MARGIN);
    const atoms = [0, 1, 2].flatMap((axis) =>
      [-reach, reach].map((shift) => {
        const [x, y, z] = centre.map((value, i) => (i === axis ? value + shift : value));
        return { elem: "H", x, y, z, bonds: [], bondOrder: [] };
      }),
    );
    this.frameOfView = this.viewer.addModel();
    this.frameOfView.addAtoms(atoms);
    this.frameOfView.setStyle({}, {}); // none
  }

  colour(index) {
    const palette = this.theme.dark ? ON_DARK : ON_LIGHT;
    return palette[index % palette.length];
  }

  get particleRadius() {
    return Math.max(0.045 * this.bounds.radius, 0.05);
  }

  applyStyles() {
    const ink = this.theme.dark ? { H: "#d8d8d8", C: "#9aa3ab" } : { H: "#e4e4e4", C: "#6f7780" };
    const colorscheme = { prop: "elem", map: { ...elementColors.Jmol, ...ink } };
    const radius = this.particleRadius;
    const ofChain = (atom) => this.colour(this.chains.indexOf(atom.chain));
    const styles = {
      c: { cartoon: { colorfunc: ofChain, arrows: true } },
      s: { stick: { radius: 0.15, colorscheme }, sphere: { scale: 0.24, colorscheme } },
      a: { sphere: { scale: 0.6, colorscheme } },
      p: { sphere: { radius, colorfunc: (atom) => this.colour(atom.index) } },
    };
    for (const [kind, style] of Object.entries(styles)) {
      this.solute.model.setStyle({ predicate: (atom) => this.kinds[atom.index] === kind }, style);
    }
    if (this.solvent) this.applySolventStyle();
    this.viewer.removeAllShapes();
    this.viewer.removeAllLabels();
    if (this.landscape) this.addLandscapeMarks();
  }

  // A particle alone in the void tells nothing: its trail and the axes go with it.
  addLandscapeMarks() {
    const ink = this.theme.dark ? "#c9d1d9" : "#57606a";
    const { nAtoms, stored } = this.frames;
    const step = Math.max(1, Math.ceil(stored / TRAIL_POINTS));
    const point = (frame, atom) => {
      const [x, y, z] = this.frames.values.subarray(3 * (frame * nAtoms + atom), 3 * (frame * nAtoms + atom) + 3);
      return { x, y, z };
    };
    for (let atom = 0; atom < Math.min(nAtoms, 12); atom++) {
      const trail = this.viewer.addShape({ color: this.colour(atom), wireframe: true, opacity: 0.6 });
      for (let frame = 0; frame + step < stored; frame += step) {
        trail.addLine({ start: point(frame, atom), end: point(frame + step, atom) });
      }
    }
    const { low, radius } = this.bounds;
    const away = 3 * this.particleRadius;
    const start = { x: low[0] - away, y: low[1] - away, z: low[2] - away };
    for (const axis of ["x", "y", "z"]) {
      const end = { ...start, [axis]: start[axis] + 0.45 * radius };
      this.viewer.addArrow({ start, end, radius: 0.006 * radius, radiusRatio: 3, mid: 0.85, color: ink });
      const position = { ...start, [axis]: start[axis] + 0.52 * radius };
      const style = { position, fontColor: ink, fontSize: 14, showBackground: false, alignment: "center", inFront: true };
      this.viewer.addLabel(axis, style, undefined, true);
    }
  }

  applySolventStyle() {
    const color = this.theme.dark ? "#6f9bc0" : "#7fa8cc";
    this.solvent.model.setStyle({}, { line: { color } });
    this.solvent.model.setStyle({ bonds: 0 }, { sphere: { scale: 0.3 } });
  }

  setSolvent(pdb, bytes) {
    const buffer = pdb && bytes?.byteLength ? bytes.buffer : null;
    if (buffer === (this.solvent?.buffer ?? null)) return;
    if (this.solvent) this.viewer.removeModel(this.solvent.model);
    this.solvent = null;
    if (buffer === null) return;
    const nAtoms = pdb.split("\n").filter((line) => /^(ATOM|HETATM)/.test(line)).length;
    const solvent = this.addModel(pdb, nAtoms);
    this.solvent = { ...solvent, buffer, frames: atomsAndFrames(nAtoms, bytes) };
    this.applySolventStyle();
  }

  show(frame, nFrames) {
    place(this.solute, frameValues(this.frames, frame, nFrames));
    if (this.solvent) place(this.solvent, frameValues(this.solvent.frames, frame, nFrames));
    this.viewer.render();
  }

  resetView() {
    this.lookAtAll();
    this.viewer.render();
  }

  lookAtAll() {
    this.viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    this.viewer.zoomTo({ model: this.frameOfView });
    const depth = 4 * (this.bounds.radius + 50);
    this.viewer.setSlab(-depth, depth); // nothing is cut away, not even water around it
  }

  setTheme(theme) {
    this.theme = theme;
    this.viewer.setBackgroundColor(theme.background);
    if (this.solute) {
      this.applyStyles();
      this.viewer.render();
    }
  }

  dispose() {
    for (const [target, type, listener, options] of this.listeners) target.removeEventListener(type, listener, options);
    this.viewer.divwatcher?.disconnect();
    this.viewer.intwatcher?.disconnect();
    this.viewer.clear();
    const { context } = this;
    this.canvasBox.remove();
    this.viewer = null;
    context?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

function place({ model, atoms }, values) {
  for (let i = 0; i < atoms.length; i++) {
    atoms[i].x = values[3 * i];
    atoms[i].y = values[3 * i + 1];
    atoms[i].z = values[3 * i + 2];
  }
  model.setStyle({ index: 0 }, {}, true); // adds nothing, but 3Dmol builds the model anew only after a change of style
}
