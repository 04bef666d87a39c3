// Rows of which one is chosen.

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "sx-scroll";
  box.tabIndex = 0;
  box.innerHTML = '<table class="sx-table" role="grid"><thead><tr></tr></thead><tbody></tbody></table>';
  const body = box.querySelector("tbody");
  const head = box.querySelector("thead tr");
  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const mark = () => {
    const chosen = String(model.get("chosen"));
    for (const row of body.rows) row.setAttribute("aria-selected", String(row.dataset.row === chosen));
  };
  // Rows that stay keep their element: a tap that began before an update ends on what it began on.
  const fill = () => {
    head.replaceChildren(...model.get("headings").map((text) => cell("th", text)));
    const known = new Map(Array.from(body.rows, (row) => [row.dataset.row, row]));
    let next = body.firstChild;
    for (const line of model.get("rows").split("\n")) {
      if (line === "") continue;
      const texts = line.split("\t");
      const row = known.get(texts[0]) ?? document.createElement("tr");
      known.delete(texts[0]);
      row.dataset.row = texts[0];
      texts.forEach((text, column) => {
        const place = row.cells[column] ?? row.appendChild(cell("td", ""));
        if (place.textContent !== text) place.textContent = text;
      });
      if (row === next) next = row.nextSibling;
      else body.insertBefore(row, next);
    }
    for (const row of known.values()) row.remove();
    mark();
  };
  const choose = (row) => {
    if (!row) return;
    model.set("chosen", Number(row.dataset.row));
    model.save_changes();
    row.scrollIntoView({ block: "nearest" });
  };
  box.addEventListener("click", (event) => choose(event.target.closest("tbody tr")));
  box.addEventListener("keydown", (event) => {
    const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation(); // a notebook has commands on the same keys
    choose(body.querySelector("[aria-selected=true]")?.[next]);
  });
  model.on("change:rows", fill);
  model.on("change:chosen", mark);
  fill();
  el.append(box);
  return () => {
    model.off("change:rows", fill);
    model.off("change:chosen", mark);
  };
}

export default { render };
