// What the colours of the map mean, and the colour of every point.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);

  /**
   * Colours of the rows by a column: {rgb: Uint8Array [rows x 3], element: the legend}.
   * Names of a legend are buttons that choose the features with this name.
   */
  isae.colouring = (table, name, query) => {
    const column = table.get(name);
    return column.kind === "number" ? byNumber(table, column) : byName(table, column, query);
  };

  function byName(table, column, query) {
    const counts = table.counts(column.name);
    const colours = isae.categoryColours(column.names, counts, column.ordered);
    const parts = [...colours, isae.restColour()].map(isae.rgb);
    const rgb = new Uint8Array(3 * table.length);
    for (let row = 0; row < table.length; row++) {
      const code = column.codes[row];
      rgb.set(parts[code < colours.length ? code : colours.length], 3 * row);
    }
    const order = column.names.map((_, at) => at);
    if (!column.ordered) order.sort((a, b) => counts[b] - counts[a] || a - b);
    const key = column.name === "layer" ? "layer" : "is." + column.name;
    const chosen = query[key] || [];
    const items = order.map((at) => h("li", {}, h("button", {
      type: "button", class: "key", "aria-pressed": String(chosen.includes(column.names[at])),
      onclick: () => choose(key, column.names[at], chosen),
    }, swatch(colours[at]), h("span", { class: "key-name" }, column.names[at] || "(none)"),
      h("span", { class: "count" }, isae.count(counts[at])))));
    const without = table.length - counts.reduce((sum, one) => sum + one, 0);
    if (without) {
      items.push(h("li", { class: "key" }, swatch(isae.restColour()), "not known",
        h("span", { class: "count" }, isae.count(without))));
    }
    const grey = colours.filter((colour) => colour === isae.restColour()).length;
    const note = grey > 1
      ? h("p", { class: "note" }, "Grey stands for several names; choose one to see it alone.") : null;
    return { rgb, element: h("div", {}, h("ul", { class: "keys" }, items), note) };
  }

  function choose(key, name, chosen) {
    const others = chosen.filter((one) => one !== name);
    const next = others.length < chosen.length ? others : [...others, name];
    isae.goWith({ [key]: key === "layer" ? next.slice(-1) : next });
  }

  function swatch(colour) {
    const box = h("span", { class: "swatch", "aria-hidden": "true" });
    box.style.background = colour;
    return box;
  }

  /**
   * From the 2 % to the 98 % quantile of rising numbers. Logarithmic, and of the positive ones,
   * where none is negative and the two are 100 times apart; zeros then have the lowest colour.
   */
  function span98(values) {
    const at = (list, part) => list[Math.round(part * (list.length - 1))];
    const positive = values.subarray(values.findIndex((value) => value > 0));
    const log = values[0] >= 0 && positive[0] > 0 && at(positive, 0.98) / at(positive, 0.02) > 100;
    const list = log ? positive : values;
    return { low: at(list, 0.02), high: at(list, 0.98), log };
  }

  function byNumber(table, column) {
    const values = column.values.filter((value) => !Number.isNaN(value)).sort();
    const rgb = new Uint8Array(3 * table.length);
    const rest = isae.rgb(isae.restColour());
    if (!values.length) {
      for (let row = 0; row < table.length; row++) rgb.set(rest, 3 * row);
      return { rgb, element: isae.absent("No feature has a value here.") };
    }
    const { low, high, log } = span98(values);
    const turn = log ? Math.log : (value) => value;
    const span = turn(high) - turn(low) || 1;
    const scale = Array.from({ length: 256 }, (_, at) => isae.rgb(isae.scaleColour(at / 255)));
    for (let row = 0; row < table.length; row++) {
      const value = column.values[row];
      const part = value > 0 || !log ? (turn(value) - turn(low)) / span : 0;
      rgb.set(Number.isNaN(value) ? rest
        : scale[Math.round(255 * Math.min(1, Math.max(0, part)))], 3 * row);
    }
    return { rgb, element: ramp(column, low, high, log, table.length - values.length) };
  }

  function ramp(column, low, high, log, without) {
    const bar = h("div", { class: "ramp", "aria-hidden": "true" });
    const stops = Array.from({ length: 11 }, (_, at) => isae.scaleColour(at / 10));
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const middle = log ? Math.sqrt(low * high) : (low + high) / 2;
    return h("div", {}, bar,
      h("p", { class: "ramp-ends" }, h("span", {}, "≤ " + isae.number(low)),
        h("span", {}, isae.number(middle)), h("span", {}, "≥ " + isae.number(high))),
      h("p", { class: "note" }, column.help ? column.help.replace(/\.?$/, ". ") : "",
        `Colours run from the 2 % to the 98 % quantile${log ? ", logarithmically" : ""}.`,
        without ? ` Grey: ${isae.many(without, "feature")} without a value.` : ""));
  }
})();
