// The stage takes the colour of the surface it lies on, whatever page or notebook that belongs to.

function numbers(colour) {
  const match = /^rgba?\(([\d.]+),\s*([\d.]+),\s*([\d.]+)(?:,\s*([\d.]+))?\)$/.exec(colour);
  return match && { rgb: match.slice(1, 4).map(Number), alpha: match[4] === undefined ? 1 : Number(match[4]) };
}

function lightness([red, green, blue]) {
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
}

function surface(element) {
  let node = element;
  while (node) {
    if (node instanceof Element) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour && colour.alpha > 0.9) return colour.rgb;
    }
    node = node.assignedSlot ?? node.parentNode ?? node.host;
  }
  return null;
}

function themeOf(element) {
  const text = numbers(getComputedStyle(element).color)?.rgb ?? [0, 0, 0];
  const background = surface(element) ?? (lightness(text) > 0.5 ? [18, 18, 18] : [255, 255, 255]);
  const hex = background.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("");
  return { background: `#${hex}`, dark: lightness(background) < 0.5 };
}

// Pages tell a new theme in their own ways. Most change the text colour that is inherited: the style sheet gives that a
// short transition, whose end is an event. Notebooks hide everything meanwhile, when nothing has transitions, but say it
// on the body. What was hidden when it happened calls look() itself once it is seen.
export function followTheme(element, apply) {
  let last = null;
  let timer = null;
  const look = () => {
    const now = themeOf(element);
    if (now.background !== last?.background) apply(now);
    last = now;
    return now;
  };
  const changed = () => {
    look();
    clearTimeout(timer);
    timer = setTimeout(look, 500); // surfaces fade more slowly than texts
  };
  const ended = (event) => {
    if (event.target === element && event.propertyName === "color") changed();
  };
  const observer = new MutationObserver(changed);
  for (const node of [document.documentElement, document.body]) observer.observe(node, { attributes: true });
  element.addEventListener("transitionend", ended);
  const dispose = () => {
    clearTimeout(timer);
    observer.disconnect();
    element.removeEventListener("transitionend", ended);
  };
  return { look, dispose };
}
