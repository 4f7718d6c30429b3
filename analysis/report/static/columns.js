// The columns of every feature of one or more layers, one below the other, as typed arrays.
"use strict";
(() => {
  const NONE = 0xFFFFFFFF; // the code of "no category"
  // What a table shows first, where the report does not say so itself.
  const USUAL = ["label", "taxonomy", "label_score", "label_chance", "branch", "lies_in", "concentration",
    "q_branch", "rate", "max"];

  /** A text column as codes of its distinct texts: searched and sorted by these alone. */
  function encode(values) {
    const codes = new Uint32Array(values.length);
    const seen = new Map();
    values.forEach((value, row) => {
      const text = value ?? "";
      let code = seen.get(text);
      if (code === undefined) seen.set(text, code = seen.size);
      codes[row] = code;
    });
    return { codes, names: [...seen.keys()] };
  }

  class Table {
    /** parts: [{layer, features, columns}], as the data files of the layers give them. */
    constructor(parts) {
      this.layers = parts.map((part) => part.layer);
      this.parts = parts;
      this.starts = [];
      this.length = 0;
      for (const part of parts) {
        this.starts.push(this.length);
        this.length += part.features;
      }
      this.columns = this.list();
      this.byName = new Map(this.columns.map((column) => [column.name, column]));
      this.orders = new Map();
    }

    /** What columns there are, without their values, in the order of their first layer. */
    list() {
      const found = new Map([
        ["layer", { name: "layer", title: "layer", kind: "category", ordered: true, shown: true }],
        ["feature", { name: "feature", title: "number", kind: "number", shown: true,
          help: "the feature's number in its dictionary" }],
      ]);
      for (const part of this.parts) {
        for (const { values, codes, names, ...column } of part.columns) {
          if (!found.has(column.name)) found.set(column.name, { title: column.name, ...column });
        }
      }
      return [...found.values()];
    }

    /** The columns shown until a reader chooses others. */
    usual() {
      const own = this.columns.filter((column) => column.name !== "layer" && column.name !== "feature");
      const marked = own.filter((column) => column.shown);
      const known = own.filter((column) => USUAL.includes(column.name));
      const shown = [marked, known, own.slice(0, 8)].find((list) => list.length) ?? [];
      return ["layer", "feature", ...shown.map((one) => one.name)];
    }

    layerOf(row) {
      let at = this.starts.length - 1;
      while (this.starts[at] > row) at--;
      return this.layers[at];
    }

    featureOf(row) {
      let at = this.starts.length - 1;
      while (this.starts[at] > row) at--;
      return row - this.starts[at];
    }

    rowOf(layer, feature) {
      const at = this.layers.indexOf(layer);
      return at >= 0 && feature < this.parts[at].features ? this.starts[at] + feature : -1;
    }

    /** A column with its values: `values` of numbers, `codes` and `names` of the others. */
    get(name) {
      const column = this.byName.get(name);
      if (!column) return null;
      if (!column.values && !column.codes) {
        if (name === "layer") this.fillLayer(column);
        else if (column.kind === "number") this.fillNumbers(column);
        else if (column.kind === "category") this.fillCategories(column);
        else Object.assign(column, encode(this.texts(column)));
      }
      return column;
    }

    own(part, column) {
      return part.columns.find((one) => one.name === column.name && one.kind === column.kind);
    }

    fillLayer(column) {
      column.codes = new Uint16Array(this.length);
      column.names = this.layers;
      this.parts.forEach((part, at) =>
        column.codes.fill(at, this.starts[at], this.starts[at] + part.features));
    }

    fillNumbers(column) {
      column.values = new Float32Array(this.length).fill(NaN);
      this.parts.forEach((part, at) => {
        if (column.name === "feature") {
          for (let i = 0; i < part.features; i++) column.values[this.starts[at] + i] = i;
          return;
        }
        const own = this.own(part, column);
        if (own) column.values.set(isae.float32(own.values), this.starts[at]);
      });
    }

    /** Layers may list other names, or list them otherwise: codes of all layers mean the same. */
    fillCategories(column) {
      column.codes = new Uint32Array(this.length).fill(NONE); // all layers' names may be many
      const all = new Map();
      this.parts.forEach((part, at) => {
        const own = this.own(part, column);
        if (!own) return;
        const turned = own.names.map((name) => {
          if (!all.has(name)) all.set(name, all.size);
          return all.get(name);
        });
        const codes = isae.uint16(own.codes);
        for (let i = 0; i < codes.length; i++) {
          column.codes[this.starts[at] + i] = turned[codes[i]] ?? NONE;
        }
      });
      column.names = [...all.keys()];
    }

    texts(column) {
      return this.parts.flatMap((part) =>
        this.own(part, column)?.values ?? new Array(part.features).fill(""));
    }

    /** What a cell says: a number, or a text; null where there is nothing. */
    cell(name, row) {
      const column = this.get(name);
      if (!column) return null;
      if (column.kind === "number") {
        return Number.isNaN(column.values[row]) ? null : column.values[row];
      }
      return column.names[column.codes[row]] || null;
    }

    /** How many rows each name of a category has. */
    counts(name) {
      const column = this.get(name);
      if (!column.counts) {
        column.counts = new Uint32Array(column.names.length);
        for (const code of column.codes) if (code < column.counts.length) column.counts[code]++;
      }
      return column.counts;
    }

    /** [smallest, largest] of a column of numbers; null where it has none. */
    range(name) {
      const column = this.get(name);
      if (column.range === undefined) {
        let low = Infinity, high = -Infinity;
        for (const value of column.values) {
          if (value < low) low = value;
          if (value > high) high = value;
        }
        column.range = low <= high ? [low, high] : null;
      }
      return column.range;
    }

    /** Every row in the order of a column; equal ones by row, those without a value last. */
    order(name, descending) {
      const key = (descending ? "-" : "") + name;
      if (!this.orders.has(key)) this.orders.set(key, this.sort(name, descending));
      return this.orders.get(key);
    }

    sort(name, descending) {
      const column = this.get(name);
      const rows = Uint32Array.from({ length: this.length }, (_, row) => row);
      if (!column) return rows;
      const keys = column.kind === "number" ? column.values : ranks(column);
      const turn = descending ? -1 : 1;
      const none = (value) => Number.isNaN(value);
      return rows.sort((a, b) => {
        const left = keys[a], right = keys[b];
        if (left === right) return a - b;
        if (none(left) || none(right)) return none(left) - none(right) || a - b;
        return left < right ? -turn : turn;
      });
    }
  }

  /** The place of each row's name among all names, ordered; NaN where there is none. */
  function ranks(column) {
    const collator = new Intl.Collator("en", { numeric: true });
    const order = column.names.map((_, at) => at);
    if (!column.ordered) {
      order.sort((a, b) => collator.compare(column.names[a], column.names[b]) || a - b);
    }
    const place = new Float64Array(column.names.length);
    order.forEach((code, at) => { place[code] = column.names[code] === "" ? NaN : at; });
    return Float64Array.from(column.codes, (code) => place[code] ?? NaN);
  }

  const tables = new Map();

  /** The table of these layers. Rejects with words where a file is missing. */
  isae.table = (layers) => {
    const key = JSON.stringify(layers);
    if (!tables.has(key)) {
      const read = Promise.all(layers.map((layer) => isae.load("columns/" + layer)))
        .then((parts) => new Table(parts.map((part, at) => ({ layer: layers[at], ...part }))));
      tables.set(key, read.catch((error) => {
        tables.delete(key);
        throw error;
      }));
    }
    return tables.get(key);
  };
})();
