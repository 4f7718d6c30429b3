// The controls that choose rows, beside the table and the map, and the list of what is chosen.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);

  /** A panel of controls over a table; `sync(query)` makes them show what an address says. */
  isae.filterPanel = (layers) => {
    const layer = layerSelect(layers);
    const words = wordField();
    const groups = h("div", { class: "groups" });
    const element = h("details", { class: "filters" },
      h("summary", {}, "Filters"),
      h("div", { class: "field" }, h("label", { for: "filter-layer" }, "Layer"), layer),
      h("div", { class: "field" }, h("label", { for: "filter-words" }, "Words in labels"), words),
      groups);
    element.open = matchMedia("(min-width: 62rem)").matches;
    let built = null;
    return {
      element,
      sync(table, query) {
        layer.value = isae.one(query, "layer") ?? "";
        if (document.activeElement !== words) words.value = isae.one(query, "words") ?? "";
        if (built !== table) isae.replace(groups, columnGroups(table, query));
        built = table;
        for (const details of groups.children) details.sync?.(query);
      },
    };
  };

  function layerSelect(layers) {
    return h("select", {
      id: "filter-layer",
      onchange: (event) => isae.goWith({ layer: event.target.value || null }),
    }, h("option", { value: "" }, "All layers"),
      layers.map((name) => {
        const option = h("option", {}, name);
        option.value = name;
        return option;
      }));
  }

  /** Typed text goes to the address once typing rests, unless the reader has left the view. */
  function typed(milliseconds, key) {
    const go = isae.later(milliseconds, (value, view) => {
      if (isae.parseAddress(location.hash).view === view) isae.goWith({ [key]: value }, true);
    });
    return (value) => go(value || null, isae.parseAddress(location.hash).view);
  }

  function wordField() {
    const go = typed(120, "words");
    return h("input", {
      id: "filter-words", type: "search", spellcheck: "false",
      oninput: (event) => go(event.target.value),
    });
  }

  /** One part of the panel for each category, and one for each group of number columns. */
  function columnGroups(table, query) {
    const parts = [];
    const numbers = new Map();
    for (const column of table.columns) {
      if (column.kind === "category" && column.name !== "layer") parts.push(names(table, column, query));
      if (column.kind !== "number" || column.name === "feature") continue;
      const group = column.group || "Numbers";
      if (!numbers.has(group)) numbers.set(group, []);
      numbers.get(group).push(column);
    }
    for (const [group, columns] of numbers) parts.push(ranges(table, group, columns, query));
    return parts;
  }

  /** A part that is filled when it is first opened: a layer may have a hundred columns. */
  function part(title, help, opened, build) {
    const body = h("div", { class: "choices" });
    const element = h("details", { class: "group" }, h("summary", { title: help }, title), body);
    let syncs = null, last = null;
    const show = () => {
      if (!element.open) return;
      if (!syncs) syncs = build(body);
      syncs(last);
    };
    element.addEventListener("toggle", show);
    element.sync = (query) => {
      last = query;
      show();
    };
    element.open = opened;
    return element;
  }

  function names(table, column, query) {
    const key = "is." + column.name;
    return part(column.title, column.help, key in query, (body) => {
      const counts = table.counts(column.name);
      const order = table.get(column.name).names.map((_, at) => at);
      if (!column.ordered) order.sort((a, b) => counts[b] - counts[a] || a - b);
      const boxes = order.map((at) => nameBox(key, table.get(column.name).names[at], counts[at]));
      body.append(h("fieldset", {}, h("legend", { class: "unseen" }, column.title), boxes));
      return (now) => {
        for (const box of boxes) box.control.checked = (now[key] || []).includes(box.control.value);
      };
    });
  }

  function nameBox(key, name, count) {
    const control = h("input", {
      type: "checkbox", value: name,
      onchange: (event) => {
        const chosen = new Set(isae.parseAddress(location.hash).query[key]);
        if (event.target.checked) chosen.add(name);
        else chosen.delete(name);
        isae.goWith({ [key]: [...chosen] });
      },
    });
    return h("label", { class: "choice" }, control, h("span", {}, name || "(none)"),
      h("span", { class: "count" }, isae.count(count)));
  }

  function ranges(table, group, columns, query) {
    const used = columns.some((one) => `min.${one.name}` in query || `max.${one.name}` in query);
    return part(group, null, used, (body) => {
      const rows = columns.map((column) => rangeFields(table, column));
      body.append(...rows);
      return (now) => rows.forEach((row) => row.sync(now));
    });
  }

  function rangeFields(table, column) {
    const range = table.range(column.name);
    const fields = ["min", "max"].map((kind, at) => {
      const key = `${kind}.${column.name}`;
      const go = typed(200, key);
      return h("input", {
        type: "text", inputmode: "decimal", class: "limit", "data-key": key,
        placeholder: range ? isae.number(range[at]) : "–", disabled: range === null,
        "aria-label": `${column.title}, ${at ? "largest" : "smallest"}`,
        oninput: (event) => limitTyped(event.target, go),
      });
    });
    const element = h("div", { class: "range", role: "group", "aria-label": column.title },
      h("span", { class: "range-title", title: column.help }, column.title),
      fields[0], h("span", { "aria-hidden": "true" }, "–"), fields[1]);
    element.sync = (query) => fields.forEach((field) => {
      if (document.activeElement !== field) field.value = isae.one(query, field.dataset.key) ?? "";
    });
    return element;
  }

  function limitTyped(field, go) {
    const text = field.value.trim().replace(",", ".").replace("−", "-");
    const good = text === "" || Number.isFinite(Number(text));
    field.setAttribute("aria-invalid", String(!good));
    field.title = good ? "" : "This is no number.";
    if (good) go(text);
  }

  /** What is chosen, each with a button that takes it away. */
  isae.filterChips = (table, query, unknown) => {
    const chips = [];
    for (const [key, values] of Object.entries(isae.filterQuery(query))) {
      const [kind, name] = key.split(/\.(.*)/s);
      const title = table.byName.get(name)?.title ?? name;
      const text = {
        layer: () => `layer ${values[0]}`,
        words: () => `words: ${values[0]}`,
        is: () => `${title}: ${values.join(" or ")}`,
        min: () => `${title} ≥ ${values[0]}`,
        max: () => `${title} ≤ ${values[0]}`,
      }[kind]();
      const odd = unknown.includes(key);
      chips.push(h("li", {}, h("button", {
        type: "button", class: odd ? "chip odd" : "chip", "data-key": key,
        title: odd ? "No feature shown here has this column: it filters nothing." : null,
        onclick: () => isae.goWith({ [key]: null }),
      }, text, odd ? " (filters nothing here)" : "",
        h("span", { "aria-hidden": "true" }, " ×"),
        h("span", { class: "unseen" }, ", remove this filter"))));
    }
    return chips.length ? h("ul", { class: "chips", "aria-label": "Filters in use" }, chips) : null;
  };
})();
