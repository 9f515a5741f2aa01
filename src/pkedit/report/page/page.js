// Search, filters and folds of the answers, and the lines of a node of the pathway. The page reads without it.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const filters = byId("filters");
  if (filters) {
    const entries = [...document.querySelectorAll("details.entry")].map((element) => ({
      element,
      text: element.textContent.toLowerCase(),
      answers: [...element.querySelectorAll(".answer")].map((one) => [one.dataset.arm, one.dataset.verdict]),
    }));
    const groups = [...document.querySelectorAll("details.group")];
    const value = (id) => (byId(id) ? byId(id).value : "");

    const apply = () => {
      const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const arm = value("filter-arm"), verdict = value("filter-verdict");
      const category = value("filter-category"), attack = value("filter-attack");
      const changed = byId("filter-changed").checked;
      const active = words.length > 0 || arm || verdict || category || attack || changed;
      let shown = 0;
      for (const entry of entries) {
        const data = entry.element.dataset;
        const fits =
          words.every((word) => entry.text.includes(word)) &&
          (!category || data.category === category) &&
          (!attack || data.attack === attack) &&
          (!changed || "changed" in data) &&
          entry.answers.some(([own, said]) => (!arm || own === arm) && (!verdict || said === verdict));
        entry.element.hidden = !fits;
        shown += fits;
      }
      for (const group of groups) {
        const count = group.querySelectorAll("details.entry:not([hidden])").length;
        group.querySelector(".matching").textContent = active ? `, ${count} shown` : "";
        group.hidden = active && count === 0;
        group.open = Boolean(active) && count > 0;
      }
      byId("count").textContent = active ? `${shown} of ${entries.length} prompts` : `${entries.length} prompts`;
    };

    for (const element of filters.querySelectorAll("select, input")) element.addEventListener("input", apply);
    byId("clear").addEventListener("click", () => {
      for (const element of filters.querySelectorAll("select, input")) {
        if (element.type === "checkbox") element.checked = false;
        else element.value = "";
      }
      apply();
    });
    byId("fold").addEventListener("click", () => {
      for (const element of document.querySelectorAll("#answers details")) element.open = false;
    });
    filters.hidden = false;
    apply();
  }

  for (const graph of document.querySelectorAll("svg:has(.node)")) {
    const edges = [...graph.querySelectorAll(".edge")];
    const show = (id) => {
      graph.classList.toggle("tracing", id !== null);
      for (const edge of edges) edge.classList.toggle("own", edge.dataset.from === id || edge.dataset.to === id);
    };
    for (const node of graph.querySelectorAll(".node")) {
      for (const name of ["mouseenter", "focus"]) node.addEventListener(name, () => show(node.dataset.id));
      for (const name of ["mouseleave", "blur"]) node.addEventListener(name, () => show(null));
    }
  }
})();
