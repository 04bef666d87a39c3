"""Small components of the pages that Panel does not have; each is a few lines in the browser and asks no other host."""

from __future__ import annotations

import param
from panel.custom import AnyWidgetComponent

from separatrix_dashboards.theme import CSS
from separatrix_dashboards.words import escaped

CHOICE_CSS = """
.choice { display: block; width: 100%; }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 205px), 1fr)); }
label { position: relative; display: flex; flex-direction: column; border: 1px solid var(--sx-line);
  border-radius: 12px; overflow: hidden; cursor: pointer; background: var(--sx-paper);
  transition: border-color 0.15s, box-shadow 0.15s; }
label:hover { border-color: var(--sx-accent); }
label:has(input:checked) { border-color: var(--sx-accent); box-shadow: inset 0 0 0 1px var(--sx-accent); }
label:has(input:focus-visible) { outline: 2px solid var(--sx-accent); outline-offset: 2px; }
input { position: absolute; right: 10px; top: 10px; width: 17px; height: 17px; margin: 0;
  accent-color: var(--sx-accent); cursor: pointer; }
.picture { aspect-ratio: 2.1; background: var(--sx-faint); }
.picture svg { width: 100%; height: 100%; display: block; }
.title { font-weight: 600; font-size: 14.5px; padding: 9px 12px 0; }
.description { color: var(--sx-dim); font-size: 12.5px; line-height: 1.4; padding: 3px 12px 11px; }
"""


class Choice(AnyWidgetComponent):
    """Pictures with a title and a description, of which one is chosen."""

    options = param.List(item_type=dict, doc="Each with name, title, description (text) and picture (SVG of ours).")
    value = param.String(doc="Name of the chosen one.")
    label = param.String(doc="What is chosen, for those who cannot see it.")

    _stylesheets = [CSS, CHOICE_CSS]  # noqa: RUF012 - Panel's own way

    def first_html(self) -> str:
        """Return the choice as HTML, for the moment until the browser has made the page."""
        labels = "".join(
            f'<label><div class="picture">{option["picture"]}</div><div class="title">{escaped(option["title"])}</div>'
            f'<div class="description">{escaped(option["description"])}</div></label>'
            for option in self.options
        )
        return f"<fieldset>{labels}</fieldset>"

    _esm = """
    function render({ model, el }) {
      const group = document.createElement("fieldset")
      const name = "choice-" + Math.random().toString(36).slice(2)
      const draw = () => {
        group.setAttribute("aria-label", model.get("label"))
        group.replaceChildren(...model.get("options").map((option) => {
          const label = document.createElement("label")
          label.innerHTML = '<div class="picture"></div><div class="title"></div><div class="description"></div>' +
            '<input type="radio">'
          label.querySelector(".picture").innerHTML = option.picture
          label.querySelector(".title").textContent = option.title
          label.querySelector(".description").textContent = option.description
          const input = label.querySelector("input")
          input.name = name
          input.value = option.name
          input.addEventListener("change", () => { model.set("value", option.name); model.save_changes() })
          return label
        }))
        mark()
      }
      const mark = () => {
        for (const input of group.querySelectorAll("input")) input.checked = input.value === model.get("value")
      }
      model.on("change:options", draw)
      model.on("change:value", mark)
      draw()
      el.append(group)
      return () => {}
    }
    export default { render }
    """


class Redirect(AnyWidgetComponent):
    """Takes the browser to another page when its address is set; relative addresses work behind any proxy."""

    address = param.String()

    _esm = """
    function render({ model }) {
      model.on("change:address", () => { if (model.get("address")) window.location.assign(model.get("address")) })
      return () => {}
    }
    export default { render }
    """
