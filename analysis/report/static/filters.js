// Which rows of a table a query asks for.
//   layer=NAME  words=TEXT  is.COLUMN=NAME (several: any of them)  min.COLUMN=  max.COLUMN=
"use strict";
(() => {
  /** The parts of an address's query that choose rows, to carry them from view to view. */
  isae.filterQuery = (query) => Object.fromEntries(Object.entries(query).filter(([name]) =>
    name === "layer" || name === "words" || /^(is|min|max)\./.test(name)));

  /** The layers a query asks for: one, or all. */
  isae.layersOf = (query, layers) => {
    const asked = isae.one(query, "layer");
    return asked === null ? layers : layers.filter((name) => name === asked);
  };

  /** Each condition of a query: {key, name, test(row) | null where the column is unknown}. */
  function conditions(table, query) {
    const found = [];
    const words = (isae.one(query, "words") || "").toLowerCase().split(/\s+/).filter(Boolean)
      .slice(0, 30);
    if (words.length) found.push({ key: "words", test: wordTest(table, words) });
    const layer = isae.one(query, "layer");
    if (layer !== null && table.layers.length > 1) {
      found.push({ key: "layer", test: isTest(table, "layer", [layer]) });
    }
    for (const [key, values] of Object.entries(query)) {
      const [kind, name] = key.split(/\.(.*)/s);
      if (kind === "is" && name) found.push({ key, name, test: isTest(table, name, values) });
      if ((kind === "min" || kind === "max") && name) {
        found.push({ key, name, test: rangeTest(table, name, kind, Number(values[0])) });
      }
    }
    return found;
  }

  /** All words stand in the texts of a row, in any order. */
  function wordTest(table, words) {
    const columns = table.columns.filter((column) => column.kind === "text")
      .map((column) => table.get(column.name));
    if (!columns.length) return null;
    const hits = columns.map((column) => column.names.map((name) => {
      const low = name.toLowerCase();
      return words.reduce((bits, word, at) => bits | (low.includes(word) ? 1 << at : 0), 0);
    }));
    const all = (1 << words.length) - 1;
    return (row) => {
      let bits = 0;
      for (let at = 0; at < columns.length; at++) bits |= hits[at][columns[at].codes[row]];
      return bits === all;
    };
  }

  function isTest(table, name, values) {
    const column = table.get(name);
    if (!column || column.kind === "number") return null;
    const wanted = column.names.map((one) => values.includes(one));
    const codes = column.codes;
    return (row) => wanted[codes[row]] === true;
  }

  function rangeTest(table, name, kind, limit) {
    const column = table.get(name);
    if (!column || column.kind !== "number" || Number.isNaN(limit)) return null;
    // A limit was typed from rounded numbers; the column holds 32-bit ones.
    const values = column.values, near = Math.fround(limit);
    return kind === "min" ? (row) => values[row] >= near : (row) => values[row] <= near;
  }

  /** {mask: Uint8Array of rows (1 = asked for), count, unknown: conditions that ask nothing here}. */
  isae.matching = (table, query) => {
    const all = conditions(table, query);
    const tests = all.filter((one) => one.test).map((one) => one.test);
    const mask = new Uint8Array(table.length);
    let count = 0;
    rows: for (let row = 0; row < table.length; row++) {
      for (let at = 0; at < tests.length; at++) if (!tests[at](row)) continue rows;
      mask[row] = 1;
      count++;
    }
    return { mask, count, unknown: all.filter((one) => !one.test).map((one) => one.key) };
  };

  /** The asked-for rows in the order of a column. */
  isae.orderedRows = (table, matching, sort) => {
    const order = table.order(sort.name, sort.descending);
    const rows = new Uint32Array(matching.count);
    let at = 0;
    for (let place = 0; place < order.length; place++) {
      if (matching.mask[order[place]]) rows[at++] = order[place];
    }
    return rows;
  };

  /** "-rate" as {name: "rate", descending: true}; rows as they stand without it. */
  isae.sortOf = (query) => {
    const text = isae.one(query, "sort") || "layer";
    return { name: text.replace(/^-/, ""), descending: text.startsWith("-") };
  };
})();
