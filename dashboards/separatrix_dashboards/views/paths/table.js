// Rows of which one is chosen. New rows keep the place that was scrolled to.

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
  const fill = () => {
    head.replaceChildren(...model.get("headings").map((text) => cell("th", text)));
    const rows = model.get("rows").map((texts) => {
      const row = document.createElement("tr");
      row.dataset.row = texts[0];
      row.append(...texts.map((text) => cell("td", text)));
      return row;
    });
    body.replaceChildren(...rows);
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
