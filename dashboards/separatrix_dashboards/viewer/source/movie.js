// Which frame is shown when. Time runs by the clock: a slow machine skips frames rather than slowing the movement.

const FRAMES_PER_SECOND = 20;
const LONGEST = 15; // s that a path takes at most, at speed 1
const SMOOTHEST = 1000 / 30; // ms between two pictures at least
const HOLD = 0.5; // s that the last frame stays before the path starts anew

export class Movie {
  constructor(element, { draw, seen, stopped }) {
    this.element = element;
    this.drawFrame = draw;
    this.stopped = stopped;
    this.cost = 0; // ms of the main thread for the last frame
    this.nFrames = 0;
    this.frame = 0;
    this.speed = 1;
    this.loop = true;
    this.playing = false;
    this.timer = null;
    this.paint = null;
    this.visible = true;
    this.wake = () => {
      this.restart();
      this.schedule(0);
    };
    document.addEventListener("visibilitychange", this.wake);
    this.observer = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      if (this.visible) seen();
      this.wake();
    });
    this.observer.observe(element);
  }

  setFrames(nFrames) {
    this.nFrames = nFrames;
    this.frame = 0;
  }

  setSpeed(speed) {
    this.speed = speed;
    this.restart();
  }

  get framesPerSecond() {
    return this.speed * Math.max(FRAMES_PER_SECOND, this.nFrames / LONGEST);
  }

  show(frame) {
    if (this.nFrames === 0) return;
    this.frame = Math.min(Math.max(Math.round(frame), 0), this.nFrames - 1);
    this.restart();
    this.draw();
  }

  draw() {
    const start = performance.now();
    this.drawFrame(this.frame);
    this.cost = performance.now() - start;
    this.element.dataset.frame = this.frame;
  }

  play() {
    if (this.nFrames < 2) return;
    this.playing = true;
    if (this.frame === this.nFrames - 1) this.show(0);
    this.wake();
  }

  stop() {
    this.playing = false;
    clearTimeout(this.timer);
    cancelAnimationFrame(this.paint);
    this.timer = this.paint = null;
  }

  restart() {
    this.origin = { time: performance.now(), frame: this.frame };
  }

  schedule(delay) {
    if (!this.playing || this.timer !== null || this.paint !== null) return;
    if (document.hidden || !this.visible) return; // woken when it is seen again
    this.timer = setTimeout(() => this.tick(), delay);
  }

  tick() {
    this.timer = null;
    if (!this.playing || document.hidden || !this.visible) return;
    const last = this.nFrames - 1;
    const elapsed = (performance.now() - this.origin.time) / 1000;
    const now = Math.floor(this.origin.frame + elapsed * this.framesPerSecond);
    let frame = Math.min(now, last);
    if (now > last + HOLD * this.framesPerSecond && this.loop) {
      frame = 0;
      this.origin = { time: performance.now(), frame: 0 };
    }
    if (frame !== this.frame) {
      this.frame = frame;
      this.draw();
    }
    if (frame === last && !this.loop) {
      this.stopped();
      return;
    }
    this.pace();
  }

  // The next frame waits until this one is on the screen. What the main thread did for it counts from drawing to the
  // end of painting, which without a graphics card is most of it; twice that time is left to the rest of the page.
  pace() {
    this.paint = requestAnimationFrame(() => {
      const start = performance.now();
      this.paint = null;
      this.timer = setTimeout(() => {
        this.timer = null;
        this.cost += performance.now() - start;
        this.element.dataset.cost = this.cost.toFixed(1);
        const interval = Math.max(1000 / this.framesPerSecond, SMOOTHEST);
        this.schedule(Math.max(interval - this.cost, 2 * this.cost));
      });
    });
  }

  dispose() {
    this.stop();
    document.removeEventListener("visibilitychange", this.wake);
    this.observer.disconnect();
  }
}
