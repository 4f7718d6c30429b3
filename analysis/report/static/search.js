// The search box: a feature by its number, or words of labels.
"use strict";
(() => {
  const MOST = 8;

  /** What a text may mean: [{title, note, address}]. */
  function meanings(text, layers, table) {
    const found = numbers(text, layers);
    if (table && text.length > 1) found.push(...labels(text, table, MOST - found.length));
    if (text && !/^\d+$/.test(text) && found.length !== 1) {
      found.push({ title: `All features with '${text}'`, note: "in their labels",
        address: isae.formatAddress("features", [], { words: text }) });
    }
    return found.slice(0, MOST + 1);
  }

  /** "mixed4c 123", "mixed4c/123", "4c 123", "123". */
  function numbers(text, layers) {
    const parts = /^(.*?)[\s/:#]*(\d+)$/.exec(text);
    if (!parts) return [];
    const [, name, number] = parts;
    const low = name.trim().toLowerCase();
    return layers
      .filter((layer) => layer.name.toLowerCase().includes(low) && Number(number) < layer.features)
      .map((layer) => ({ title: `${layer.name} ${Number(number)}`, note: "feature",
        address: isae.featureAddress(layer.name, Number(number)) }));
  }

  /** Labels that hold the words, the most frequent first. */
  function labels(text, table, most) {
    const column = table.byName.has("label") ? table.get("label") : null;
    if (!column || most < 1) return [];
    const words = text.toLowerCase().split(/\s+/);
    const counts = table.counts("label");
    return column.names.map((name, at) => ({ name, count: counts[at] }))
      .filter((one) => one.name && words.every((word) => one.name.toLowerCase().includes(word)))
      .sort((a, b) => b.count - a.count).slice(0, most)
      .map((one) => ({ title: one.name, note: isae.many(one.count, "feature"),
        address: isae.formatAddress("features", [], { words: one.name }) }));
  }

  isae.startSearch = (overview) => {
    const form = document.getElementById("search");
    const field = document.getElementById("search-text");
    const list = document.getElementById("search-list");
    let found = [], at = -1, table = null;
    const names = overview.layers.map((layer) => layer.name);
    field.addEventListener("focus", () => {
      // Labels come once the reader means to search; without them numbers still work.
      isae.table(names).then((all) => { table = all; }, () => {});
    });
    const close = () => {
      list.hidden = true;
      at = -1;
      field.setAttribute("aria-expanded", "false");
      field.removeAttribute("aria-activedescendant");
    };
    const mark = () => {
      [...list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === at)));
      if (at >= 0) field.setAttribute("aria-activedescendant", "found-" + at);
      else field.removeAttribute("aria-activedescendant");
    };
    const go = (address) => {
      close();
      field.value = "";
      isae.go(address);
    };
    const show = () => {
      const text = field.value.trim();
      found = text ? meanings(text, overview.layers, table) : [];
      at = -1;
      isae.replace(list, found.map((one, place) => isae.h("li", { role: "option", id: "found-" + place,
        onpointerdown: (event) => { event.preventDefault(); go(one.address); } },
      isae.h("span", {}, one.title), isae.h("span", { class: "note" }, one.note))));
      list.hidden = !found.length;
      field.setAttribute("aria-expanded", String(found.length > 0));
      mark();
      if (text) isae.say(isae.many(found.length, "suggestion"));
    };
    field.addEventListener("input", show);
    field.addEventListener("blur", close);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        if (!list.hidden) event.preventDefault(); // the first one keeps the text
        close();
      }
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        if (list.hidden) show();
        const step = event.key === "ArrowDown" ? 1 : -1;
        const from = at < 0 && step < 0 ? 0 : at;
        if (found.length) at = (from + step + found.length) % found.length;
        mark();
        event.preventDefault();
      }
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (!text) return;
      const all = meanings(text, overview.layers, table);
      const exact = numbers(text, overview.layers);
      if (at >= 0) go(found[at].address);
      else if (exact.length === 1) go(exact[0].address);
      else if (!/^\d+$/.test(text)) go(isae.formatAddress("features", [], { words: text }));
      else if (!all.length) isae.say(`No layer of this report has a feature ${text}.`);
      else isae.say(`${isae.many(all.length, "layer")} have a feature ${text}: use the arrow keys.`);
    });
  };
})();
